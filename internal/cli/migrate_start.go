package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

// moveFlags are those that plan and start have in common.
type moveFlags struct {
	to         string
	unordered  bool
	create     bool
	partitions int
	hold       time.Duration
	accept     []string
	force      bool
	guards     []string
	canary     canaryFlags
}

func (m *moveFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&m.to, "to", "", "the cluster that the topic is to go to")
	f.BoolVar(&m.unordered, "unordered", false, "do not keep the order per key of a topic that has it: sends do not pause then")
	f.BoolVar(&m.create, "create", false, "create the topic there if it is missing, with the settings that it has now")
	f.IntVar(&m.partitions, "partitions", 0, "of a topic that is created (default: as many as now)")
	f.DurationVar(&m.hold, "hold", 3*time.Second, "how long sends of an ordered topic may pause at most; it goes back to where it was when that is not enough")
	f.BoolVar(&m.force, "force", false, "leave a cluster that does not answer: sends under way there are taken back and sent to the other one at once")
	f.StringSliceVar(&m.accept, "accept", nil, "codes of warnings that do not stop it; all accepts every one")
	f.StringArrayVar(&m.guards, "guard", nil, "a limit to watch it by, STATE:WHAT=LIMIT:DO, such as draining:time=30m:pause; STATE any is every one, WHAT time, errors, p99 or lag, DO page, pause or rollback; may be given again")
	m.canary.add(cmd)
}

func (m *moveFlags) request() (api.Request, error) {
	switch {
	case m.to == "":
		return api.Request{}, usagef("where to? Give --to CLUSTER")
	case m.partitions < 0:
		return api.Request{}, usagef("--partitions %d: must be 1 or more", m.partitions)
	case m.partitions > 0 && !m.create:
		return api.Request{}, usagef("--partitions %d: is for a topic that is created; add --create", m.partitions)
	case m.hold < time.Millisecond || m.hold > time.Minute:
		return api.Request{}, usagef("--hold %v: must be 1ms to 1m", m.hold)
	}
	guards, err := m.guarded()
	if err != nil {
		return api.Request{}, err
	}
	canary, err := m.canary.part()
	switch {
	case err != nil:
		return api.Request{}, err
	case canary != nil && m.force:
		return api.Request{}, usagef("--force lets everything leave at once, and a canary a part: give one of them")
	}
	return api.Request{To: m.to, Unordered: m.unordered, Create: m.create, Partitions: m.partitions, HoldMS: m.hold.Milliseconds(), Accept: m.accept,
		Force: m.force, Guards: guards, Canary: canary}, nil
}

func newMigratePlan(p *platform) *cobra.Command {
	var m moveFlags
	cmd := &cobra.Command{
		Use:   "plan TOPIC",
		Short: "Look whether a topic can be moved, and change nothing",
		Long: `Look whether a topic can be moved, and change nothing: both clusters, the topic on them, who sends and reads, what has not
been read and when it expires, strangers that do not follow. What is an error has to be corrected; a warning can be accepted
by its code. The command that starts the migration is printed. The exit code is 3 when something blocks it.

--timeout is 1m here unless it is given.`,
		Example: `  turnout migrate plan order_topic --to kafka-b
  turnout migrate plan order_topic --to kafka-b --create --accept auto-create`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := m.request()
			if err != nil {
				return err
			}
			r.Topic = args[0]
			return p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
				plan, err := c.Plan(ctx, r)
				if err != nil {
					return err
				}
				if err := p.show(plan, func(w io.Writer) { showPlan(w, plan, &m) }); err != nil {
					return err
				}
				if n := len(plan.Blocking()); n > 0 {
					return markedError{fmt.Errorf("topic %s can not be moved to %s as things are: %s", plan.Topic, plan.To, count.Of(n, "finding blocks it", "findings block it")), errs.ErrInvalid}
				}
				return nil
			})
		},
	}
	m.add(cmd)
	return cmd
}

func showPlan(w io.Writer, plan *migrate.Plan, m *moveFlags) {
	how := "unordered: sends do not pause"
	if plan.Ordered {
		how = fmt.Sprintf("the order per key is kept; sends may pause for up to %v", time.Duration(plan.Hold)*time.Millisecond)
	}
	if plan.Canary != nil {
		how += fmt.Sprintf("; first %v", *plan.Canary)
	}
	fmt.Fprintf(w, "topic %s to %s, %s; %s\n\n", plan.Topic, plan.To, how, count.Of(len(plan.Participants), "participant", "participants"))
	showFindings(w, plan.Findings)
	todo, command := next(plan, m)
	fmt.Fprintf(w, "\n%s:\n  %s\n", todo, command)
}

