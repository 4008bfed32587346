package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server/api"
)

func newMigrateReceipt(p *platform) *cobra.Command {
	return &cobra.Command{
		Use:   "receipt ID",
		Short: "Show why the old cluster can be switched off, or why not",
		Long: `Show the receipt of a migration that has ended: the verdict for each cluster that was left, and what it rests on. When it
was closed to writers; where it ended after that; which groups have read to that end. What came later is on it too: messages
that were written late and were sent on, sleeping groups that have finished.`,
		Example: `  turnout migrate receipt m-17
  turnout migrate receipt m-17 --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				r, err := c.Receipt(ctx, args[0])
				if err != nil {
					return unknownMigration(err)
				}
				return p.show(r, func(w io.Writer) { showReceipt(w, r) })
			})
		},
	}
}

func showReceipt(w io.Writer, r *migrate.Receipt) {
	showVerdict(w, r)
	fmt.Fprintln(w)
	field(w, "migration", r.Migration)
	field(w, "topic", r.Topic)
	field(w, "to", r.To)
	field(w, "outcome", r.Outcome)
	order := "not asked for"
	switch {
	case r.NoOrder != "":
		order = "not kept: " + r.NoOrder
	case r.Ordered:
		order = "kept"
	}
	field(w, "order per key", order)
	field(w, "started", fmt.Sprintf("%s by %s, approved by %s", moment(&r.Started), r.StartedBy, r.Approved))
	field(w, "ended", fmt.Sprintf("%s, after %v", moment(&r.Ended), r.Ended.Sub(r.Started).Round(time.Millisecond)))
	field(w, "accepted", strings.Join(r.Accepted, ", "))
	for _, c := range r.Canary {
		field(w, "canary", fmt.Sprintf("%s, by %s, from %s to %s: %s", c.Part, c.By, moment(&c.Since), moment(c.Until), c.End))
	}
	for _, g := range r.Guards {
		field(w, "guard", g)
	}
	for _, b := range r.Breaches {
		field(w, "breach of "+b.Guard, fmt.Sprintf("%s to %s in the state %s, %s: %s", moment(&b.At), moment(b.Over), b.State, b.Did, oneLine([]byte(b.Text))))
	}
	for _, l := range r.Left {
		fmt.Fprintln(w)
		field(w, "left", l.Cluster)
		field(w, "  topic there", l.Physical)
		if l.Away != nil {
			field(w, "  did not answer", "from "+moment(l.Away)+" to "+moment(l.Back))
		}
		field(w, "  closed to writers", moment(l.Fenced))
		field(w, "  sealed", at(l.Sealed, offsets(l.Seal, "empty")))
		field(w, "  read to the end", at(l.Drained, offsets(l.Ends, "empty")))
		for _, g := range slices.Sorted(maps.Keys(l.Groups)) {
			field(w, "  group "+g, offsets(l.Groups[g], "nothing to read"))
		}
		field(w, "  not read by", strings.Join(l.Sleeping, ", "))
		if l.Rescued > 0 {
			field(w, "  written late, sent on", l.Rescued)
		}
		for _, g := range slices.Sorted(maps.Keys(l.DeadLetters)) {
			field(w, "  dead letters of "+g, l.DeadLetters[g])
		}
	}
}

func showVerdict(w io.Writer, r *migrate.Receipt) {
	for _, sentence := range r.Verdict {
		fmt.Fprintln(w, sentence)
	}
}

// moment shows a time; nil: it did not happen.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "no"
	}
	return t.Local().Format("2006-01-02 15:04:05.000 -07:00")
}

// at is what was found at a time.
func at(t *time.Time, what string) string {
	if t == nil {
		return "no"
	}
	return moment(t) + ", at " + what
}
