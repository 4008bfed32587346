package migrate

import (
	"context"
	"time"

	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/lag"
)

// untoldAfter is how long after everybody has left a source what comes there counts as sent by somebody who was not told.
const untoldAfter = 5 * time.Second

// untold says for people who still sends to a source that is closed only when everything there was read, and so for ever if
// that goes on: a process without Turnout, or one that can not reach ZooKeeper. "": nobody, or that is not known yet.
func (w *walk) untold(ctx context.Context, c *clusters.Conn, src *source, l *lag.Lag) string {
	if w.m.state() != Draining || src.Seal != nil || c.Features().Fence || l.Pending.Delayed > 0 || w.c.now().Sub(w.m.data.Entered) < untoldAfter {
		return ""
	}
	m, marked := w.marks[src.Cluster]
	if !marked || m.at.Before(w.m.data.Entered) {
		if w.marks == nil {
			w.marks = map[string]mark{}
		}
		w.marks[src.Cluster] = mark{w.c.now(), l.Ends}
		return ""
	}
	for name, end := range l.Ends {
		if end <= m.ends[name] {
			continue
		}
		if messages, _, err := c.Peek(ctx, src.Physical, name, end-1, 1); err == nil && len(messages) > 0 {
			return "; somebody who was not told of the move still sends there: " + whose(&messages[0])
		}
	}
	return ""
}
