package migrate

import (
	"context"
	"fmt"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
)

// Ordered moves away from clusters that can not be closed while they are read. There every group reads the source to its end
// while sends pause, and only then it is closed, and the target opened (R23): nothing of the source is left, and nothing can
// come, when the first message goes to the target.

// nearLeast is the least time that groups are given to read what is on a source before sends pause.
const nearLeast = time.Second

// mark is what there was on the late sources at some time.
type mark struct {
	at   time.Time
	ends broker.Offsets
}

// near waits, before sends pause, until every group has read what was on the sources no longer ago than they may pause, and
// nothing is to be repeated or delayed there. It waits for no source that can be closed early: groups read that by themselves.
func (w *walk) near(ctx context.Context) (waitFor string, err error) {
	for i := range w.m.data.Sources {
		src := &w.m.data.Sources[i]
		early, err := w.c.fencedEarly(ctx, src.Cluster)
		if err != nil {
			return "", err
		}
		if early {
			continue
		}
		if waitFor, err := w.nearOn(ctx, src, w.nearWithin()); waitFor != "" || err != nil {
			return waitFor, err
		}
	}
	return "", nil
}

func (w *walk) nearWithin() time.Duration {
	return max(time.Duration(w.m.plan.Hold)*time.Millisecond, nearLeast)
}

func (w *walk) nearOn(ctx context.Context, src *source, within time.Duration) (waitFor string, err error) {
	groups, err := w.c.meta.Readers(ctx, w.m.Topic)
	if err != nil {
		return "", err
	}
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		m, marked := w.marks[src.Cluster]
		if !marked || w.c.now().Sub(m.at) > within {
			now, err := ends(ctx, c, src.Physical, nil)
			if err != nil {
				return err
			}
			m = mark{w.c.now(), now}
			if w.marks == nil {
				w.marks = map[string]mark{}
			}
			w.marks[src.Cluster] = m
		}
		for _, g := range groups {
			l, err := w.lag(ctx, c, src, g.Physical(w.m.Topic), g.StartOn(w.now.Route, w.m.Topic, src.Cluster))
			if err != nil {
				return err
			}
			if !l.Finished(m.ends) {
				waitFor = fmt.Sprintf("group %s has %s left on %s; sends can pause when it reads what comes within %v", g.Name, describe(l), src.Cluster, within)
				if !w.now.live(g.Name) {
					waitFor = w.asleep(g.Name, describe(l), src.Cluster)
				}
				return nil
			}
		}
		return nil
	})
	return waitFor, err
}

// asleep says what can be done about a group that nobody reads for.
func (w *walk) asleep(group, left, cluster string) string {
	return fmt.Sprintf("group %s has %s left on %s and nobody who reads them; start it, or end this and move without the order: turnout migrate abort %s", group, left, cluster, w.m.ID)
}

// emptySource closes a source that can not be closed while it is read: every group has read everything there, and nothing has
// come since, which only the ends behind the fence tell. What has come is read first.
func (w *walk) emptySource(ctx context.Context, src *source) (waitFor string, err error) {
	if src.Sealed != nil {
		return "", nil
	}
	if w.readers == nil {
		if w.readers, err = w.c.meta.Readers(ctx, w.m.Topic); err != nil {
			return "", err
		}
	}
	w.now.groups = w.readers // one that has come since is found behind the fence
	missing, err := w.drainSource(ctx, src)
	if err != nil {
		return "", err
	}
	if len(src.Sleeping) > 0 {
		missing = append(missing, w.asleep(some(src.Sleeping), "messages", src.Cluster))
	}
	if len(missing) > 0 {
		src.Drained, src.Final, src.Groups = nil, nil, nil
		return some(missing), nil
	}
	src.Emptied = w.m.canary() != nil
	unread, waitFor, err := w.shutSource(ctx, src)
	if unread == "" || err != nil {
		return waitFor, err
	}
	w.readers = nil
	w.later = append(w.later, event("reopened", map[string]any{"cluster": src.Cluster}, "%s; that is read first", unread))
	return unread, w.save(ctx, store.Changes{})
}
