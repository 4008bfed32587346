package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
)

// What one run may do at most.
const (
	stressMostRate  = 100_000
	stressMostCount = 100_000_000
	stressMostTime  = 24 * time.Hour
)

const (
	stressMissed  = 0.05                   // of the rate: what may be missing
	stressTell    = time.Second            // between two lines of progress
	stressLook    = 250 * time.Millisecond // between two looks at the shadow groups while they drain
	stressApp     = "turnout-stress"
	stressBody    = `{"stress":{{.Seq}}}`
	stressExample = `  turnout stress run --topic order_topic --rate 200 --duration 30s
  turnout stress run --topic order_topic --rate 500 --count 100000 --key 'customer-{{.Rand 1000}}' --body '{"order":{{.Seq}},"at":"{{.Time.Format "15:04:05"}}"}'
  turnout stress run --topic order_topic --rate 1000 --duration 5m --from recorded.jsonl --output json`
)

func newStressCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stress",
		Short:   "Send messages with the stress mark, and the stress tasks of a platform",
		Long:    `Send messages with the stress mark at a held rate: they go to shadow topics and are read by shadow groups only (turnout shadow). And the stress tasks of a platform (turnout serve).`,
		Example: stressExample,
	}
	cmd.AddCommand(newStressRun(a), newStressTask(a))
	return cmd
}

// stressOptions are the flags of stress run.
type stressOptions struct {
	topic, app string
	rate       float64
	count      int64
	during     time.Duration
	drain      time.Duration
	from       string
	stressTemplates
}

