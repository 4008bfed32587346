package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/races"
)

// The push consumer of RocketMQ's library beside the driver's own consumption, case by case:
// docs/rocketmq-consumption.md holds the table that this prints and what was decided on it.
//
//	make consumption                      all cases on both backends, some 12 minutes
//	go test -run TestConsumption ./bench  ours alone, and what can be told at once
//
// What the driver promises must hold. Of the library nothing is asserted.

const consumptionVariable = "TURNOUT_CONSUMPTION"

// outcome is what one consumer did in one case.
type outcome struct {
	text string
	met  bool
}

// trial is one case. timed: its outcome is a time, or needs some.
type trial struct {
	test, name, wanted string
	timed              bool
	play               func(*consumptionStage) map[string]outcome
}

var trials = []trial{
	{"BrokerReturns", "goes on when a broker is back", "all queues are read again within 5 s", true, (*consumptionStage).brokerReturns},
	{"Stop", "Stop waits for listeners", "none at work, no result lost", false, (*consumptionStage).stopWaits},
	{"Commits", "commits are exact", "within 1 s", true, (*consumptionStage).commits},
	{"Kill", "kill -9 a second after the last message", "none delivered again", true, (*consumptionStage).killed},
	{"Begin", "begins at an explicit offset of each queue", "none before it, none left out", false, (*consumptionStage).begins},
	{"End", "stops at an offset of each queue, ordered", "none beyond it, the position is there", false, (*consumptionStage).stopsAt},
	{"Pulls", "tells when a pull was answered (R29)", "not ready while the broker stands still", true, (*consumptionStage).tellsOfPulls},
	{"Left", "left in the process by one that has stopped", "nothing", true, (*consumptionStage).leaves},
	{"Races", "race detector, with a restart and a member that comes and goes", "no report", true, (*consumptionStage).races},
}

func TestConsumption(t *testing.T) {
	all := os.Getenv(consumptionVariable) != ""
	testenv.Each(t, testenv.Spec{RocketMQ: []string{consumptionCluster}}, func(t *testing.T, e *testenv.Env) {
		s := &consumptionStage{e: e, binary: os.Args[0], kinds: []string{ours}}
		if all {
			s.kinds = []string{theLibrary, ours}
		}
		table := []string{"", "| case | wanted | the library's push consumer | ours |", "| --- | --- | --- | --- |"}
		for _, c := range trials {
			if c.timed && !all {
				continue
			}
			t.Run(c.test, func(t *testing.T) {
				s.open(t)
				got := c.play(s)
				cell := func(kind string) string {
					if got[kind].met {
						return got[kind].text
					}
					return "**no**: " + got[kind].text
				}
				table = append(table, fmt.Sprintf("| %s | %s | %s | %s |", c.name, c.wanted, cell(theLibrary), cell(ours)))
				require.True(t, got[ours].met, "%s: %s", c.wanted, got[ours].text)
			})
		}
		if all {
			t.Log(strings.Join(table, "\n"))
		}
	})
}

const (
	consumptionCluster = "rocketmq-a"
	queues             = 4
	patience           = 2 * time.Minute
)

// consumptionStage is a cluster and, for each case, a topic of four queues. Both consumers meet the same messages and faults.
type consumptionStage struct {
	e      *testenv.Env
	kinds  []string
	binary string // that the consumers run
	names  int

	t     *testing.T
	c     broker.Cluster
	topic string
}

// open begins a case.
func (s *consumptionStage) open(t *testing.T) {
	s.names++
	s.t, s.topic = t, fmt.Sprintf("consumption-%d", s.names)
	c, err := rocketmq.Open(t.Context(), broker.Config{Name: consumptionCluster, Kind: broker.RocketMQ, Addresses: s.e.Addresses(consumptionCluster), ClientID: "consumption"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	s.c = c
	s.until("the topic is there", func() bool {
		return c.CreateTopic(t.Context(), s.topic, broker.TopicSpec{Partitions: queues}) == nil
	})
}

func (s *consumptionStage) until(what string, ok func() bool) {
	s.t.Helper()
	require.Eventually(s.t, ok, patience, 5*time.Millisecond, what)
}

// soon is until for what may never be; it gives up after a few seconds.
func (s *consumptionStage) soon(ok func() bool) {
	for deadline := time.Now().Add(5 * time.Second); !ok() && time.Now().Before(deadline); {
		s.wait(10 * time.Millisecond)
	}
}

// wait lets a time pass that belongs to the case.
func (s *consumptionStage) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.t.Context().Done():
	}
}

