package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
)

// childVariable makes this test binary a process that records until it is killed.
const childVariable = "TURNOUT_HISTORY_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		recordForEver(dir)
	}
	os.Exit(m.Run())
}

func recordForEver(dir string) {
	rec, err := Create(dir, "child")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; rec.Err() == nil; i++ {
		rec.Send(Message{ID: fmt.Sprint(i)})
		fmt.Println(i)
	}
	os.Exit(1)
}

func TestWhatWasRecordedIsRead(t *testing.T) {
	dir := t.TempDir()
	producer, err := Create(dir, "p1")
	require.NoError(t, err)
	consumer, err := Create(dir, "c1")
	require.NoError(t, err)

	before := time.Now().UnixNano()
	m := Message{ID: "m1", Topic: "orders", Key: Key([]byte("käse \"1\"\n")), Seq: 3, Shadow: true}
	producer.Send(m).OK(Place{Cluster: "kafka-a", Partition: "2", Offset: 17, Route: "0x1f"})
	producer.Send(Message{ID: "m2", Key: Key([]byte{0xff, 0x00})}).Fail(errors.New("too large"))
	producer.Send(Message{ID: "m3"}).Unknown(errors.New("time-out"))
	place := Place{Cluster: "rocketmq-a", Partition: "broker-a:3", Offset: 4, Attempt: 2}
	consumer.Recv("g", m, place).Retry(errors.New("not yet"))
	consumer.Recv("g", m, place).Done()
	require.NoError(t, producer.Close())
	require.NoError(t, consumer.Close())
	require.NoError(t, consumer.Close(), "Close may be called again")

	events, err := Load(dir)
	require.NoError(t, err)
	last := before
	for i := range events {
		require.Greater(t, events[i].T, last)
		last = events[i].T
		events[i].T = 0
	}
	require.LessOrEqual(t, last, time.Now().UnixNano()+1000)
	recv := Event{Op: OpRecv, ID: "m1", Topic: "orders", Key: "käse \"1\"\n", Seq: 3, Shadow: true, Group: "g", Member: "c1",
		Cluster: "rocketmq-a", Partition: "broker-a:3", Offset: 4, Attempt: 2}
	require.Equal(t, []Event{
		{Op: OpSend, ID: "m1", Topic: "orders", Key: "käse \"1\"\n", Seq: 3, Shadow: true, Producer: "p1"},
		{Op: OpOK, ID: "m1", Producer: "p1", Cluster: "kafka-a", Partition: "2", Offset: 17, Route: "0x1f"},
		{Op: OpSend, ID: "m2", Key: "0xff00", Producer: "p1"},
		{Op: OpFail, ID: "m2", Producer: "p1", Error: "too large"},
		{Op: OpSend, ID: "m3", Producer: "p1"},
		{Op: OpUnknown, ID: "m3", Producer: "p1", Error: "time-out"},
		recv,
		{Op: OpRetry, ID: "m1", Group: "g", Member: "c1", Error: "not yet"},
		recv,
		{Op: OpDone, ID: "m1", Group: "g", Member: "c1"},
	}, events)
}

