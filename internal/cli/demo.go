package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// The names of the scene.
const (
	demoTopic    = "order_topic"
	demoGroup    = "order_bil_group"
	demoSender   = "order_service"
	demoReceiver = "order_service_consumer"
)

const (
	demoLook      = 50 * time.Millisecond  // between two looks at what happens
	demoAsk       = 250 * time.Millisecond // between two questions to the brokers
	demoMoveLimit = time.Minute            // for a move that everybody waits for
	demoStopLimit = 30 * time.Second       // for a program to end
)

// demoOptions are the flags of turnout demo.
type demoOptions struct {
	servers bool
	rate    float64
	seconds float64
	dir     string
	stay    bool
}

func newDemoCommand(a *app) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a topic that moves between clusters while messages flow",
		Long: `Show a topic that moves between clusters while messages flow.

Everything is started on this machine: ZooKeeper, the clusters, and two programs, each in a process of its own:
` + demoSender + ` sends to the topic ` + demoTopic + `, ` + demoReceiver + ` receives as the group ` + demoGroup + `.
Then the topic's node in ZooKeeper is edited, nothing else, and one sees both programs move to the other cluster.
At the end it is counted from the ids of all messages whether any was lost or left behind.

The tour is kafka-a, kafka-b, rocketmq-a, kafka-a. Without --servers Go alone is needed: ZooKeeper, Kafka and RocketMQ
are embedded. With --servers they are Apache's (Java 17 and, the first time, Maven).

The exit code is 0 only when no send failed, no message was lost and none was left behind, else 7.`,
		Example: `  turnout demo
  turnout demo --rate 1000 --seconds 30
  turnout demo --servers
  turnout demo --stay
  turnout demo --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags().Changed("seconds")); err != nil {
				return err
			}
			return a.demo(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.servers, "servers", false, "Apache ZooKeeper, Kafka and RocketMQ instead of embedded servers")
	f.Float64Var(&o.rate, "rate", 200, "messages a second")
	f.Float64Var(&o.seconds, "seconds", 15, "how long messages are sent; 32 with --servers")
	f.StringVar(&o.dir, "dir", "", "empty folder for data, logs and histories (default: a new one among the temporary files)")
	f.BoolVar(&o.stay, "stay", false, "let the servers run on after the verdict, until Ctrl-C, to try other commands on them")
	return cmd
}

func (o *demoOptions) check(secondsGiven bool) error {
	if o.servers && !secondsGiven {
		o.seconds = 32
	}
	var errs []error
	if o.rate <= 0 || o.rate > 20_000 {
		errs = append(errs, fmt.Errorf("--rate is %v: must be more than 0 and at most 20000", o.rate))
	}
	if o.seconds < 3 || o.seconds > 3600 {
		errs = append(errs, fmt.Errorf("--seconds is %v: must be 3 to 3600", o.seconds))
	}
	if len(errs) > 0 {
		return usagef("%w", errors.Join(errs...))
	}
	return nil
}

// demo is one run of the scene. It is for one goroutine.
type demo struct {
	demoOptions
	out  io.Writer // what happens
	tour []string  // the clusters in the order in which the topic is on them
	root string

	env              *testenv.Env
	zookeeper        string // connect string
	store            *metadata.Store
	brokers          map[string]broker.Cluster
	sender, receiver *scene.Process
	watch            *demoWatch
	moves            []*demoMove
	begin            time.Time
}

// demoMove is one edit and what came of it.
type demoMove struct {
	From      string    `json:"from"`
	To        string    `json:"to"`
	Edited    time.Time `json:"edited"`
	FirstMS   float64   `json:"firstMessageMs"` // from the edit to the first message that To acknowledged; -1: there was none
	AppliedMS float64   `json:"appliedMs"`      // … to the moment when both programs had acknowledged the route; -1: not seen
	ClosedMS  float64   `json:"closedMs"`       // … to the moment when From was closed; -1: not seen
	LongestMS float64   `json:"longestSendMs"`  // of the sends that were under way or began in the second after the edit

	applied time.Time
}

func (a *app) demo(ctx context.Context, o demoOptions) error {
	d := &demo{demoOptions: o, out: a.stdout, root: a.settings.root, brokers: map[string]broker.Cluster{}, tour: []string{"kafka-a", "kafka-b", "rocketmq-a", "kafka-a"}}
	if a.json() {
		d.out = a.stderr
	}
	if err := a.runDemo(ctx, d); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// runDemo plays the whole scene. When it returns, nothing of it runs any more.
func (a *app) runDemo(ctx context.Context, d *demo) (err error) {
	defer func() { err = errors.Join(err, d.strike(context.WithoutCancel(ctx))) }()
	for _, act := range []func(context.Context) error{d.setUp, d.play, d.finish} {
		if err := act(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted, so there is no verdict")
			}
			return err
		}
	}
	report, err := d.judge(ctx)
	if err != nil {
		return err
	}
	if err := a.show(report, report.print); err != nil {
		return err
	}
	if d.stay {
		d.invite()
		<-ctx.Done()
	}
	if !report.Clean {
		return fmt.Errorf("%w: %s; the logs are in %s", errVerdict, report.reason(), d.dir)
	}
	return nil
}

// play lets messages flow and edits the topic's node from time to time.
func (d *demo) play(ctx context.Context) error {
	total := time.Duration(d.seconds * float64(time.Second))
	step := d.step()
	for i, cluster := range d.tour[1:] {
		if err := d.until(ctx, func() (bool, error) { return time.Since(d.begin) >= time.Duration(i+1)*step, nil }); err != nil {
			return err
		}
		m, err := d.edit(ctx, d.tour[i], cluster)
		if err != nil {
			return err
		}
		if err := d.until(ctx, func() (bool, error) { return d.followed(m) }); err != nil {
			return err
		}
	}
	last := d.moves[len(d.moves)-1].applied
	return d.until(ctx, func() (bool, error) { return time.Since(d.begin) >= total && time.Since(last) >= step/2, nil })
}

// followed says whether the scene can go on after an edit: everybody has followed it, and the old cluster is closed or takes
// unusually long for that, which the verdict then judges.
func (d *demo) followed(m *demoMove) (bool, error) {
	if m.applied.IsZero() {
		d.watch.applied(m)
	}
	took := time.Since(m.Edited)
	if m.applied.IsZero() && took > demoMoveLimit {
		return false, fmt.Errorf("not everybody followed the edit to %s within %v; the logs are in %s", m.To, demoMoveLimit, d.dir)
	}
	return !m.applied.IsZero() && (m.ClosedMS >= 0 || took > demoMoveLimit/2), nil
}

// step is the time between two edits.
func (d *demo) step() time.Duration {
	return time.Duration(d.seconds * float64(time.Second) / float64(len(d.tour)))
}

// linger is how long the group stays where the topic left, short enough that one sees it go.
func (d *demo) linger() time.Duration { return min(2*time.Second, d.step()/3) }

// edit writes the wish as a person would.
func (d *demo) edit(ctx context.Context, from, to string) (*demoMove, error) {
	path := d.store.TopicPath(demoTopic)
	wish := func(cluster string) string { return fmt.Sprintf(`{"cluster":%q}`, cluster) }
	m := &demoMove{From: from, To: to, Edited: time.Now(), FirstMS: -1, AppliedMS: -1, ClosedMS: -1}
	if err := d.store.Set(ctx, path, []byte(wish(to)), metadata.AnyVersion); err != nil {
		return nil, err
	}
	d.moves = append(d.moves, m)
	d.say("EDIT  %s  %s  →  %s", path, wish(from), wish(to))
	return m, nil
}

// finish ends the sender, waits until everything is read and every cluster that was left is closed, and ends the receiver.
func (d *demo) finish(ctx context.Context) error {
	if err := d.stop(ctx, d.sender); err != nil {
		return err
	}
	d.sender = nil
	d.say("%s has ended in good order; what is still on the clusters is read", demoSender)
	limit := time.Now().Add(10*d.linger() + demoStopLimit)
	asked := time.Time{}
	err := d.until(ctx, func() (bool, error) {
		if time.Now().After(limit) {
			return true, nil // the verdict says what is left
		}
		if time.Since(asked) < demoAsk || !d.watch.allClosed() {
			return false, nil
		}
		asked = time.Now()
		for _, cluster := range d.clusters() {
			if l, err := d.left(ctx, cluster); err != nil || l.Unread > 0 {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := d.stop(ctx, d.receiver); err != nil {
		return err
	}
	d.receiver = nil
	d.say("%s has ended in good order", demoReceiver)
	return nil
}

func (d *demo) stop(ctx context.Context, p *scene.Process) error {
	ctx, cancel := context.WithTimeout(ctx, demoStopLimit)
	defer cancel()
	return p.Stop(ctx)
}

// until looks at what happens, and tells it, until done says so.
func (d *demo) until(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(demoLook)
	defer ticker.Stop()
	for {
		for _, p := range []*scene.Process{d.sender, d.receiver} {
			if err := ended(p); err != nil {
				return err
			}
		}
		if err := d.watch.look(ctx); err != nil {
			return err
		}
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// ended is an error when a program has ended that should run.
func ended(p *scene.Process) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.Done():
		return fmt.Errorf("%s ended in the middle of the scene: %w", p.Name(), errors.Join(p.Err(), fmt.Errorf("its log is %s", p.LogFile())))
	default:
		return nil
	}
}

// say tells one thing that happened now; tell tells a part of it.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1f s   %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) tell(format string, args ...any) { d.say("      "+format, args...) }
