package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/internal/errs"
)

// cliApp is the application that send and tail run as, unless --app says another.
const cliApp = "turnout-cli"

// withClient opens a client of the SDK as an application would, and closes it in good order.
func (a *app) withClient(ctx context.Context, name string, use func(*turnout.Client) error) (err error) {
	if _, _, err := splitConnectString("--zookeeper", a.settings.zookeeper); err != nil {
		return err
	}
	snapshots, err := os.MkdirTemp("", "turnout-") // a command does not start from what an earlier one knew
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(snapshots)) }()
	var opts []turnout.Option
	if scheme, reference := a.settings.login(); scheme != "" {
		opts = append(opts, turnout.WithZooKeeperAuth(scheme, reference))
	}
	if t := a.settings.tls(); t != nil {
		opts = append(opts, turnout.WithZooKeeperTLS(*t))
	}
	limited, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	c, err := turnout.Open(limited, turnout.Config{App: name, ZooKeeper: a.settings.zookeeper, Root: a.settings.root, ShadowRoot: a.settings.shadowRoot, SnapshotDir: snapshots}, opts...)
	if err != nil {
		return remedy(err, errs.ErrNoMetadata, "check that it runs, --zookeeper and --timeout")
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.settings.timeout)
		defer cancel()
		err = errors.Join(err, c.Close(ctx))
	}()
	return use(c)
}

func newSendCommand(a *app) *cobra.Command {
	var (
		app, key, tag string
		headers       []string
		delay         time.Duration
		count         int
		perSecond     float64
	)
	cmd := &cobra.Command{
		Use:   "send TOPIC [BODY]",
		Short: "Send messages to a topic, wherever it is",
		Long: `Send messages to a topic, wherever it is, and print where each was stored. Without BODY, or with "-", the body is what
comes on standard input. With --count, {n} in body and key is the number of the message, from 1.

A send that takes longer than --timeout fails; the message may have been stored or not.`,
		Example: `  turnout send order_topic '{"order":4711}' --key order-4711 --header source=cli
  turnout send order_topic 'order {n}' --key 'order-{n}' --count 1000 --rate 50`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := turnout.Message{Tag: tag, Delay: delay}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, "=")
				if !ok {
					return usagef("--header %q: must be name=value", h)
				}
				m.Headers = append(m.Headers, turnout.Header{Name: name, Value: value})
			}
			if count < 1 || perSecond < 0 {
				return usagef("--count %d --rate %v: there must be 1 message or more, and the rate must not be below 0", count, perSecond)
			}
			body := "-"
			if len(args) == 2 {
				body = args[1]
			}
			if body == "-" {
				b, err := io.ReadAll(a.stdin)
				if err != nil {
					return fmt.Errorf("body from standard input: %w", err)
				}
				body = string(b)
			}
			limit := rate.Inf
			if perSecond > 0 {
				limit = rate.Limit(perSecond)
			}
			numbered := cmd.Flags().Changed("count")
			return a.withClient(cmd.Context(), app, func(c *turnout.Client) error {
				pace := rate.NewLimiter(limit, 1)
				for n := 1; n <= count; n++ {
					if err := pace.Wait(cmd.Context()); err != nil {
						return fmt.Errorf("%d of %d messages were sent: %w", n-1, count, err)
					}
					m := m
					m.Body = number(numbered, body, n)
					if key != "" {
						m.Key = number(numbered, key, n)
					}
					if err := a.sendOne(cmd.Context(), c, args[0], &m); err != nil {
						err = remedy(err, errs.ErrUnknownTopic, `"turnout topic list" shows what there is`)
						return fmt.Errorf("%d of %d messages were sent, then: %w", n-1, count, err)
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "messages of one key go to one partition")
	f.StringVar(&tag, "tag", "", "one word by which groups may filter")
	f.StringArrayVar(&headers, "header", nil, "name=value; may be repeated")
	f.DurationVar(&delay, "delay", 0, "deliver no earlier than this after sending, where the topic allows it")
	f.IntVar(&count, "count", 1, "how many messages")
	f.Float64Var(&perSecond, "rate", 0, "messages a second; 0: as fast as they are acknowledged")
	f.StringVar(&app, "app", cliApp, "the application to send as")
	return cmd
}

// number puts n in place of {n}.
func number(on bool, text string, n int) []byte {
	if on {
		text = strings.ReplaceAll(text, "{n}", strconv.Itoa(n))
	}
	return []byte(text)
}

// sentLine is one sent message in JSON.
type sentLine struct {
	ID        string `json:"id"`
	Cluster   string `json:"cluster"`
	Partition string `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (a *app) sendOne(ctx context.Context, c *turnout.Client, topic string, m *turnout.Message) error {
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	r, err := c.Send(ctx, topic, m)
	if err != nil {
		return err
	}
	if a.json() {
		return json.NewEncoder(a.stdout).Encode(sentLine(r))
	}
	_, err = fmt.Fprintf(a.stdout, "%s  %s  partition %s  offset %d\n", r.ID, r.Cluster, r.Partition, r.Offset)
	return err
}