func TestWhatIsDoneToTopicsIsRecorded(t *testing.T) {
	dir := t.TempDir()
	rec, err := Create(dir, "harness")
	require.NoError(t, err)
	rec.Group(Group{Name: "bill", Topics: []string{"orders", "returns"}, Ordered: true})
	rec.Group(Group{Name: "all", Shadow: true, Partial: true})
	rec.Route("orders", "0x1f", "kafka-b")
	rec.Move("orders", "m-17", "draining")
	rec.Fence("orders", "kafka-a")
	rec.Seal("orders", "kafka-a", map[string]int64{"0": 9120, "1": 0})
	rec.Seal("empty", "kafka-a", nil)
	rec.Open("orders", "kafka-a", map[string]int64{"0": 9121})
	rec.Open("orders", "kafka-b", nil)
	rec.Rescue("m1", Place{Cluster: "kafka-a", Partition: "0", Offset: 9120})
	rec.Kill("p1")
	require.NoError(t, rec.Close())
	events, err := Load(dir)
	require.NoError(t, err)
	for i := range events {
		events[i].T = 0
	}
	require.Equal(t, []Event{
		{Op: OpGroup, Group: "bill", Topic: "orders", Ordered: true},
		{Op: OpGroup, Group: "bill", Topic: "returns", Ordered: true},
		{Op: OpGroup, Group: "all", Shadow: true, Partial: true},
		{Op: OpRoute, Topic: "orders", Route: "0x1f", Cluster: "kafka-b"},
		{Op: OpMove, Topic: "orders", Move: "m-17", State: "draining"},
		{Op: OpFence, Topic: "orders", Cluster: "kafka-a"},
		{Op: OpSeal, Topic: "orders", Cluster: "kafka-a", Offsets: map[string]int64{"0": 9120, "1": 0}},
		{Op: OpSeal, Topic: "empty", Cluster: "kafka-a", Offsets: map[string]int64{}},
		{Op: OpOpen, Topic: "orders", Cluster: "kafka-a", Offsets: map[string]int64{"0": 9121}},
		{Op: OpOpen, Topic: "orders", Cluster: "kafka-b"},
		{Op: OpRescue, ID: "m1", Cluster: "kafka-a", Partition: "0", Offset: 9120},
		{Op: OpKill, Member: "p1"},
	}, events)
	require.Equal(t, []Group{
		{Name: "all", Shadow: true, Partial: true},
		{Name: "bill", Topics: []string{"orders", "returns"}, Ordered: true},
	}, Expect(events).Groups)
}

func TestGroupsThatNobodyNamedAreThoseThatHandle(t *testing.T) {
	events, o := scene()
	for i := range o.Groups {
		o.Groups[i].Ordered, o.Groups[i].Topics = false, []string{"orders"}
	}
	require.Equal(t, o.Groups, Expect(events).Groups)
	require.NoError(t, Check(events, Expect(events)).Err())
}