// next says what is to be done, and the command that then starts it.
func next(plan *migrate.Plan, m *moveFlags) (todo, command string) {
	errors := 0
	accept := append([]string{}, m.accept...)
	for _, f := range plan.Blocking() {
		if f.Level == migrate.Error {
			errors++
		} else {
			accept = appendNew(accept, f.Code)
		}
	}
	command = m.command(plan.Topic, accept)
	switch {
	case errors > 0:
		return "correct the errors; then start it with", command
	case len(plan.Blocking()) > 0:
		return "if the warnings are accepted, start it with", command
	}
	return "nothing blocks it; start it with", command
}

// refused shows what blocks in a table, where several findings are why the platform has not begun, and what to do. One has room
// in the line that an error is.
func (p *platform) refused(err error, r api.Request, m *moveFlags) error {
	var told *api.Error
	if p.json() || !errors.As(err, &told) {
		return err
	}
	plan := &migrate.Plan{Topic: r.Topic, To: r.To, Findings: told.Findings}
	if len(plan.Blocking()) < 2 {
		return err
	}
	if err := p.show(plan, func(w io.Writer) { showFindings(w, plan.Blocking()) }); err != nil {
		return err
	}
	todo, command := next(plan, m)
	return markedError{fmt.Errorf("topic %s can not be moved to %s now: %s: %s", plan.Topic, plan.To, todo, command), err}
}

func showFindings(w io.Writer, findings []migrate.Finding) {
	if len(findings) == 0 {
		fmt.Fprintln(w, "nothing was found")
		return
	}
	row(w, "LEVEL", "CODE", "WHAT", "REMEDY")
	for _, f := range findings {
		level := string(f.Level)
		if f.Accepted {
			level += ", accepted"
		}
		row(w, level, f.Code, oneLine([]byte(strings.ReplaceAll(f.Text, "\n", "; "))), oneLineOrNone(f.Remedy))
	}
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// command is the one that starts what was planned.
func (m *moveFlags) command(topic string, accept []string) string {
	words := []string{"turnout migrate start", topic, "--to", m.to}
	if m.unordered {
		words = append(words, "--unordered")
	}
	if m.create {
		words = append(words, "--create")
	}
	if m.partitions > 0 {
		words = append(words, "--partitions", fmt.Sprint(m.partitions))
	}
	if m.hold != 3*time.Second {
		words = append(words, "--hold", m.hold.String())
	}
	if m.force {
		words = append(words, "--force")
	}
	for _, g := range m.guards {
		words = append(words, "--guard", g)
	}
	words = append(words, m.canary.words()...)
	if len(accept) > 0 {
		words = append(words, "--accept", strings.Join(accept, ","))
	}
	return strings.Join(words, " ")
}

func newMigrateStart(p *platform) *cobra.Command {
	var (
		m        moveFlags
		file     string
		parallel int
		watch    bool
	)
	cmd := &cobra.Command{
		Use:   "start TOPIC...",
		Short: "Move topics to another cluster",
		Long: `Move a topic to another cluster. What turnout migrate plan looks at is looked at again; when something blocks it nothing
is begun (exit code 3). The command returns when the migration is stored; from then on the platform carries it out, whatever
becomes of this command. --watch follows it to its end, as turnout migrate watch does.

--force is for the day when the cluster that the topic is on does not answer: it is not asked, sends under way there are
taken back, and sends go to the other cluster at once. When it answers again it is closed to writers, read to its end and left.
A migration of the topic that runs already is taken over. A batch does not wait for that cluster, nor for topics that fail.

Several topics, or those in --topics-file, are a batch: --parallel at a time, and the command waits for their ends. When one
fails no further one is begun; those that run go on to their ends, and the command says which are done, which failed and
why, and which were not begun. A topic that is on the cluster already is done, so a batch can be repeated. Ctrl-C begins
no further one; those that run go on.

--timeout is 1m here unless it is given; it is for the start of each topic.`,
		Example: `  turnout migrate start order_topic --to kafka-b --watch
  turnout migrate start order_topic --to kafka-b --create --partitions 8 --accept auto-create,sleeping-groups
  turnout migrate start order_topic --to kafka-b --guard any:errors=5%:rollback --guard draining:time=30m:pause
  turnout migrate start order_topic --to kafka-b --canary 10%
  turnout migrate start order_topic bil_topic --to kafka-b --parallel 2
  turnout migrate start order_topic --to kafka-b --force --watch
  turnout migrate start --topics-file topics.txt --to kafka-b`,
		Args: cobra.ArbitraryArgs,
	}
	m.add(cmd)
	by := byFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&file, "topics-file", "", "file with the names of topics, separated by blanks or line ends, # comments; - is standard input")
	f.IntVar(&parallel, "parallel", 4, "how many topics of a batch are moved at a time")
	f.BoolVar(&watch, "watch", false, "follow it to its end; a batch is always followed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := m.request()
		if err != nil {
			return err
		}
		if r.By, err = by(); err != nil {
			return err
		}
		topics, err := p.topics(args, file)
		switch {
		case err != nil:
			return err
		case len(topics) == 0:
			return usagef("which topic? Name one or more, or give --topics-file")
		case parallel < 1:
			return usagef("--parallel %d: must be 1 or more", parallel)
		case r.Canary != nil && (len(topics) > 1 || file != ""):
			return usagef("a canary waits for somebody to promote it, and a batch for the ends of its topics: start each topic by itself")
		case len(topics) > 1 || file != "":
			return p.moveAll(cmd, api.Batch{Topics: topics, Request: r, Parallel: parallel})
		}
		r.Topic = topics[0]
		var id string
		err = p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
			row, err := c.Start(ctx, r)
			if err != nil {
				return p.refused(err, r, &m)
			}
			id = row.ID
			if watch {
				return nil
			}
			return p.show(row, func(w io.Writer) {
				fmt.Fprintf(w, "migration %s moves %s to %s\nwatch it: turnout migrate watch %s\n", row.ID, row.Topic, row.Target, row.ID)
			})
		})
		if err != nil || !watch {
			return err
		}
		return p.watch(cmd.Context(), id)
	}
	return cmd
}