// queueEnds are the ends of all queues.
func (s *consumptionStage) queueEnds() broker.Offsets {
	s.t.Helper()
	ends, err := s.c.EndOffsets(s.t.Context(), s.topic)
	require.NoError(s.t, err)
	require.Len(s.t, ends, queues)
	return ends
}

// send stores at least n messages in each queue, repeats what fails, and returns where all of them are.
func (s *consumptionStage) send(n int) (at []place) {
	s.t.Helper()
	stored := map[string]int{}
	s.until("messages are stored", func() bool { // without a key they go to one queue after the other
		done := make(chan error, 1)
		s.c.Send(s.t.Context(), s.topic, &broker.Envelope{Message: broker.Message{Body: []byte("x")}}, func(r broker.Receipt, err error) {
			if err == nil {
				at = append(at, place{r.Partition, r.Offset})
				stored[r.Partition]++
			}
			done <- err
		})
		if <-done != nil {
			return false
		}
		for _, m := range stored {
			if m < n {
				return false
			}
		}
		return len(stored) == queues
	})
	return at
}

func (s *consumptionStage) positions(group string) broker.Offsets {
	s.t.Helper()
	positions, err := s.c.Positions(s.t.Context(), group, s.topic)
	require.NoError(s.t, err)
	return positions
}

// place is where a message is.
type place struct {
	queue  string
	offset int64
}

// process is one consumer.
type process struct {
	s    *consumptionStage
	kind string
	cmd  *exec.Cmd
	in   io.WriteCloser
	stop func() // waits for its end

	complaints strings.Builder // what it wrote to standard error; to be read after stop

	mu  sync.Mutex
	all []said
}

// start starts a consumer of the stage's topic; its group is the topic's and the kind's, unless c says another.
func (s *consumptionStage) start(kind string, c consumption) *process {
	s.t.Helper()
	c.Kind, c.NameServers, c.Cluster, c.Topic = kind, s.e.Addresses(consumptionCluster), consumptionCluster, s.topic
	c.Group = s.group(kind) + c.Group
	text, err := json.Marshal(c)
	require.NoError(s.t, err)
	p := &process{s: s, kind: kind, cmd: exec.Command(s.binary)}
	p.cmd.Env = append(os.Environ(), consumptionChild+"="+string(text), "ROCKETMQ_GO_LOG_LEVEL=fatal", races.Environment)
	p.in, err = p.cmd.StdinPipe()
	require.NoError(s.t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(s.t, err)
	p.cmd.Stderr = &p.complaints
	require.NoError(s.t, p.cmd.Start())
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var one said
			if json.Unmarshal(lines.Bytes(), &one) == nil { // the library prints, too
				p.mu.Lock()
				p.all = append(p.all, one)
				p.mu.Unlock()
			}
		}
	})
	p.stop = sync.OnceFunc(func() {
		_ = p.in.Close()
		impatience := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
		reading.Wait()
		_ = p.cmd.Wait() // it may have been killed
		impatience.Stop()
	})
	s.t.Cleanup(func() {
		p.stop()
		if s.t.Failed() {
			s.t.Logf("%s: %s\n%v", c.Group, p.complaints.String(), p.all)
		}
	})
	return p
}

func (s *consumptionStage) both(c consumption) map[string]*process {
	s.t.Helper()
	all := map[string]*process{}
	for _, kind := range s.kinds {
		all[kind] = s.start(kind, c)
	}
	return all
}

func (s *consumptionStage) group(kind string) string { return s.topic + "-" + kind }

func (p *process) tell(command string) {
	p.s.t.Helper()
	_, err := fmt.Fprintln(p.in, command)
	require.NoError(p.s.t, err)
}

// said are the lines of a kind, so far.
func (p *process) said(what string) (found []said) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		if one.What == what {
			found = append(found, one)
		}
	}
	return found
}