func TestReadMergesWhatBelongsToOneRun(t *testing.T) {
	dir := t.TempDir()
	line := func(t int, id string) string { return fmt.Sprintf(`{"t":%d,"op":"send","id":%q}`+"\n", t, id) }
	inside := filepath.Join(dir, "run")
	require.NoError(t, os.Mkdir(inside, 0o700))
	write(t, filepath.Join(inside, "a.jsonl"), line(1, "a1")+line(5, "a5")+line(6, "a6"))
	write(t, filepath.Join(inside, "b.jsonl"), line(2, "b2")+line(7, "b7")+`{"t":8`)
	write(t, filepath.Join(inside, "notes.txt"), "no history")
	write(t, filepath.Join(dir, "c"), line(5, "c5"))
	ids := func(in Input) (ids []string) {
		for _, e := range in.Events {
			ids = append(ids, e.ID)
		}
		return ids
	}
	stdin := line(4, "s4") + line(9, "s9") + line(3, "s3") + line(5, "s5")
	in, err := Read(strings.NewReader(stdin), 10, Stdin, inside, filepath.Join(dir, "c"))
	require.NoError(t, err)
	require.Equal(t, []string{"a1", "b2", "s3", "s4", "s5", "a5", "c5", "a6", "b7", "s9"}, ids(in), "by time; of one moment, the first given first")
	require.Equal(t, []string{filepath.Join(inside, "b.jsonl")}, in.Torn)

	_, err = Read(strings.NewReader(stdin), 9, inside, filepath.Join(dir, "c"), Stdin)
	require.ErrorIs(t, err, errs.ErrTooLarge)
	require.ErrorContains(t, err, "stdin:4: more than 9 records")

	in, err = Read(nil, 0)
	require.NoError(t, err)
	require.Empty(t, in.Events)
	for name, c := range map[string]struct {
		paths []string
		is    error
		says  string
	}{
		"missing file":     {[]string{filepath.Join(dir, "d")}, errs.ErrNotFound, "no such file"},
		"file twice":       {[]string{inside, filepath.Join(inside, "..", "run", "a.jsonl")}, errs.ErrInvalid, "given twice"},
		"stdin twice":      {[]string{Stdin, Stdin}, errs.ErrInvalid, "given twice"},
		"empty folder":     {[]string{dir}, errs.ErrInvalid, "nothing was recorded"},
		"damaged line":     {[]string{filepath.Join(inside, "notes.txt"), Stdin}, errs.ErrInvalid, "stdin:5: "},
		"time in one file": {[]string{filepath.Join(dir, "back")}, errs.ErrInvalid, "back:2: time goes back"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, filepath.Join(dir, "back"), line(2, "x")+line(1, "y"))
			_, err := Read(strings.NewReader(stdin+"x\n"), 0, c.paths...)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestManyGoroutinesRecordAtOnce(t *testing.T) {
	dir := t.TempDir()
	rec, err := Create(dir, "p")
	require.NoError(t, err)
	const goroutines, each = 16, 200
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				m := Message{ID: fmt.Sprintf("%d-%d", g, i), Key: fmt.Sprint(g), Seq: int64(i + 1)}
				rec.Send(m).OK(Place{Cluster: "a"})
				rec.Recv("g", m, Place{Cluster: "a"}).Done()
			}
		})
	}
	wg.Wait()
	require.NoError(t, rec.Close())

	events, err := Load(dir)
	require.NoError(t, err)
	require.Len(t, events, 4*goroutines*each)
	v := Check(events, Options{Groups: []Group{{Name: "g", Ordered: true}}, Allow: []Rule{}})
	require.NoError(t, v.Err())
	require.Equal(t, goroutines*each, v.Groups[0].Handled)
}

// A process that is killed with SIGKILL has on disk whatever it had recorded.
func TestKilledProcessLosesNothingItRecorded(t *testing.T) {
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+dir)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := bufio.NewScanner(out)
	told := 0
	for lines.Scan() {
		require.Equal(t, fmt.Sprint(told), lines.Text())
		told++
		if told == 1000 {
			require.NoError(t, child.Process.Kill())
		}
	}
	require.Error(t, child.Wait())
	require.GreaterOrEqual(t, told, 1000)

	events, err := Load(dir)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(events), told)
	for i, e := range events {
		require.Equal(t, fmt.Sprint(i), e.ID)
	}
	require.True(t, Check(events, Options{Killed: []string{"child"}}).Clean)
	require.False(t, Check(events, Options{}).Clean)
}

func TestRecordAfterCloseIsAFailure(t *testing.T) {
	rec, err := Create(t.TempDir(), "p")
	require.NoError(t, err)
	s := rec.Send(Message{ID: "m1"})
	require.NoError(t, rec.Close())
	s.OK(Place{})
	require.ErrorContains(t, rec.Err(), "ok of m1 recorded after Close")
	require.Equal(t, rec.Err(), rec.Close())
}

func TestProcessNameThatIsNoFileName(t *testing.T) {
	for _, name := range []string{"", "a/b", `a\b`, "a*"} {
		_, err := Create(t.TempDir(), name)
		require.ErrorContains(t, err, "process name")
	}
	_, err := Create(filepath.Join(t.TempDir(), "missing"), "p")
	require.ErrorIs(t, err, os.ErrNotExist)
}

const (
	line1 = `{"t":1,"op":"send","id":"m1"}` + "\n"
	line2 = `{"t":2,"op":"ok","id":"m1"}` + "\n"
)

func TestTornLastLineIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	for cut := 1; cut < len(line2); cut++ {
		write(t, filepath.Join(dir, "p.jsonl"), line1+line2[:cut])
		events, err := Load(dir)
		require.NoError(t, err)
		require.Len(t, events, 1)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ content, says string }{
		"torn line in the middle": {line1[:10] + "\n" + line2, ":1: "},
		"empty line":              {line1 + "\n" + line2, ":2: "},
		"unknown op":              {line1 + `{"t":2,"op":"okay","id":"m1"}` + "\n", `:2: unknown op "okay"`},
		"no id":                   {`{"t":2,"op":"ok"}` + "\n", ":1: no id"},
		"no time":                 {`{"op":"ok","id":"m1"}` + "\n", ":1: t is 0"},
		"clock set back":          {line2 + line1, ":2: time goes back"},
		"seal without offsets":    {`{"t":2,"op":"seal","topic":"o","cluster":"a"}` + "\n", ":1: no offsets"},
		"fence of no cluster":     {`{"t":2,"op":"fence","topic":"o"}` + "\n", ":1: no cluster"},
		"move to no state":        {`{"t":2,"op":"move","topic":"o","move":"m-1"}` + "\n", ":1: no state"},
		"nobody killed":           {`{"t":2,"op":"kill"}` + "\n", ":1: no member"},
		"no group":                {`{"t":2,"op":"group"}` + "\n", ":1: no group"},
		"endless line":            {line1 + strings.Repeat("x", maxLine+1), ":2: longer than"},
		"number too large":        {`{"t":9999999999999999999,"op":"ok","id":"m1"}` + "\n", ":1: "},
		"wrong type":              {`{"t":"1","op":"ok","id":"m1"}` + "\n", ":1: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "p.jsonl"), c.content)
			_, err := Load(dir)
			require.ErrorContains(t, err, filepath.Join(dir, "p.jsonl")+c.says)
			require.ErrorIs(t, err, errs.ErrInvalid)
		})
	}
}

func TestLoadOfNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "notes.txt"), "not a history")
	_, err := Load(dir)
	require.ErrorContains(t, err, "nothing was recorded")
	_, err = Load(filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFollowerSeesEachEventOnce(t *testing.T) {
	dir := t.TempDir()
	follower := NewFollower(dir)
	next := func() string {
		events, err := follower.Next()
		require.NoError(t, err)
		var seen []string
		for _, e := range events {
			seen = append(seen, fmt.Sprint(e.T, e.Op))
		}
		return strings.Join(seen, " ")
	}
	require.Empty(t, next())
	write(t, filepath.Join(dir, "a.jsonl"), line1+line2[:7])
	require.Equal(t, "1send", next())
	require.Empty(t, next())
	write(t, filepath.Join(dir, "a.jsonl"), line1+line2)
	write(t, filepath.Join(dir, "b.jsonl"), line1)
	require.Equal(t, "1send 2ok", next())
	require.Empty(t, next())
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// The quick way to read a line and encoding/json agree, or the quick way does not apply.
func FuzzParsePlain(f *testing.F) {
	for _, line := range []string{line1, line2, `{"t":1763789000000000000,"op":"recv","id":"m","offset":-1,"attempt":2,"shadow":true}`,
		`{"t":1,"t":2,"op":"ok","id":"é"}`, `{"t":-0,"op":"\u006fk"}`, `{"t":01}`, `{"t":1e3}`, `{"shadow":false}`, `{"T":1}`, `{}`, `{"t":9223372036854775808}`,
		`{"key":"a"b"}`, `{"t":1,}`, `{"t":1}}`} {
		f.Add([]byte(strings.TrimSuffix(line, "\n")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var quick, slow Event
		if !quick.parsePlain(line, map[string]string{}) {
			return
		}
		require.NoError(t, json.Unmarshal(line, &slow))
		require.Equal(t, slow, quick)
	})
}

// Whatever is in a file, Load says what is wrong or returns events that Check can judge.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(line1 + line2))
	f.Add([]byte(line1 + line2[:9]))
	f.Add([]byte(`{"t":1,"op":"recv","id":"m","group":"g"}` + "\n" + `{"t":2,"op":"retry","id":"m","group":"g"}` + "\n"))
	f.Add([]byte(`{"t":1,"op":"seal","topic":"o","cluster":"a","offsets":{"0":1}}` + "\n" + `{"t":2,"op":"recv","id":"m","group":"g","topic":"o","cluster":"a","partition":"0","offset":1}` + "\n"))
	f.Add([]byte(`{"t":9223372036854775807,"op":"done","id":"m","group":"g"}` + "\n"))
	dir := f.TempDir()
	path := filepath.Join(dir, "p.jsonl")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		events, err := Load(dir)
		if err != nil {
			return
		}
		v := Check(events, Options{Groups: []Group{{Name: "g", Ordered: true}}, MaxSend: 1})
		if v.String() == "" || v.Clean != (v.Err() == nil) {
			t.Fatal("no verdict")
		}
		if v := Check(events, Expect(events)); v.String() == "" {
			t.Fatal("no verdict on what is expected")
		}
		rates := NewRates(time.Second)
		rates.Add(events...)
	})
}