// topics are those named on the command line and in the file.
func (p *platform) topics(args []string, file string) ([]string, error) {
	var in io.Reader
	switch file {
	case "":
		return args, nil
	case "-":
		in = p.stdin
	default:
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("--topics-file: %w", err)
		}
		defer f.Close()
		in = f
	}
	topics := append([]string{}, args...)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		topics = append(topics, strings.Fields(line)...)
	}
	if err := lines.Err(); err != nil {
		return nil, usagef("--topics-file: %w", err)
	}
	return topics, nil
}

// batchReport is what a batch prints at its end in JSON.
type batchReport struct {
	Done     []api.Moved   `json:"done"`
	Failed   []failedTopic `json:"failed"`
	Running  []api.Moved   `json:"running"`
	NotBegun []string      `json:"notBegun"`
}

type failedTopic struct {
	api.Moved
	Error string `json:"error"`
}

// moveAll moves a batch and tells what happens.
func (p *platform) moveAll(cmd *cobra.Command, b api.Batch) error {
	c, err := p.client(serverPatience)
	if err != nil {
		return err
	}
	defer c.Close()
	var mu sync.Mutex
	begun, ended := map[string]time.Time{}, 0
	b.StartLimit = preflightLimit
	if cmd.Flags().Changed("timeout") {
		b.StartLimit = p.settings.timeout
	}
	b.Tell = func(m api.Moved) {
		mu.Lock()
		defer mu.Unlock()
		if m.Ended || m.Pending {
			ended++
		}
		switch {
		case p.json():
		case m.Pending:
			fmt.Fprintf(p.stdout, "%s: %s sends go to %s after %.1f s; what was left is waited for (%d of %d)\n", m.Topic, m.Migration, b.Request.To, time.Since(begun[m.Topic]).Seconds(), ended, len(b.Topics))
		case !m.Ended:
			begun[m.Topic] = time.Now()
			fmt.Fprintf(p.stdout, "%s: %s begins\n", m.Topic, m.Migration)
		case m.Migration == "":
			fmt.Fprintf(p.stdout, "%s: is there already (%d of %d)\n", m.Topic, ended, len(b.Topics))
		default:
			fmt.Fprintf(p.stdout, "%s: %s %s after %.1f s (%d of %d)\n", m.Topic, m.Migration, m.Outcome, time.Since(begun[m.Topic]).Seconds(), ended, len(b.Topics))
		}
	}
	done, err := c.MoveAll(cmd.Context(), b)
	var partial *api.PartialError
	if !errors.As(err, &partial) {
		if err != nil {
			return err
		}
		partial = &api.PartialError{Done: done}
	}
	report := batchReport{Done: []api.Moved{}, Failed: []failedTopic{}, Running: []api.Moved{}, NotBegun: []string{}}
	report.Done = append(report.Done, partial.Done...)
	report.Running = append(report.Running, partial.Running...)
	report.NotBegun = append(report.NotBegun, partial.NotBegun...)
	for _, f := range partial.Failed {
		report.Failed = append(report.Failed, failedTopic{f, f.Err.Error()})
	}
	if serr := p.show(report, func(w io.Writer) {
		if err == nil {
			fmt.Fprintf(w, "all %d topics are on %s\n", len(done), b.Request.To)
		}
	}); serr != nil {
		return serr
	}
	if errors.Is(err, api.ErrNotDone) {
		return markedError{err, errVerdict}
	}
	return err
}