func newStressRun(a *app) *cobra.Command {
	var o stressOptions
	cmd := &cobra.Command{
		Use:   "run --topic TOPIC --rate N",
		Short: "Send marked messages to a topic and say what rate was held",
		Long: fmt.Sprintf(`Send messages with the stress mark to a topic, so that they go to its shadow topic, at a held rate: each has its time, and a
slow answer does not put off those after it. A message that is sent late is not forgiven: its latency counts from its time, and
the longest delay is shown. The first message is sent before the clock starts, because it opens the connections.

Messages are made of templates in the language of Go's text/template: {{.Seq}} is the number of the message from 1, {{.Time}} its
time, {{.Rand}} a random number ({{.Rand 1000}}: below 1000), {{.UUID}} a new UUID. Or they come from a file of lines like
{"key":"k","body":"text","headers":{"name":"value"},"tag":""}, over and over; what "turnout tail --output json" prints is such a file.

One of --count and --duration is needed; with both the first that is reached ends the run. At most %d messages a second,
%d messages, %.0f hours. Nothing is sent when the topic has no shadow topic (exit code 3), or the cluster does not have
it (exit code 4). --timeout is how long one send may take.

Once a second the progress is told on standard error. At the end the run waits up to --drain until the shadow groups of the
topic have read everything. The exit code is 7 when a send failed, when more than %.0f %% of the rate was missed, or when a shadow
group that is on has dead letters or has not finished. Ctrl-C ends the run in order, with the result so far.`, stressMostRate, stressMostCount, stressMostTime.Hours(), 100*stressMissed),
		Example: stressExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			if err := o.check(given); err != nil {
				return err
			}
			source, err := a.stressSource(o)
			if err != nil {
				return err
			}
			return a.withOpenStore(cmd.Context(), func(s *metadata.Store) error { return a.stress(cmd.Context(), s, o, source) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.topic, "topic", "", "the topic; the messages go to its shadow topic")
	f.Float64Var(&o.rate, "rate", 0, "messages a second")
	f.Int64Var(&o.count, "count", 0, "end after so many messages")
	f.DurationVar(&o.during, "duration", 0, "end after this time")
	f.StringVar(&o.from, "from", "", "file of messages, one JSON object a line; - is standard input")
	f.StringVar(&o.key, "key", "", `template of the key (default: no key)`)
	f.StringVar(&o.body, "body", stressBody, "template of the body")
	f.StringArrayVar(&o.headers, "header", nil, "name=value, value a template; may be repeated")
	f.StringVar(&o.tag, "tag", "", "one word by which groups may filter")
	f.DurationVar(&o.drain, "drain", 30*time.Second, "wait for so long until the shadow groups have read everything (0: do not wait)")
	f.StringVar(&o.app, "app", stressApp, "the application to send as")
	return cmd
}

func (o stressOptions) check(given func(string) bool) error {
	var bad []error
	add := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if o.topic == "" {
		add("--topic is missing: name the topic")
	}
	if !(o.rate > 0 && o.rate <= stressMostRate) {
		add("--rate %v: must be more than 0 and at most %d", o.rate, stressMostRate)
	}
	switch {
	case !given("count") && !given("duration"):
		add("say when it shall end, with --count, --duration or both")
	case given("count") && (o.count < 1 || o.count > stressMostCount):
		add("--count %d: must be 1 to %d", o.count, stressMostCount)
	case given("duration") && (o.during <= 0 || o.during > stressMostTime):
		add("--duration %v: must be more than 0 and at most %v", o.during, stressMostTime)
	case !given("duration") && o.rate > 0 && float64(o.count)/o.rate > stressMostTime.Seconds():
		add("--count %d at --rate %v: would take more than %v; send fewer or faster", o.count, o.rate, stressMostTime)
	}
	if o.drain < 0 {
		add("--drain %v: must not be below 0", o.drain)
	}
	for _, flag := range []string{"key", "body", "tag", "header"} {
		if o.from != "" && given(flag) {
			add("--from and --%s: give one of them; a line of the file has everything", flag)
		}
	}
	if bad != nil {
		return usagef("%w", errors.Join(bad...))
	}
	return nil
}

func (a *app) stressSource(o stressOptions) (stressSource, error) {
	if o.from != "" {
		return a.fromFile(o.from)
	}
	return fromTemplates(o.stressTemplates)
}

// stress is one run.
func (a *app) stress(ctx context.Context, s *metadata.Store, o stressOptions, source stressSource) error {
	lag, before, err := a.prepareStress(ctx, s, o.topic)
	if err != nil {
		return err
	}
	r := &stressResult{Topic: o.topic, ShadowTopic: lag.shadowTopic, RateAsked: o.rate}
	stats := newLoadStats()
	ran := false
	err = a.withClient(ctx, o.app, func(c *turnout.Client) error {
		err := a.sendStress(ctx, c, o, source, stats, r, lag)
		ran = err == nil
		return err
	})
	switch {
	case err != nil && !ran:
		return err
	case err != nil: // no reason to keep the result back
		fmt.Fprintf(a.stderr, "turnout: the client was not closed in order: %s\n", flat(err))
	}
	r.take(stats)
	r.Interrupted = ctx.Err() != nil
	r.Groups, err = a.drainStress(ctx, o.drain, r.ended, lag, before)
	r.judge(o.drain, err)
	if err := a.show(r, r.text); err != nil {
		return err
	}
	if !r.Clean {
		return markedError{errors.New(strings.Join(r.Reasons, "; ")), errVerdict}
	}
	return nil
}

// prepareStress refuses a topic without a shadow topic that takes messages, and warns of what nobody will read.
func (a *app) prepareStress(ctx context.Context, s *metadata.Store, topic string) (*shadowLag, []stressGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return nil, nil, err
	}
	t, err := readTopic(ctx, s, topic, clusters)
	if err != nil {
		return nil, nil, err
	}
	if t.Settings.IsShadow(topic) {
		return nil, nil, fmt.Errorf("%w: topic %s is a shadow topic; name the topic that it is the shadow of", errs.ErrInvalid, topic)
	}
	side, err := lookShadow(ctx, s, t, clusters)
	if err = errors.Join(err, side.err); err != nil {
		return nil, nil, err
	}
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	c, err := fleet.cluster(side.Cluster)
	if err != nil {
		return nil, nil, err
	}
	info, err := c.DescribeTopic(fleet.ctx, side.state.Settings.Physical(side.ShadowTopic, side.Cluster))
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		return nil, nil, fmt.Errorf("%w: shadow topic %s is not on cluster %s: %w; create it there with: turnout shadow topic %s", errs.ErrNoShadow, side.ShadowTopic, side.Cluster, err, topic)
	case err != nil:
		return nil, nil, err
	case info.Fenced:
		return nil, nil, fmt.Errorf("shadow topic %s: %w: cluster %s refuses writers of it; open it with: turnout topic open %s --cluster %s", side.ShadowTopic, errs.ErrFenced, side.Cluster,
			side.state.Settings.Physical(side.ShadowTopic, side.Cluster), side.Cluster)
	}
	lag := &shadowLag{store: s, clusters: clusters, shadowTopic: side.ShadowTopic}
	if lag.readers, err = shadowReaders(ctx, s, side.ShadowTopic); err != nil {
		return nil, nil, err
	}
	if err := lag.readFlags(ctx); err != nil {
		return nil, nil, err
	}
	groups, err := lag.look(ctx, fleet)
	if err != nil {
		return nil, nil, err
	}
	doubts, err := lag.doubts(ctx, groups)
	for _, doubt := range doubts {
		fmt.Fprintf(a.stderr, "turnout: %s\n", doubt)
	}
	return lag, groups, err
}

