package history

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Verdict is what Check found. It prints as a table and marshals to JSON.
type Verdict struct {
	Clean        bool           `json:"clean"` // no breach of a rule that was not allowed
	From         time.Time      `json:"from"`  // first event
	To           time.Time      `json:"to"`    // last event
	Sent         int            `json:"sent"`
	Acknowledged int            `json:"acknowledged"`
	Failed       int            `json:"failed"`
	Unknown      int            `json:"unknown"`
	Unanswered   int            `json:"unanswered"`  // also in processes that were killed
	Longest      Longest        `json:"longestSend"` // of the sends that have an outcome
	Clusters     []ClusterCount `json:"clusters"`
	Groups       []GroupCount   `json:"groups"`
	Findings     []Finding      `json:"findings"` // one for each rule, always in the same order
}

// Finding is how often one rule was broken.
type Finding struct {
	Rule      Rule      `json:"rule"`
	Guarantee string    `json:"guarantee,omitempty"` // G1 … G6 of docs/guarantees.md
	Says      string    `json:"says"`
	Count     int       `json:"count"`
	Allowed   bool      `json:"allowed,omitempty"` // by Options.Allow
	Examples  []Example `json:"examples,omitempty"`
}

// Example describes one breach. Times are relative to the first event of the history.
type Example struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Longest is the send that took longest.
type Longest struct {
	Took     time.Duration `json:"ns"`
	ID       string        `json:"id,omitempty"`
	Producer string        `json:"producer,omitempty"`
	Cluster  string        `json:"cluster,omitempty"` // that acknowledged it
	Began    time.Time     `json:"began,omitzero"`
}

// ClusterCount is what one cluster carried.
type ClusterCount struct {
	Cluster      string    `json:"cluster"`
	Acknowledged int       `json:"acknowledged"`
	Received     int       `json:"received"` // handlings of messages read from it, all groups
	FirstAck     time.Time `json:"firstAck,omitzero"`
	LastAck      time.Time `json:"lastAck,omitzero"`
}

// GroupCount is what one group did.
type GroupCount struct {
	Group      string `json:"group"`
	Handled    int    `json:"handled"` // messages, each counted once
	Begun      int    `json:"begun"`   // handlings
	Retried    int    `json:"retried"` // handlings that ended with an error
	Duplicates int    `json:"duplicates"`
	Lost       int    `json:"lost"`
}

// Count is how often a rule was broken.
func (v Verdict) Count(r Rule) int {
	for _, f := range v.Findings {
		if f.Rule == r {
			return f.Count
		}
	}
	return 0
}

// Err is nil when the verdict is clean, else an error that holds the whole table.
func (v Verdict) Err() error {
	if v.Clean {
		return nil
	}
	return errors.New(v.String())
}

// String is the table that people read: the sums, then the rules that were broken with examples, then what was kept.
func (v Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "verdict: %s\n\n", v.headline())
	table(&b, func(row func(cells ...any)) {
		row("sent", "acknowledged", "failed", "unknown", "unanswered", "longest send")
		row(v.Sent, v.Acknowledged, v.Failed, v.Unknown, v.Unanswered, v.Longest)
	})
	table(&b, func(row func(cells ...any)) {
		row("cluster", "acknowledged", "received", "first ack", "last ack")
		for _, c := range v.Clusters {
			row(c.Cluster, c.Acknowledged, c.Received, v.since(c.FirstAck), v.since(c.LastAck))
		}
	})
	table(&b, func(row func(cells ...any)) {
		row("group", "handled", "lost", "duplicates", "retried")
		for _, g := range v.Groups {
			row(g.Group, g.Handled, g.Lost, g.Duplicates, g.Retried)
		}
	})
	var kept []string
	for _, f := range v.Findings {
		if f.Count == 0 {
			kept = append(kept, string(f.Rule))
			continue
		}
		f.print(&b)
	}
	fmt.Fprintf(&b, "none: %s\n", strings.Join(kept, ", "))
	return b.String()
}

func (v Verdict) headline() string {
	if v.Clean {
		return "clean"
	}
	var broken []string
	for _, f := range v.Findings {
		if f.Count > 0 && !f.Allowed {
			broken = append(broken, fmt.Sprintf("%d %s", f.Count, f.Rule))
		}
	}
	return "NOT CLEAN: " + strings.Join(broken, ", ")
}

func (v Verdict) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%+.3fs", t.Sub(v.From).Seconds())
}

func (f Finding) print(b *strings.Builder) {
	title := fmt.Sprintf("%s %d", f.Rule, f.Count)
	if f.Guarantee != "" {
		title += " (" + f.Guarantee + ")"
	}
	if f.Allowed {
		title += ", allowed"
	}
	fmt.Fprintf(b, "%s: %s\n", title, f.Says)
	for _, e := range f.Examples {
		fmt.Fprintf(b, "    %s  %s\n", e.ID, e.Text)
	}
	if more := f.Count - len(f.Examples); more > 0 {
		fmt.Fprintf(b, "    … and %d more\n", more)
	}
	b.WriteByte('\n')
}

// String says how long, and which.
func (l Longest) String() string {
	if l.ID == "" {
		return "-"
	}
	return fmt.Sprintf("%s (%s on %s)", l.Took.Round(time.Microsecond), l.ID, l.Cluster)
}

func table(b *strings.Builder, fill func(row func(cells ...any))) {
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fill(func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	})
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteByte('\n')
}
