package cli

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// fleet opens the clusters that one command asks, each once. All asking together takes at most half of the command's
// time, so that a dead cluster is said to be dead. Methods may be called concurrently.
type fleet struct {
	store  *metadata.Store
	ctx    context.Context //nolint:containedctx // of everything that is asked
	cancel context.CancelFunc

	mu   sync.Mutex
	open map[string]func() (broker.Cluster, error)
}

// newFleet begins the time for asking. Close it.
func (a *app) newFleet(ctx context.Context, s *metadata.Store) *fleet {
	return newFleetFor(ctx, s, a.settings.timeout/2)
}

// newFleetFor is newFleet for what may take another time.
func newFleetFor(ctx context.Context, s *metadata.Store, limit time.Duration) *fleet {
	ctx, cancel := context.WithTimeout(ctx, limit)
	return &fleet{store: s, ctx: ctx, cancel: cancel, open: map[string]func() (broker.Cluster, error){}}
}

// cluster returns the open cluster of that name. ErrNotFound: the metadata has none.
func (f *fleet) cluster(name string) (broker.Cluster, error) {
	f.mu.Lock()
	open := f.open[name]
	if open == nil {
		open = sync.OnceValues(func() (broker.Cluster, error) { return f.dial(name) })
		f.open[name] = open
	}
	f.mu.Unlock()
	return open()
}

func (f *fleet) dial(name string) (broker.Cluster, error) {
	doc, _, err := f.store.GetCluster(f.ctx, name)
	if err != nil {
		return nil, remedy(err, errs.ErrNotFound, "create it with: turnout cluster put %s --kind … --address …", name)
	}
	cfg, err := doc.Config(fmt.Sprintf("turnout-cli-%d", os.Getpid()), nil)
	if err != nil {
		return nil, err
	}
	c, err := drivers.Open(f.ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster %q can not be asked: %w; check that it runs and its addresses", name, err)
	}
	return c, nil
}

// close closes what was opened.
func (f *fleet) close() {
	defer f.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var g errgroup.Group
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, open := range f.open {
		g.Go(func() error {
			if c, err := open(); err == nil {
				_ = c.Close(ctx) // the process ends anyway
			}
			return nil
		})
	}
	_ = g.Wait()
}

// progress is how far a group is on one cluster, as the brokers say.
type progress struct {
	Cluster     string         `json:"cluster"`
	Topic       string         `json:"physicalTopic"`
	Group       string         `json:"physicalGroup"`
	Position    broker.Offsets `json:"position"` // without partitions that have none yet
	End         broker.Offsets `json:"end"`
	Unread      int64          `json:"unread"`
	Delayed     int64          `json:"delayed"`
	Retries     int64          `json:"retries"`
	DeadLetters int64          `json:"deadLetters"`
	Error       string         `json:"error,omitempty"` // the cluster could not be asked

	at broker.Offsets // Position, completed by where the group begins
}

// unreadBelow counts what the group has not read below end; nil: below the end of the topic.
func (p progress) unreadBelow(end broker.Offsets) int64 {
	if end == nil {
		end = p.End
	}
	var n int64
	for name, offset := range end {
		n += max(0, min(offset, p.End[name])-p.at[name])
	}
	return n
}

// ask asks a cluster how far the group is. start is where the group begins in partitions without a position.
func (f *fleet) ask(p progress, start broker.Offsets) progress {
	if err := f.tryAsk(&p, start); err != nil {
		p.Error = err.Error()
	}
	return p
}

// tryAsk reads positions first and ends last, so that a group that looks finished is (protocol R14).
func (f *fleet) tryAsk(p *progress, start broker.Offsets) error {
	c, err := f.cluster(p.Cluster)
	if err != nil {
		return err
	}
	ctx := f.ctx
	if p.Position, err = c.Positions(ctx, p.Group, p.Topic); err != nil {
		return fmt.Errorf("positions of %s: %w", p.Group, err)
	}
	pending, err := c.Pending(ctx, p.Group, p.Topic)
	if err != nil {
		return fmt.Errorf("retries of %s: %w", p.Group, err)
	}
	p.Delayed, p.Retries, p.DeadLetters = pending.Delayed, pending.Retries, pending.DeadLetters
	first, err := c.StartOffsets(ctx, p.Topic)
	if err != nil {
		return fmt.Errorf("start of %s: %w", p.Topic, err)
	}
	if p.End, err = c.EndOffsets(ctx, p.Topic); err != nil {
		return fmt.Errorf("end of %s: %w", p.Topic, err)
	}
	p.at = broker.Offsets{}
	for name := range p.End {
		at, committed := p.Position[name]
		if !committed {
			at = max(start[name], first[name])
		}
		p.at[name] = at
	}
	p.Unread = p.unreadBelow(nil)
	return nil
}