// first is the first line of a kind, which is waited for.
func (p *process) first(what string) said {
	p.s.t.Helper()
	p.s.until(what, func() bool { return len(p.said(what)) > 0 })
	return p.said(what)[0]
}

// times is how often each message was said to be begun, done, or beyond the end.
func (p *process) times(what string) map[place]int {
	n := map[place]int{}
	for _, one := range p.said(what) {
		n[place{one.Queue, one.Offset}]++
	}
	return n
}

// has waits until all of the messages are done.
func (p *process) has(at []place) {
	p.s.t.Helper()
	p.s.until("all are handled", func() bool {
		done := p.times("done")
		return !slices.ContainsFunc(at, func(one place) bool { return done[one] == 0 })
	})
}

// brokerReturns kills the broker while both wait for messages, and looks how long after its return they have read every queue.
func (s *consumptionStage) brokerReturns() map[string]outcome {
	const rounds = 3
	members := s.both(consumption{})
	worst := map[string]time.Duration{}
	var texts [rounds]map[string]string
	for i := range rounds {
		before := s.send(2)
		for _, m := range members {
			m.has(before)
		}
		s.wait(time.Second) // pulls are waiting at the broker
		node := consumptionCluster + "/broker"
		require.NoError(s.t, s.e.Kill(s.t.Context(), node))
		require.NoError(s.t, s.e.Restart(s.t.Context(), node))
		back := time.Now()
		sent := s.send(1)
		texts[i] = map[string]string{}
		for kind, m := range members {
			m.has(sent)
			var last time.Time
			for _, one := range m.said("done") {
				if slices.Contains(sent, place{one.Queue, one.Offset}) && one.At.After(last) {
					last = one.At
				}
			}
			took := last.Sub(back)
			worst[kind] = max(worst[kind], took)
			texts[i][kind] = seconds(took)
		}
	}
	got := map[string]outcome{}
	for _, kind := range s.kinds {
		var all []string
		for _, text := range texts {
			all = append(all, text[kind])
		}
		got[kind] = outcome{strings.Join(all, ", "), worst[kind] <= 5*time.Second}
	}
	return got
}

// stopWaits stops each while its listeners are at work. They succeed afterwards; who comes next must not be given their messages.
func (s *consumptionStage) stopWaits() map[string]outcome {
	sent := s.send(10)
	got := map[string]outcome{}
	for kind, m := range s.both(consumption{Gate: true}) {
		s.until("listeners are at work", func() bool { return len(m.said("begun")) >= queues })
		m.tell("stop")
		if kind == theLibrary {
			m.first("stopped")
		}
		s.wait(300 * time.Millisecond)
		working := len(m.said("begun")) - len(m.said("done"))
		if len(m.said("stopped")) == 0 {
			working = 0 // it waits for them
		}
		m.tell("open")
		m.first("stopped")
		s.until("the listeners end", func() bool { return len(m.said("begun")) == len(m.said("done")) })
		m.stop()
		finished := m.times("done")
		next := s.start(kind, consumption{})
		s.until("the rest is handled", func() bool {
			done := next.times("done")
			return !slices.ContainsFunc(sent, func(one place) bool { return done[one]+finished[one] == 0 })
		})
		next.stop()
		lost := 0
		for one := range next.times("begun") {
			lost += min(1, finished[one])
		}
		got[kind] = outcome{fmt.Sprintf("returned with %d at work; the results of %d of %d lost", working, lost, len(finished)), working == 0 && lost == 0}
	}
	return got
}

// commits looks how long after the last message was handled the positions are stored, in rounds, because the library does so
// by a clock.
func (s *consumptionStage) commits() map[string]outcome {
	const rounds = 5
	members := s.both(consumption{})
	s.has(members, s.send(1))
	s.wait(11 * time.Second) // past the library's first storing
	took := map[string][]time.Duration{}
	for i := range rounds {
		s.wait(time.Duration(i) * 700 * time.Millisecond)
		sent := s.send(10)
		ends := s.queueEnds()
		s.has(members, sent)
		s.until("the positions are stored", func() bool {
			for kind, m := range members {
				if len(took[kind]) == i && s.positions(s.group(kind)).Reached(ends) {
					done := m.said("done")
					took[kind] = append(took[kind], time.Since(done[len(done)-1].At))
				}
			}
			return !slices.ContainsFunc(s.kinds, func(kind string) bool { return len(took[kind]) == i })
		})
	}
	got := map[string]outcome{}
	for kind, all := range took {
		var text []string
		for _, d := range all {
			text = append(text, seconds(d))
		}
		got[kind] = outcome{"stored after " + strings.Join(text, ", "), slices.Max(all) <= time.Second}
	}
	return got
}