// sendStress sends everything and tells the progress.
func (a *app) sendStress(ctx context.Context, c *turnout.Client, o stressOptions, source stressSource, stats *loadStats, r *stressResult, lag *shadowLag) error {
	m, err := source(1, time.Now())
	if err != nil {
		return err
	}
	first, cancel := context.WithTimeout(shadow.WithMark(ctx), a.settings.timeout)
	defer cancel()
	begin := time.Now()
	sent, err := c.Send(first, o.topic, m)
	if err != nil {
		return fmt.Errorf("the first message was not acknowledged, so no other was sent: %w", err)
	}
	r.FirstMS = ms(time.Since(begin))
	stats.first(sent, size(m))
	r.RateHeld, r.ended = o.rate, time.Now()
	if o.count == 1 {
		return nil
	}
	defer a.tellStress(ctx, stats, lag)()
	l := &load{source: source, rate: o.rate, before: 1, during: o.during, limit: a.settings.timeout, stats: stats,
		send: func(ctx context.Context, m *turnout.Message, done func(turnout.SendResult, error)) {
			c.SendAsync(shadow.WithMark(ctx), o.topic, m, done)
		}}
	if o.count > 0 {
		l.count = o.count - 1
	}
	n, took, err := l.run(ctx)
	r.Seconds, r.ended = took.Seconds(), time.Now()
	r.RateHeld = float64(n) / took.Seconds()
	return err
}

// tellStress tells the progress once a second until the returned function is called, which waits for the end of it.
func (a *app) tellStress(ctx context.Context, stats *loadStats, lag *shadowLag) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var unread atomic.Pointer[string] // what is known of the shadow groups
	nothing := unknownText
	unread.Store(&nothing)
	begin := time.Now()
	wg.Go(func() { // a cluster that does not answer must not hold up the progress
		fleet := newFleetFor(ctx, lag.store, stressMostTime)
		defer fleet.close()
		look := func() {
			text := unknownText
			if groups, err := lag.look(ctx, fleet); err == nil {
				text = leftText(groups)
			}
			unread.Store(&text)
		}
		look()
		every(ctx, stressTell, look)
	})
	wg.Go(func() {
		last := int64(1)
		every(ctx, stressTell, func() {
			p := stats.progress()
			fmt.Fprintf(a.stderr, "%5.0f s  sent %d  %d/s  failed %d  p50 %s  p99 %s  latest %s  unread %s\n",
				time.Since(begin).Seconds(), p.sent, p.sent-last, p.failed, msText(p.p50), msText(p.p99), msText(p.late), *unread.Load())
			last = p.sent
		})
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// every calls f each d until ctx ends, for the first time after d.
func every(ctx context.Context, d time.Duration, f func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// drainStress waits until the shadow groups that are on have read everything, at most for limit or until ctx ends, and says how
// far all are; ended is when the last send was answered.
func (a *app) drainStress(ctx context.Context, limit time.Duration, ended time.Time, lag *shadowLag, before []stressGroup) ([]stressGroup, error) {
	begin := time.Now()
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit+a.settings.timeout)
	defer cancel()
	if err := lag.readFlags(asking); err != nil { // somebody may have switched them in between
		return nil, err
	}
	fleet := newFleetFor(asking, lag.store, limit+a.settings.timeout)
	defer fleet.close()
	drained := map[string]float64{}
	told := ""
	for {
		groups, err := lag.look(asking, fleet)
		if err != nil {
			return nil, err
		}
		done := true
		for i := range groups {
			g := &groups[i]
			g.subtract(before)
			if after, known := drained[g.Group]; known {
				g.DrainedMS = after
			} else if g.Error == "" && g.left() == 0 {
				g.DrainedMS = ms(time.Since(ended))
				drained[g.Group] = g.DrainedMS
			}
			done = done && (g.DrainedMS >= 0 || len(g.EnabledBy) == 0)
		}
		if done || time.Since(begin) >= limit || ctx.Err() != nil {
			return groups, nil
		}
		if text := leftText(groups); text != told {
			fmt.Fprintf(a.stderr, "%5.0f s  everything is sent  unread %s\n", time.Since(begin).Seconds(), text)
			told = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(stressLook):
		}
	}
}
