package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Verdict is what Check found. It prints as a table and marshals to JSON.
type Verdict struct {
	Clean        bool            `json:"clean"` // no breach of a rule that was not allowed
	From         time.Time       `json:"from"`  // first event
	To           time.Time       `json:"to"`    // last event
	Sent         int             `json:"sent"`
	Acknowledged int             `json:"acknowledged"`
	Failed       int             `json:"failed"`
	Unknown      int             `json:"unknown"`
	Unanswered   int             `json:"unanswered"`   // also in processes that were killed
	Longest      Longest         `json:"longestSend"`  // of the sends that have an outcome
	LongestPause Longest         `json:"longestPause"` // of consumption: the longest Pause of a group
	Clusters     []ClusterCount  `json:"clusters"`
	Producers    []ProducerCount `json:"producers"` // the one that stood still longest first
	Groups       []GroupCount    `json:"groups"`
	Findings     []Finding       `json:"findings"` // one for each rule, always in the same order
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

// Longest is what took longest of its kind, and where and when it was.
type Longest struct {
	Took      time.Duration `json:"ns"`
	Began     time.Time     `json:"began,omitzero"`
	ID        string        `json:"id,omitempty"` // of the message whose send or handling ended it
	Producer  string        `json:"producer,omitempty"`
	Group     string        `json:"group,omitempty"`
	Member    string        `json:"member,omitempty"`
	Cluster   string        `json:"cluster,omitempty"` // that acknowledged the message, or that it was read from
	Partition string        `json:"partition,omitempty"`
	During    string        `json:"during,omitempty"` // the states that migrations of the topic were in: "m-17: holding fencing"
}

// ClusterCount is what one cluster carried.
type ClusterCount struct {
	Cluster      string    `json:"cluster"`
	Acknowledged int       `json:"acknowledged"`
	Received     int       `json:"received"` // handlings of messages read from it, all groups
	FirstAck     time.Time `json:"firstAck,omitzero"`
	LastAck      time.Time `json:"lastAck,omitzero"`
}

// ProducerCount is what one sending process did.
type ProducerCount struct {
	Producer     string `json:"producer"`
	Sent         int    `json:"sent"`
	Acknowledged int    `json:"acknowledged"`
	Errors       int    `json:"errors"` // sends that failed, or whose outcome is not known
	// Longest is its longest send.
	Longest Longest `json:"longestSend"`
	// Pause is the longest time in which it had something to send and nothing was acknowledged: one slow send, or one after
	// the other that failed.
	Pause Longest `json:"pause"`
}

// GroupCount is what one group did.
type GroupCount struct {
	Group      string        `json:"group"`
	Handled    int           `json:"handled"` // messages, each counted once
	Begun      int           `json:"begun"`   // handlings
	Retried    int           `json:"retried"` // handlings that ended with an error
	Duplicates int           `json:"duplicates"`
	Causes     map[Cause]int `json:"causes,omitempty"` // of the duplicates
	Lost       int           `json:"lost"`
	Stranded   int           `json:"stranded"` // of the lost
	Unseen     int           `json:"unseen"`   // of the lost
	// Pause is the longest time in which a message that it handled later had been acknowledged, and it neither began nor
	// ended to handle any.
	Pause Longest `json:"pause"`
	// Wait is the longest time from the acknowledgement of a message to the beginning of its first handling.
	Wait Longest `json:"wait"`
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
	fmt.Fprintf(&b, "verdict: %s\n\n", v.Headline())
	table(&b, func(row func(cells ...any)) {
		row("sent", "acknowledged", "failed", "unknown", "unanswered")
		row(v.Sent, v.Acknowledged, v.Failed, v.Unknown, v.Unanswered)
	})
	table(&b, func(row func(cells ...any)) {
		row("longest", "time", "began", "where", "during")
		row("send", took(v.Longest), v.since(v.Longest.Began), v.Longest.where(v.Longest.Producer), cmp.Or(v.Longest.During, "-"))
		row("pause of consumption", took(v.LongestPause), v.since(v.LongestPause.Began), v.LongestPause.where(v.LongestPause.Group),
			cmp.Or(v.LongestPause.During, "-"))
	})
	table(&b, func(row func(cells ...any)) {
		row("cluster", "acknowledged", "received", "first ack", "last ack")
		for _, c := range v.Clusters {
			row(c.Cluster, c.Acknowledged, c.Received, v.since(c.FirstAck), v.since(c.LastAck))
		}
	})
	table(&b, func(row func(cells ...any)) {
		row("producer", "sent", "acknowledged", "errors", "longest send", "longest pause")
		for i, p := range v.Producers {
			if i == maxExamples {
				row(fmt.Sprintf("… and %d with less", len(v.Producers)-i))
				break
			}
			row(p.Producer, p.Sent, p.Acknowledged, p.Errors, v.short(p.Longest), v.short(p.Pause))
		}
	})
	table(&b, func(row func(cells ...any)) {
		row("group", "handled", "lost", "stranded", "unseen", "duplicates", "retried", "longest pause", "longest wait")
		for _, g := range v.Groups {
			row(g.Group, g.Handled, g.Lost, g.Stranded, g.Unseen, g.duplicates(), g.Retried, v.short(g.Pause), v.short(g.Wait))
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

// Headline is "clean", or "NOT CLEAN: " and what was found that is not allowed.
func (v Verdict) Headline() string {
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
	return fmt.Sprintf("%s (%s on %s)", took(l), l.ID, l.Cluster)
}

// where names the message, the process or group, and the cluster.
func (l Longest) where(who string) string {
	if l.ID == "" {
		return "-"
	}
	at := l.Cluster
	if l.Partition != "" {
		at += "/" + l.Partition
	}
	return fmt.Sprintf("%s, %s, %s", who, cmp.Or(at, "no cluster"), l.ID)
}

func took(l Longest) string {
	if l.ID == "" {
		return "-"
	}
	return l.Took.Round(time.Microsecond).String()
}

// short says how long and when.
func (v Verdict) short(l Longest) string {
	if l.ID == "" {
		return "-"
	}
	return took(l) + " at " + v.since(l.Began)
}

// duplicates are how many, and why.
func (g GroupCount) duplicates() string {
	text := strconv.Itoa(g.Duplicates)
	var why []string
	for _, c := range slices.Sorted(maps.Keys(g.Causes)) {
		why = append(why, fmt.Sprintf("%d %s", g.Causes[c], c))
	}
	if why == nil {
		return text
	}
	return text + " (" + strings.Join(why, ", ") + ")"
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
