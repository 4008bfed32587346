package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
)

// gate bounds what a cluster is asked at once, and leaves one that does not answer alone for a while.
type gate struct {
	pool    *clusters.Pool
	atOnce  int
	limit   time.Duration // for one question
	silence time.Duration // how long a cluster that did not answer is left alone

	mu    sync.Mutex
	lines map[string]*clusterLine
}

type clusterLine struct {
	turns chan struct{}

	mu    sync.Mutex
	until time.Time
	why   error
}

func (g *gate) line(cluster string) *clusterLine {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lines[cluster]
	if l == nil {
		l = &clusterLine{turns: make(chan struct{}, g.atOnce)}
		g.lines[cluster] = l
	}
	return l
}

// silent says why the cluster is not asked now; nil: it is.
func (l *clusterLine) silent() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) {
		return fmt.Errorf("it did not answer a moment ago and is asked again soon: %w", l.why)
	}
	return nil
}

// ask runs f with a connection to the cluster, when it is its turn. f asks one thing after the other.
func (g *gate) ask(ctx context.Context, cluster string, f func(ctx context.Context, c *clusters.Conn) error) error {
	l := g.line(cluster)
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return fmt.Errorf("cluster %s: waiting for others that ask it: %w", cluster, ctx.Err())
	}
	if err := l.silent(); err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	asking, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	c, err := g.pool.Acquire(asking, cluster)
	opened := err == nil
	if opened {
		err = f(asking, c)
		c.Release()
	}
	unknown := errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrClosed)
	if err != nil && ctx.Err() == nil && !unknown && (!opened || asking.Err() != nil) {
		l.mu.Lock()
		l.until, l.why = time.Now().Add(g.silence), err
		l.mu.Unlock()
	}
	return err
}
