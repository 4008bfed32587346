package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/shadow"
)

func newTailCommand(a *app) *cobra.Command {
	var (
		app    string
		count  int
		during time.Duration
	)
	cmd := &cobra.Command{
		Use:   "tail GROUP",
		Short: "Print the messages of a group as they come",
		Long: `Print the messages of a group as they come, from wherever its topics are. tail is a member of the group like every
instance of its application: what it prints is handled, and other members do not get it. To look on without taking
anything away make a group for it: turnout group put NAME --topic TOPIC --start latest.

While a task enables the group's shadow group for the application of --app (turnout shadow), its messages are printed, too,
with "stress mark".

Ctrl-C ends it with exit code 0. Messages that came and were not printed go to the next member.`,
		Example: `  turnout tail order_bil_group
  turnout tail order_bil_group --count 10 --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 || during < 0 {
				return usagef("--count %d --for %v: must not be below 0", count, during)
			}
			err := a.withClient(cmd.Context(), app, func(c *turnout.Client) error {
				ctx, cancel := forTime(cmd.Context(), during)
				defer cancel()
				return a.tail(ctx, c, args[0], count)
			})
			if cmd.Context().Err() != nil && errors.Is(err, cmd.Context().Err()) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&count, "count", 0, "end after so many messages (0: never)")
	f.DurationVar(&during, "for", 0, "end after this time (0: never)")
	f.StringVar(&app, "app", cliApp, "the application to read as")
	return cmd
}

// tail prints until ctx ends, count messages were printed (0: no limit), or printing fails.
func (a *app) tail(ctx context.Context, c *turnout.Client, group string, count int) error {
	t := &tailing{a: a, left: count, over: make(chan struct{})}
	subscribing, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	sub, err := c.Subscribe(subscribing, group, t.handle)
	if err != nil {
		return remedy(err, errs.ErrUnknownGroup, `"turnout group list" shows what there is`)
	}
	if err := sub.Ready(subscribing); err != nil && ctx.Err() == nil {
		select {
		case <-t.over:
		default:
			fmt.Fprintf(a.stderr, "turnout: not a member on every cluster yet, still trying: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	select {
	case <-ctx.Done():
		t.end(nil)
	case <-t.over:
	}
	// What comes from now on is refused until the membership has ended, and so stays unread.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.settings.timeout)
	defer cancel()
	return errors.Join(t.err, sub.Close(closing))
}

// tailing prints messages until it is over.
type tailing struct {
	a *app

	mu   sync.Mutex
	left int // of --count; 0: no limit
	over chan struct{}
	err  error // of printing; to be read when over is closed
}

var errTailOver = errors.New("the command ends")

func (t *tailing) handle(ctx context.Context, d *turnout.Delivery) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.over:
		return errTailOver
	default:
	}
	if err := t.a.printDelivery(d, shadow.Marked(ctx)); err != nil {
		t.finish(err)
		return err
	}
	if t.left > 0 {
		if t.left--; t.left == 0 {
			t.finish(nil)
		}
	}
	return nil
}

func (t *tailing) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finish(err)
}

// finish ends it, once. t.mu is held.
func (t *tailing) finish(err error) {
	select {
	case <-t.over:
	default:
		t.err = err
		close(t.over)
	}
}

// deliveryLine is one message in JSON.
type deliveryLine struct {
	ID         string            `json:"id"`
	Topic      string            `json:"topic"`
	Cluster    string            `json:"cluster"`
	Partition  string            `json:"partition"`
	Offset     int64             `json:"offset"`
	Attempt    int               `json:"attempt"`
	Stored     time.Time         `json:"stored"`
	Key        *string           `json:"key,omitempty"`
	KeyBase64  []byte            `json:"keyBase64,omitempty"` // instead of key when that is not UTF-8
	Tag        string            `json:"tag,omitempty"`
	Shadow     bool              `json:"shadow,omitempty"` // it carries the stress mark
	Headers    map[string]string `json:"headers,omitempty"`
	Body       *string           `json:"body,omitempty"`
	BodyBase64 []byte            `json:"bodyBase64,omitempty"` // instead of body when that is not UTF-8
}

func (a *app) printDelivery(d *turnout.Delivery, marked bool) error {
	if a.json() {
		l := deliveryLine{ID: d.ID, Topic: d.Topic, Cluster: d.Cluster, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt, Stored: d.Stored, Tag: d.Tag, Shadow: marked}
		l.Key, l.KeyBase64 = textOrBytes(d.Key)
		l.Body, l.BodyBase64 = textOrBytes(d.Body)
		for _, h := range d.Headers {
			if l.Headers == nil {
				l.Headers = map[string]string{}
			}
			l.Headers[h.Name] = h.Value
		}
		return json.NewEncoder(a.stdout).Encode(l)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s %s/%d", d.Stored.Local().Format(watchTime), d.Cluster, d.Partition, d.Offset)
	if d.Key != nil {
		b.WriteString("  key " + oneLine(d.Key))
	}
	if d.Tag != "" {
		b.WriteString("  tag " + d.Tag)
	}
	for _, h := range d.Headers {
		b.WriteString("  " + h.Name + "=" + oneLine([]byte(h.Value)))
	}
	if marked {
		b.WriteString("  stress mark")
	}
	if d.Attempt > 0 {
		fmt.Fprintf(&b, "  attempt %d", d.Attempt+1)
	}
	_, err := io.WriteString(a.stdout, b.String()+"  "+oneLine(d.Body)+"\n")
	return err
}

// textOrBytes is b as text if it is UTF-8; nil for none.
func textOrBytes(b []byte) (*string, []byte) {
	if b == nil || !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}