func (s *consumptionStage) has(members map[string]*process, at []place) {
	s.t.Helper()
	for _, m := range members {
		m.has(at)
	}
}

// killed kills each a second after it has handled the last message, and looks what the next one is given again, in rounds.
func (s *consumptionStage) killed() map[string]outcome {
	const rounds = 3
	texts, worst := map[string][]string{}, map[string]int{}
	members := s.both(consumption{})
	s.has(members, s.send(1))
	for i := range rounds {
		s.wait(11*time.Second + time.Duration(i)*1700*time.Millisecond) // past the library's first storing
		sent := s.send(25)
		s.has(members, sent)
		s.wait(time.Second)
		for _, m := range members {
			require.NoError(s.t, m.cmd.Process.Kill())
			m.stop()
		}
		next := s.both(consumption{})
		s.has(next, s.send(1))
		for kind, m := range next {
			again := 0
			for one := range m.times("begun") {
				again += min(1, members[kind].times("done")[one])
			}
			texts[kind] = append(texts[kind], strconv.Itoa(again))
			worst[kind] = max(worst[kind], again)
		}
		members = next
	}
	got := map[string]outcome{}
	for kind, all := range texts {
		got[kind] = outcome{strings.Join(all, ", ") + " of 100 delivered again", worst[kind] == 0}
	}
	return got
}

// begins has groups without positions begin at another offset in each queue.
func (s *consumptionStage) begins() map[string]outcome {
	sent := s.send(10)
	names := s.queueEnds().Names()
	begin := map[string]int64{names[0]: 2, names[1]: 5, names[2]: 10, names[3]: 0}
	now := time.Now()
	more := s.send(5)
	members := s.both(consumption{Start: begin, Since: now.UTC().Format("20060102150405")}) // the library reads it as UTC
	s.has(members, more)
	got := map[string]outcome{}
	for kind, m := range members {
		before, out := 0, 0
		times := m.times("begun")
		for _, one := range append(sent, more...) {
			switch wanted := one.offset >= begin[one.queue]; {
			case wanted && times[one] == 0:
				out++
			case !wanted && times[one] > 0:
				before++
			}
		}
		text := fmt.Sprintf("%d before, %d left out", before, out)
		if kind == theLibrary {
			text += "; it can be told a second only, for all queues"
		}
		got[kind] = outcome{text, before+out == 0}
	}
	return got
}

// stopsAt has each stop at another offset in each queue. The library can not be told: its listener refuses what is beyond.
func (s *consumptionStage) stopsAt() map[string]outcome {
	s.send(20)
	names := s.queueEnds().Names()
	end := map[string]int64{names[0]: 7, names[1]: 20, names[2]: 1, names[3]: 13}
	got := map[string]outcome{}
	members := s.both(consumption{End: end, Ordered: true})
	for kind, m := range members {
		s.until("all before the ends are handled", func() bool { return len(m.times("done")) == 7+20+1+13 })
		m.tell("stop")
		m.first("stopped")
		s.soon(func() bool { return s.positions(s.group(kind)).Reached(end) })
		beyond, off := len(m.times("beyond")), int64(0)
		for _, done := range m.said("done") {
			if done.Offset >= end[done.Queue] {
				beyond++
			}
		}
		for q, position := range s.positions(s.group(kind)) {
			off += max(position-end[q], end[q]-position)
		}
		got[kind] = outcome{fmt.Sprintf("%d handed over beyond it, positions off by %d", beyond, off), beyond == 0 && off == 0}
	}
	return got
}

