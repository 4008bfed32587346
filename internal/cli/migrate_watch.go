package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	watchWait    = 500 * time.Millisecond // for the next event, between two looks
	watchEvery   = 200 * time.Millisecond // between two looks at least
	watchNumbers = 2 * time.Second        // between two lines of numbers where there is no terminal
	watchMost    = 8                      // events and awaited participants in the picture
)

func newMigrateWatch(p *platform) *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID",
		Short: "Follow a migration to its end",
		Long: `Follow a migration to its end. On a terminal it is a picture that moves: the states with the present one marked, what is
waited for, who has applied the route and who has not, for each cluster how many messages a second are stored there and
how much each group has still to read, and the last events. Elsewhere events and numbers are lines; with --output json every
look is a document on a line of its own.

The exit code is 0 when it ends as done, 7 when it ends otherwise, and 0 by Ctrl-C, which ends only the watching. When the
server dies another one is asked, or the same one when it is back.`,
		Example: `  turnout migrate watch m-17
  turnout migrate watch m-17 --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.watch(cmd.Context(), args[0]) },
	}
}

// sight is what one look at a migration has found.
type sight struct {
	migrate.Live
	Rates  map[string]float64 `json:"perSecond"` // by cluster: messages stored a second since the last look
	Events []store.Event      `json:"events"`    // since the last look
	// Receipt of the last sight.
	Receipt *migrate.Receipt `json:"receipt,omitempty"`
}

// screen shows sights.
type screen interface {
	show(s *sight) error
	// close ends it; last is the last sight, nil if there was none.
	close(last *sight) error
}

func (p *platform) watch(ctx context.Context, id string) error {
	c, err := p.client(serverPatience)
	if err != nil {
		return err
	}
	defer c.Close()
	var out screen
	switch {
	case p.json():
		out = jsonScreen{json.NewEncoder(p.stdout)}
	case isTerminal(p.stdout):
		out = &terminalScreen{out: p.stdout}
	default:
		out = &lineScreen{out: p.stdout}
	}
	var last *sight
	err = watchTo(ctx, c, id, func(s *sight) error {
		last = s
		return out.show(s)
	})
	if cerr := out.close(last); err == nil {
		err = cerr
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return unknownMigration(err)
	case last.Migration.Outcome != store.Done:
		return markedError{fmt.Errorf("migration %s has ended as %s", id, last.Migration.Outcome), errVerdict}
	}
	return nil
}

// watchTo looks again and again until the migration has ended.
func watchTo(ctx context.Context, c *api.Client, id string, show func(*sight) error) error {
	var after int64
	var before *sight
	for {
		begin := time.Now()
		wait := watchWait
		if before == nil {
			wait = 0
		}
		events, err := c.Events(ctx, id, after, wait)
		if err != nil {
			return err
		}
		live, err := c.Live(ctx, id)
		if err != nil {
			return err
		}
		s := &sight{Live: *live, Events: events, Rates: rates(before, live)}
		ended := live.Migration.EndedAt != nil
		if ended { // what has come meanwhile
			rest, err := c.Events(ctx, id, lastSeq(after, events), 0)
			if err != nil {
				return err
			}
			s.Events = append(s.Events, rest...)
			if s.Receipt, err = c.Receipt(ctx, id); err != nil && !errors.Is(err, errs.ErrNotFound) {
				return err
			}
		}
		after = lastSeq(after, s.Events)
		if err := show(s); err != nil || ended {
			return err
		}
		before = s
		select {
		case <-time.After(watchEvery - time.Since(begin)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func lastSeq(after int64, events []store.Event) int64 {
	if len(events) == 0 {
		return after
	}
	return events[len(events)-1].Seq
}

// rates is how many messages a second each cluster has stored between two looks.
func rates(before *sight, now *migrate.Live) map[string]float64 {
	found := map[string]float64{}
	if before == nil {
		return found
	}
	seconds := now.At.Sub(before.At).Seconds()
	for _, c := range now.Clusters {
		for _, b := range before.Clusters {
			if b.Cluster == c.Cluster && b.Error == "" && c.Error == "" && seconds > 0 {
				found[c.Cluster] = max(0, float64(c.Stored-b.Stored)/seconds)
			}
		}
	}
	return found
}

// jsonScreen writes one document a line.
type jsonScreen struct{ *json.Encoder }

func (j jsonScreen) show(s *sight) error { return j.Encode(s) }
func (jsonScreen) close(*sight) error    { return nil }

// lineScreen writes events and numbers in lines.
type lineScreen struct {
	out   io.Writer
	said  string // what was waited for
	lined time.Time
}

func (l *lineScreen) show(s *sight) error {
	var b strings.Builder
	for _, e := range s.Events {
		b.WriteString(eventLine(e) + "\n")
	}
	m := s.Migration
	if waits := oneLineOrNone(m.Waiting); waits != l.said || time.Since(l.lined) >= watchNumbers {
		l.said, l.lined = waits, time.Now()
		fmt.Fprintf(&b, "%s  %s", s.At.Local().Format(eventTime), m.State)
		for _, c := range s.Clusters {
			fmt.Fprintf(&b, "; %s", clusterLine(s, c))
		}
		if waits != "" {
			fmt.Fprintf(&b, "; waits: %s", waits)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(l.out, b.String())
	return err
}

func (l *lineScreen) close(last *sight) error {
	if last == nil || last.Receipt == nil {
		return nil
	}
	var b strings.Builder
	showVerdict(&b, last.Receipt)
	_, err := io.WriteString(l.out, b.String())
	return err
}

func clusterLine(s *sight, c migrate.LiveCluster) string {
	if c.Error != "" {
		return c.Cluster + " can not be asked"
	}
	text := c.Cluster
	if rate, known := s.Rates[c.Cluster]; known {
		text += fmt.Sprintf(" %.0f/s", rate)
	}
	if l := lags(c); l != "" {
		text += ", unread " + l
	}
	return text
}

// failed and p99 are of the attempts to send in the last seconds.
func failed(c migrate.LiveCluster) string {
	if c.Sends == nil {
		return ""
	}
	return fmt.Sprintf("%d of %d", c.Sends.Failed, c.Sends.All())
}

func p99(c migrate.LiveCluster) string {
	if c.Sends == nil {
		return ""
	}
	return fmt.Sprintf("%.1f ms", c.Sends.P99)
}

// guardLine says what a guard has found.
func guardLine(s *sight, g migrate.Guard) string {
	for _, b := range s.Breaches {
		if b.Guard == g.String() {
			return fmt.Sprintf("%s: since %s: %s (%s)", g, b.At.Local().Format(eventTime), oneLine([]byte(b.Text)), b.Did)
		}
	}
	return g.String() + ": no breach"
}

func lags(c migrate.LiveCluster) string {
	var parts []string
	for _, g := range slices.Sorted(maps.Keys(c.Lag)) {
		parts = append(parts, fmt.Sprintf("%s %d", g, c.Lag[g]))
	}
	return strings.Join(parts, ", ")
}

const eventTime = "15:04:05.000"

func eventLine(e store.Event) string {
	return e.At.Local().Format(eventTime) + "  " + oneLine([]byte(e.Text))
}

// terminalScreen draws a picture over the whole terminal.
type terminalScreen struct {
	out    io.Writer
	drawn  bool
	events []store.Event // the last ones
	frame  string
}

// Control sequences of terminals.
const (
	termEnter = "\x1b[?1049h\x1b[?25l\x1b[?7l" // the other screen, no cursor, long lines are cut
	termLeave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	termHome  = "\x1b[H"
	termLine  = "\x1b[K\r\n" // clear the rest of the line
	termRest  = "\x1b[J"     // clear what is below
	termMark  = "\x1b[7m"
	termPlain = "\x1b[0m"
)

func (t *terminalScreen) show(s *sight) error {
	t.events = append(t.events, s.Events...)
	if n := len(t.events); n > watchMost {
		t.events = t.events[n-watchMost:]
	}
	t.frame = t.draw(s)
	text := termHome + strings.ReplaceAll(strings.Replace(strings.Replace(t.frame, "[", termMark+"[", 1), "]", "]"+termPlain, 1), "\n", termLine) + termRest
	if !t.drawn {
		t.drawn = true
		text = termEnter + text
	}
	_, err := io.WriteString(t.out, text)
	return err
}

// close leaves the last picture where the command was given.
func (t *terminalScreen) close(last *sight) error {
	if !t.drawn {
		return nil
	}
	var b strings.Builder
	b.WriteString(termLeave + t.frame)
	if last != nil && last.Receipt != nil {
		b.WriteByte('\n')
		showVerdict(&b, last.Receipt)
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

// draw makes the picture. The present state is the first thing in brackets.
func (t *terminalScreen) draw(s *sight) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	m := s.Migration
	how := "unordered"
	if m.Ordered {
		how = "ordered"
	}
	for _, line := range states(m) {
		fmt.Fprintln(w, line)
	}
	end := s.At
	if m.EndedAt != nil {
		end = *m.EndedAt
	}
	fmt.Fprintf(w, "%s: %s to %s, %s, by %s, %.1f s\n", m.ID, m.Topic, m.Target, how, m.StartedBy, end.Sub(m.CreatedAt).Seconds())
	waits := "nothing"
	if text := oneLineOrNone(m.Waiting); text != "" {
		waits = text
	}
	fmt.Fprintf(w, "waits for: %s\n", waits)
	if m.Request != "" {
		fmt.Fprintf(w, "asked for: %s\n", m.Request)
	}
	for _, g := range s.Guards {
		fmt.Fprintf(w, "guard %s\n", guardLine(s, g))
	}

	var awaited []migrate.LiveParticipant
	for _, p := range s.Participants {
		if !p.Acked {
			awaited = append(awaited, p)
		}
	}
	fmt.Fprintf(w, "\n%d of %s applied the route\n", len(s.Participants)-len(awaited), count.Of(len(s.Participants), "participant has", "participants have"))
	for i, p := range awaited {
		if i == watchMost {
			fmt.Fprintf(w, "  and %d more\n", len(awaited)-i)
			break
		}
		fmt.Fprintf(w, "  awaited: %s, writes %s%s\n", p.ID, p.Write, prefixed(", ", oneLineOrNone(p.Error)))
	}

	showCanary(w, s.Canary)
	fmt.Fprintln(w)
	row(w, "CLUSTER", "WRITTEN", "CLOSED", "SEALED", "STORED", "A SECOND", "FAILED", "P99", "UNREAD")
	for _, c := range s.Clusters {
		if c.Error != "" {
			row(w, c.Cluster, yes(c.Write), "?", yes(c.Sealed), "?", "?", failed(c), p99(c), oneLine([]byte(c.Error)))
			continue
		}
		rate := ""
		if r, known := s.Rates[c.Cluster]; known {
			rate = fmt.Sprintf("%.0f", r)
		}
		row(w, c.Cluster, yes(c.Write), yes(c.Fenced), yes(c.Sealed), c.Stored, rate, failed(c), p99(c), lags(c))
	}

	fmt.Fprintln(w)
	_ = w.Flush() // into memory
	for _, e := range t.events {
		b.WriteString(eventLine(e) + "\n")
	}
	return b.String()
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

// statePaths are the ways through the states, as people see them.
var statePaths = [][]migrate.State{
	{migrate.Planned, migrate.Preparing, migrate.Holding, migrate.Fencing, migrate.Switching, migrate.Draining, migrate.Closing, migrate.Done},
	{migrate.Planned, migrate.Preparing, migrate.Switching, migrate.Sealing, migrate.Draining, migrate.Closing, migrate.Done},
	{migrate.Planned, migrate.Preparing, migrate.Holding, migrate.Fencing, migrate.Reverting, migrate.Done},
	{migrate.Planned, migrate.Preparing, migrate.Reverting, migrate.Done},
	{migrate.Planned, migrate.Preparing, migrate.Switching, migrate.Sealing, migrate.Draining, migrate.Shutting, migrate.Closing, migrate.Done},
}

// withCanary is a way through the states with a canary in it. Sends of an ordered topic pause before and after it.
func withCanary(path []migrate.State) []migrate.State {
	i := slices.Index(path, migrate.Preparing) + 1
	first := []migrate.State{migrate.Canarying}
	return slices.Concat(path[:i], first, path[i:])
}

// forcedPaths are those of a move away from a cluster that does not answer.
var forcedPaths = [][]migrate.State{
	{migrate.Planned, migrate.Switching, migrate.Pending, migrate.Sealing, migrate.Draining, migrate.Closing, migrate.Done},
	{migrate.Planned, migrate.Switching, migrate.Pending, migrate.Sealing, migrate.Draining, migrate.Shutting, migrate.Closing, migrate.Done},
}

// states is the way of a migration with the present state in brackets.
func states(m *store.Migration) []string {
	state := migrate.State(m.State)
	paths := statePaths
	if !m.Ordered {
		paths = [][]migrate.State{statePaths[1], statePaths[3], statePaths[4]}
		if shut(m) {
			paths[0], paths[2] = paths[2], paths[0]
		}
	}
	if planned(m).Canary != nil {
		paths = slices.Clone(paths)
		for i, path := range paths {
			paths[i] = withCanary(path)
		}
	}
	if forced(m) {
		paths = slices.Clone(forcedPaths)
		if shut(m) {
			slices.Reverse(paths)
		}
	}
	i := slices.IndexFunc(paths, func(path []migrate.State) bool { return slices.Contains(path, state) })
	if i < 0 {
		return []string{"[" + m.State + "]"}
	}
	var names []string
	for _, s := range paths[i] {
		name := string(s)
		if s == state {
			name = "[" + name + "]"
			if m.Outcome != "" && m.Outcome != store.Done {
				name = "[" + string(s) + ": " + string(m.Outcome) + "]"
			}
		}
		names = append(names, name)
	}
	lines := []string{strings.Join(names, " → ")}
	// Of the controller's own document: where it goes when it has turned round.
	var d struct {
		Reverse, GoBack bool
		Target          struct{ Cluster string }
		Home            string
	}
	if json.Unmarshal(m.Data, &d) == nil {
		switch {
		case d.Reverse:
			lines = append(lines, "on the way back to "+d.Target.Cluster)
		case d.GoBack:
			lines = append(lines, "goes back to "+d.Home+" when everything there was read")
		}
	}
	return lines
}

// planned is what was agreed upon.
func planned(m *store.Migration) (plan migrate.Plan) {
	_ = json.Unmarshal(m.Plan, &plan) // the controller has written it
	return plan
}

// forced says whether a migration is on its way out of a cluster that did not answer.
func forced(m *store.Migration) bool {
	var d struct{ Reverse bool }
	return planned(m).Force && json.Unmarshal(m.Data, &d) == nil && !d.Reverse
}

// shut says whether a migration goes through the state shutting, as far as it tells: a cluster was read before it was closed.
func shut(m *store.Migration) bool {
	var d struct {
		Sources []struct{ Drained, Sealed *time.Time }
	}
	if json.Unmarshal(m.Data, &d) != nil {
		return false
	}
	for _, s := range d.Sources {
		if s.Drained != nil && (s.Sealed == nil || s.Sealed.After(*s.Drained)) {
			return true
		}
	}
	return false
}

// isTerminal says whether w is one, or another device that takes characters.
func isTerminal(w io.Writer) bool {
	f, is := w.(*os.File)
	if !is || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
