package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv/history"
)

// demoReport is what came of a demo.
type demoReport struct {
	Clean        bool              `json:"clean"` // no error, nothing lost, nothing left, no other rule of the checker broken
	Backend      string            `json:"backend"`
	Seconds      float64           `json:"seconds"` // from the first message to the end
	Sent         int               `json:"sent"`
	Acknowledged int               `json:"acknowledged"`
	Errors       int               `json:"errors"`   // sends that failed or were never answered
	Received     int               `json:"received"` // messages, each counted once
	Lost         int               `json:"lost"`     // acknowledged and never handled
	LostIDs      []string          `json:"lostIds"`  // the first of them
	Duplicated   int               `json:"duplicated"`
	LongestMS    float64           `json:"longestSendMs"`
	Moves        []*demoMove       `json:"moves"`
	Left         []demoLeft        `json:"left"`
	Broken       []history.Finding `json:"broken"` // rules of the checker that were broken and must not be
	Dir          string            `json:"dir"`

	next [][2]string // other commands to try, and what they do
}

// demoLeft is what a cluster has, asked of its brokers.
type demoLeft struct {
	Cluster     string `json:"cluster"`
	Messages    int64  `json:"messages"` // end offsets, added up
	Unread      int64  `json:"unread"`   // what the group's committed positions lack to them, and its retries
	DeadLetters int64  `json:"deadLetters"`
}

// left asks a cluster, in the order in which messages move: positions, retries, ends.
func (d *demo) left(ctx context.Context, cluster string) (demoLeft, error) {
	ctx, cancel := context.WithTimeout(ctx, demoStopLimit)
	defer cancel()
	l := demoLeft{Cluster: cluster}
	positions, err := d.brokers[cluster].Positions(ctx, demoGroup, demoTopic)
	if err != nil {
		return l, err
	}
	pending, err := d.brokers[cluster].Pending(ctx, demoGroup, demoTopic)
	if err != nil {
		return l, err
	}
	ends, err := d.brokers[cluster].EndOffsets(ctx, demoTopic)
	if err != nil {
		return l, err
	}
	for _, end := range ends {
		l.Messages += end
	}
	l.Unread, l.DeadLetters = positions.Missing(ends)+pending.Delayed+pending.Retries, pending.DeadLetters
	return l, nil
}

// judge counts, when everything has ended, what became of each message.
func (d *demo) judge(ctx context.Context) (demoReport, error) {
	r := demoReport{Backend: string(d.env.Backend()), Moves: d.moves, Dir: d.dir, LostIDs: []string{}, Broken: []history.Finding{}}
	if d.servers {
		r.next = append(r.next, [2]string{"turnout demo --servers --rate 1000 --seconds 60", "more messages, more time to look on"})
	} else {
		r.next = append(r.next, [2]string{"turnout demo --servers", "the same with Apache ZooKeeper, Kafka and RocketMQ (Java 17)"})
	}
	if !d.stay {
		r.next = append(r.next, [2]string{"turnout demo --stay", "the servers run on, to try the other commands and examples/quickstart on them, and moves with a receipt"})
	}
	events, err := history.Load(scene.HistoryDir(d.dir))
	if err != nil {
		return r, err
	}
	v := history.Check(events, history.Options{
		Groups: []history.Group{{Name: demoGroup, Topics: []string{demoTopic}}}, Clusters: d.clusters(), Left: d.spans(),
	})
	r.Clean, r.Seconds = v.Clean, v.To.Sub(v.From).Seconds()
	r.Sent, r.Acknowledged, r.Errors = v.Sent, v.Acknowledged, v.Failed+v.Unknown+v.Unanswered
	r.Received, r.Lost, r.Duplicated = v.Groups[0].Handled, v.Groups[0].Lost, v.Groups[0].Duplicates
	r.LongestMS = ms(v.Longest.Took)
	for _, f := range v.Findings {
		if f.Count > 0 && !f.Allowed {
			r.Broken = append(r.Broken, f)
		}
		if f.Rule == history.Lost {
			for _, e := range f.Examples {
				r.LostIDs = append(r.LostIDs, e.ID)
			}
		}
	}
	for _, cluster := range d.clusters() {
		l, err := d.left(ctx, cluster)
		if err != nil {
			return r, err
		}
		r.Left = append(r.Left, l)
		r.Clean = r.Clean && l.Unread == 0 && l.DeadLetters == 0
	}
	for _, m := range r.Moves {
		m.LongestMS = longestSend(events, m.Edited, m.Edited.Add(time.Second))
		r.Clean = r.Clean && m.FirstMS >= 0
	}
	r.Clean = r.Clean && r.Errors == 0 && r.Lost == 0
	return r, nil
}