// tellsOfPulls starts each while the broker stands still: it must not say that it is ready, and soon after say so.
func (s *consumptionStage) tellsOfPulls() map[string]outcome {
	s.send(1)
	node := consumptionCluster + "/broker"
	require.NoError(s.t, s.e.Pause(node))
	members := s.both(consumption{})
	s.wait(5 * time.Second)
	early := map[string]bool{}
	for kind, m := range members {
		early[kind] = len(m.said("ready")) > 0
	}
	require.NoError(s.t, s.e.Resume(node))
	resumed := time.Now()
	got := map[string]outcome{}
	for kind, m := range members {
		at := m.first("ready").At
		text := "ready " + seconds(at.Sub(resumed)) + " after it went on"
		if early[kind] {
			text = "ready " + seconds(resumed.Sub(at)) + " before it went on"
		}
		got[kind] = outcome{text, !early[kind]}
	}
	return got
}

// leaves counts what each has left behind of members that have come, handled a message and stopped.
func (s *consumptionStage) leaves() map[string]outcome {
	const cycles = 5
	s.send(2)
	members := s.both(consumption{Cycles: cycles})
	var began time.Time
	texts := map[string][]string{}
	met := map[string]bool{}
	for i, after := range []time.Duration{0, 15 * time.Second, time.Minute, 150 * time.Second} {
		if i > 0 {
			s.wait(time.Until(began.Add(after)))
		}
		for kind, m := range members {
			m.tell("count")
			s.until("it has counted", func() bool { return len(m.said("count")) > i+1 })
			before, now := m.said("count")[0], m.said("count")[i+1]
			text := fmt.Sprintf("%.1f, %.1f", float64(now.Goroutines-before.Goroutines)/cycles, float64(now.Files-before.Files)/cycles)
			texts[kind] = append(texts[kind], text+" after "+after.String())
			met[kind] = now.Goroutines <= before.Goroutines && now.Files <= before.Files
		}
		if i == 0 {
			began = time.Now()
		}
	}
	got := map[string]outcome{}
	for _, kind := range s.kinds {
		got[kind] = outcome{"goroutines, sockets: " + strings.Join(texts[kind], "; "), met[kind]}
	}
	return got
}

// races plays both, without and with order, built with the race detector: messages, a second member that comes and
// goes, a restart of the broker.
func (s *consumptionStage) races() map[string]outcome {
	plain := s.binary
	defer func() { s.binary = plain }()
	s.binary = filepath.Join(s.t.TempDir(), "race.test")
	build := exec.CommandContext(s.t.Context(), "go", "test", "-race", "-c", "-o", s.binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := build.CombinedOutput()
	require.NoError(s.t, err, "%s", out)

	var all []*process
	for _, ordered := range []bool{false, true} {
		for _, kind := range s.kinds {
			c := consumption{Group: fmt.Sprint("-ordered-", ordered), Ordered: ordered}
			for range 2 {
				m := s.start(kind, c)
				m.first("ready")
				all = append(all, m)
			}
		}
	}
	handled := func(sent []place) {
		for i := 0; i < len(all); i += 2 {
			s.until("all are handled", func() bool {
				one, two := all[i].times("done"), all[i+1].times("done")
				return !slices.ContainsFunc(sent, func(at place) bool { return one[at]+two[at] == 0 })
			})
		}
	}
	handled(s.send(50))
	node := consumptionCluster + "/broker"
	require.NoError(s.t, s.e.Kill(s.t.Context(), node))
	require.NoError(s.t, s.e.Restart(s.t.Context(), node))
	handled(s.send(50))
	for i := 0; i < len(all); i += 2 {
		all[i+1].tell("stop")
		all[i+1].first("stopped")
	}
	handled(s.send(50))
	for _, m := range all {
		m.stop()
	}
	got := map[string]outcome{}
	for _, kind := range s.kinds {
		n, where := 0, map[string]bool{}
		for _, m := range all {
			if m.kind != kind {
				continue
			}
			for _, r := range races.In(m.complaints.String()) {
				n++
				for _, side := range r.Sides {
					where["`"+path.Base(side)+"`"] = true
				}
			}
		}
		text := fmt.Sprintf("%d reports", n)
		if n > 0 {
			text += ": " + strings.Join(slices.Sorted(maps.Keys(where)), ", ")
		}
		got[kind] = outcome{text, n == 0}
	}
	return got
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
