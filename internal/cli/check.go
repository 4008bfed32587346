package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv/history"
)

// checkFlags say what a history should look like, beside what it says itself.
type checkFlags struct {
	groups, ordered, partial []string
	killed, clusters, allow  []string
	maxSend                  time.Duration
	maxRecords               int
}

func newCheckCommand(a *app) *cobra.Command {
	var flags checkFlags
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Hold a recorded history against the guarantees",
		Long: `Hold a recorded history against the guarantees: what was lost, left unread, passed over, handled twice and why, out of
order, or written to a cluster behind its seal, each by name and with examples; and how long sends and consumption stood still.

A history is what the processes of one run recorded of their sends and handlings, one file of JSON lines for each (go doc
github.com/turnout-mq/turnout/testenv/history; "turnout demo" records one). FILE is such a file, a folder of them, or "-" for
standard input, which may hold several files one after the other. They are merged by time.

The groups that are expected to handle everything are those that the history names; any other that handled something, for
the topics that it handled; and those of --group. A group that handled nothing and is not named is not missed.

A last line without its end is left out: its process was killed while writing. Any other line that can not be read ends the
check with exit code 3 and its place, as file:line.

` + wrap("The rules: "+ruleNames(), 120) + ".",
		Example: `  turnout check run/history
  turnout check sender.jsonl receiver-1.jsonl receiver-2.jsonl --ordered order_bil_group --killed receiver-2
  cat run/history/*.jsonl | turnout check - --output json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.check(args, flags) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.groups, "group", nil, "a group that must have handled everything: NAME, or NAME=TOPIC,TOPIC; may be repeated")
	f.StringSliceVar(&flags.ordered, "ordered", nil, "groups that handle the messages of a key in their order")
	f.StringSliceVar(&flags.partial, "partial", nil, "groups that may miss messages: they did not exist, or not run, all the time")
	f.StringSliceVar(&flags.killed, "killed", nil, "processes that were killed: their last sends have no outcome, their last handlings no end")
	f.StringSliceVar(&flags.clusters, "cluster", nil, "the clusters that may be used (default: any)")
	f.StringSliceVar(&flags.allow, "allow", []string{string(history.Duplicate)}, "rules whose breaches are counted and leave the verdict clean; --allow= for none")
	f.DurationVar(&flags.maxSend, "max-send", 0, "the longest that a send may take (0: any time)")
	f.IntVar(&flags.maxRecords, "max-records", 10_000_000, "how many records are read at most; each needs some 650 bytes of memory (0: no limit)")
	return cmd
}

// checkReport is the JSON of a check.
type checkReport struct {
	Files   []string `json:"files"`
	Records int      `json:"records"`
	Torn    []string `json:"torn,omitempty"` // files whose last line was left out
	history.Verdict
}

func (a *app) check(paths []string, flags checkFlags) error {
	if flags.maxSend < 0 {
		return usagef("--max-send %v: must not be below 0", flags.maxSend)
	}
	if flags.maxRecords < 0 {
		return usagef("--max-records %d: must not be below 0", flags.maxRecords)
	}
	allow, err := flags.rules()
	if err != nil {
		return err
	}
	in, err := history.Read(a.stdin, flags.maxRecords, paths...)
	if err != nil {
		return remedy(err, errs.ErrTooLarge, "check a shorter run, or raise --max-records where there is memory for it")
	}
	for _, file := range in.Torn {
		fmt.Fprintf(a.stderr, "turnout: %s: the last line has no end and was left out: its process was killed while writing\n", file)
	}
	if len(in.Events) == 0 {
		return fmt.Errorf("%w: no record in %s: nothing was checked", errs.ErrInvalid, strings.Join(paths, ", "))
	}
	o := history.Expect(in.Events)
	o.Killed, o.Clusters, o.Allow, o.MaxSend = flags.killed, flags.clusters, allow, flags.maxSend
	if err := flags.expect(&o); err != nil {
		return err
	}
	v := history.Check(in.Events, o)
	report := checkReport{Files: paths, Records: len(in.Events), Torn: in.Torn, Verdict: v}
	if err := a.show(report, func(w io.Writer) { fmt.Fprintf(w, "%d records\n%s", report.Records, v) }); err != nil {
		return err
	}
	if !v.Clean {
		return markedError{errors.New(strings.ToLower(v.Headline())), errVerdict}
	}
	return nil
}

// rules are those of --allow.
func (f checkFlags) rules() ([]history.Rule, error) {
	allow := []history.Rule{}
	for _, name := range f.allow {
		if !slices.Contains(history.Rules(), history.Rule(name)) {
			return nil, usagef("--allow %q: no such rule; the rules are %s", name, ruleNames())
		}
		allow = append(allow, history.Rule(name))
	}
	return allow, nil
}

// expect adds what the flags say of groups.
func (f checkFlags) expect(o *history.Options) error {
	index := func(name string) int {
		return slices.IndexFunc(o.Groups, func(g history.Group) bool { return g.Name == name })
	}
	for _, text := range f.groups {
		name, topics, restricted := strings.Cut(text, "=")
		if name == "" || restricted && topics == "" {
			return usagef("--group %q: must be NAME or NAME=TOPIC,TOPIC", text)
		}
		i := index(name)
		if i < 0 {
			i = len(o.Groups)
			o.Groups = append(o.Groups, history.Group{Name: name})
		}
		o.Groups[i].Topics = nil
		if restricted {
			o.Groups[i].Topics = strings.Split(topics, ",")
		}
	}
	for flag, names := range map[string][]string{"ordered": f.ordered, "partial": f.partial} {
		for _, name := range names {
			i := index(name)
			if i < 0 {
				return usagef("--%s %q: the history has no such group; name it with --group if it should have handled something", flag, name)
			}
			if flag == "ordered" {
				o.Groups[i].Ordered = true
			} else {
				o.Groups[i].Partial = true
			}
		}
	}
	return nil
}

func ruleNames() string {
	var names []string
	for _, r := range history.Rules() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// wrap breaks text at blanks into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