// longestSend is how long the slowest send took of those that were under way at some time in a span.
func longestSend(events []history.Event, from, until time.Time) float64 {
	began, longest := map[string]int64{}, int64(0)
	for _, e := range events {
		switch {
		case e.Op == history.OpSend && e.T <= until.UnixNano():
			began[e.ID] = e.T
		case e.Op == history.OpOK && e.T >= from.UnixNano() && began[e.ID] > 0:
			longest = max(longest, e.T-began[e.ID])
		}
	}
	return ms(time.Duration(longest))
}

// spans are the times in which nobody may have sent to a cluster: from everybody's acknowledgement to the edit back.
func (d *demo) spans() []history.Left {
	var spans []history.Left
	for i, m := range d.moves {
		s := history.Left{Cluster: m.From, Topic: demoTopic, From: m.applied}
		for _, later := range d.moves[i:] {
			if later.To == m.From {
				s.Until = later.Edited
				break
			}
		}
		spans = append(spans, s)
	}
	return spans
}

// reason says in a few words why a report is not clean.
func (r demoReport) reason() string {
	var why []string
	if r.Errors > 0 {
		why = append(why, count.Of(r.Errors, "error", "errors"))
	}
	for _, f := range r.Broken {
		why = append(why, fmt.Sprintf("%d %s", f.Count, f.Rule))
	}
	for _, l := range r.Left {
		if l.Unread > 0 {
			why = append(why, fmt.Sprintf("%d left on %s", l.Unread, l.Cluster))
		}
		if l.DeadLetters > 0 {
			why = append(why, fmt.Sprintf("%s on %s", count.Of(l.DeadLetters, "dead letter", "dead letters"), l.Cluster))
		}
	}
	for _, m := range r.Moves {
		if m.FirstMS < 0 {
			why = append(why, "no message reached "+m.To)
		}
	}
	return strings.Join(why, ", ")
}

// print writes the table for people.
func (r demoReport) print(w io.Writer) {
	headline := "CLEAN: no send failed, nothing was lost, nothing was left behind"
	if !r.Clean {
		headline = "NOT CLEAN: " + r.reason()
	}
	fmt.Fprintf(w, "\nVerdict: %s\n\n", headline)
	for _, f := range []struct {
		name  string
		value any
		note  string
	}{
		{"sent", r.Sent, fmt.Sprintf("in %.1f s", r.Seconds)},
		{"acknowledged", r.Acknowledged, "by the clusters"},
		{"errors", r.Errors, "sends that failed"},
		{"received", r.Received, "by " + demoGroup + ", each counted once"},
		{"lost", r.Lost, "acknowledged and never received: " + none(r.LostIDs)},
		{"duplicated", r.Duplicated, "received again"},
		{"longest pause", milliseconds(r.LongestMS), "of a send; the first one opens the connections"},
	} {
		fmt.Fprintf(w, "  %-16s%10v   %s\n", f.name, f.value, f.note)
	}
	fmt.Fprintln(w)
	row(w, "  after the edit", "first message there", "both have followed", "old cluster closed", "longest send")
	for _, m := range r.Moves {
		row(w, "  "+m.From+" → "+m.To, milliseconds(m.FirstMS), milliseconds(m.AppliedMS), milliseconds(m.ClosedMS), milliseconds(m.LongestMS))
	}
	fmt.Fprintln(w)
	row(w, "  asked of the brokers", "messages", "left unread", "dead letters")
	for _, l := range r.Left {
		row(w, "  "+l.Cluster, l.Messages, l.Unread, l.DeadLetters)
	}
	fmt.Fprintln(w)
	for _, f := range r.Broken {
		fmt.Fprintf(w, "  %s %d: %s\n", f.Rule, f.Count, f.Says)
		for _, e := range f.Examples {
			fmt.Fprintf(w, "    %s  %s\n", e.ID, e.Text)
		}
	}
	fmt.Fprintln(w, "What next?")
	for _, line := range append([][2]string{
		{"less " + filepath.Join(r.Dir, "log", demoSender+".log"), "what a program saw of it"},
		{"less " + filepath.Join(scene.HistoryDir(r.Dir), "*"), "every message that was sent and received, by its id"},
	}, r.next...) {
		fmt.Fprintf(w, "  %s\t%s\n", line[0], line[1])
	}
	fmt.Fprintf(w, "The files stay: remove %s when you have seen enough.\n", r.Dir)
}

func none(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, " ")
}

func milliseconds(v float64) string {
	if v < 0 {
		return "not seen"
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}