func BenchmarkRecord(b *testing.B) {
	rec, err := Create(b.TempDir(), "p")
	require.NoError(b, err)
	m := Message{ID: strings.Repeat("0123456789abcdef", 2), Topic: "order_topic", Key: "k17", Seq: 4711}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			rec.Send(m)
		}
	})
	require.NoError(b, rec.Close())
}

// A run of two processes with a million records, a move in its middle, and a group in order.
func BenchmarkMillionRecords(b *testing.B) {
	dir := b.TempDir()
	const messages = 250_000
	sender, err := os.Create(filepath.Join(dir, "sender.jsonl"))
	require.NoError(b, err)
	receiver, err := os.Create(filepath.Join(dir, "receiver.jsonl"))
	require.NoError(b, err)
	out, in := bufio.NewWriter(sender), bufio.NewWriter(receiver)
	cluster := "kafka-a"
	for i := range messages {
		if i == messages/2 {
			cluster = "kafka-b"
		}
		m := Event{T: 1_763_789_000_000_000_000 + int64(i)*100_000, Op: OpSend, ID: fmt.Sprintf("%032x", i), Topic: "order_topic",
			Key: fmt.Sprint("order_service-", i%1000), Seq: int64(i / 1000), Producer: "order_service"}
		ok := Event{T: m.T + 50_000, Op: OpOK, ID: m.ID, Producer: m.Producer, Cluster: cluster, Partition: fmt.Sprint(i % 8), Offset: int64(i / 8)}
		recv := Event{T: m.T + 80_000, Op: OpRecv, ID: m.ID, Topic: m.Topic, Key: m.Key, Seq: m.Seq, Group: "order_bil_group", Member: "order_service_consumer",
			Cluster: cluster, Partition: ok.Partition, Offset: ok.Offset}
		done := Event{T: m.T + 90_000, Op: OpDone, ID: m.ID, Group: recv.Group, Member: recv.Member}
		for w, events := range map[*bufio.Writer][]Event{out: {m, ok}, in: {recv, done}} {
			for _, e := range events {
				line, err := json.Marshal(e)
				require.NoError(b, err)
				_, err = w.Write(append(line, '\n'))
				require.NoError(b, err)
			}
		}
	}
	require.NoError(b, errors.Join(out.Flush(), in.Flush(), sender.Close(), receiver.Close()))
	b.ReportAllocs()
	for b.Loop() {
		events, err := Load(dir)
		require.NoError(b, err)
		v := Check(events, Options{Groups: []Group{{Name: "order_bil_group", Ordered: true}}})
		require.NoError(b, v.Err())
		require.Equal(b, messages, v.Groups[0].Handled)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(4*messages), "ns/record")
}
