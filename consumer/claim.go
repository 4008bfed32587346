package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	window       = 1024 // messages of one partition between the lowest unfinished and the newest
	tries        = 3    // attempts in the process before the retry topic
	triesFirst   = 100 * time.Millisecond
	triesMost    = 5 * time.Second
	setAside     = 30 * time.Second // storing into retry topic or dead letters, each time
	setAsideMost = 5 * time.Second  // between two attempts to store
)

// RetryDelays are the times between rounds through the retry topic: those of RocketMQ's delay levels from the third on.
var RetryDelays = []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute,
	5 * time.Minute, 6 * time.Minute, 7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute, 20 * time.Minute,
	30 * time.Minute, time.Hour, 2 * time.Hour}

// claimed is one partition while this process has it.
type claimed struct {
	s       *Subscription
	a       *attachment
	ordered bool
	tracker tracker
	running sync.WaitGroup // messages in the hands of workers

	mu   sync.Mutex
	keys map[string][]*item // with order: those that wait behind the one of their key that is being handled
}

// batch is how many messages are allocated for, and at most taken from a claim, in one go.
const batch = 64

// claim reads one partition until it is taken away.
func (a *attachment) claim(ctx context.Context, c broker.Claim) {
	cl := &claimed{s: a.r.s, a: a, ordered: a.ordered, keys: map[string][]*item{}}
	cl.tracker = tracker{commit: c.Commit, window: window}
	defer func() {
		cl.running.Add(-cl.s.workers.drop(cl))
		cl.running.Wait()
	}()
	limit := int64(-1)
	if a.limit != nil && !c.Retry() {
		limit = a.limit[c.Partition()]
	}
	var room []broker.Delivery
	for {
		if len(room) == 0 {
			room = make([]broker.Delivery, batch)
		}
		n := c.Take(room)
		if n == 0 || ctx.Err() != nil {
			return
		}
		taken := room[:n]
		room = room[n:]
		a.lastNew.Store(time.Now().UnixNano())
		beyond := limit >= 0 && taken[len(taken)-1].Offset >= limit
		if beyond {
			taken = slices.DeleteFunc(taken, func(d broker.Delivery) bool { return d.Offset >= limit })
		}
		items := make([]item, len(taken))
		ready := make([]*item, len(taken))
		for i := range taken {
			items[i] = item{ctx: ctx, d: &taken[i], claim: cl}
			ready[i] = &items[i]
		}
		if !cl.tracker.add(ctx, ready...) {
			return
		}
		cl.dispatch(ready)
		if beyond {
			// What follows belongs to a later stay. It stays unread, and the position stops at the seal.
			cl.tracker.skip(limit)
			<-ctx.Done()
			return
		}
	}
}

// dispatch hands items to workers when their time has come: when they are due, and with order when their key is free.
func (cl *claimed) dispatch(items []*item) {
	now := items[:0]
	for _, it := range items {
		if !cl.first(it) {
			continue
		}
		if it.d.Due.IsZero() || !it.d.Due.After(time.Now()) {
			now = append(now, it)
			continue
		}
		cl.running.Add(1)
		go func() { // at most window of them a partition
			if pause(it.ctx, time.Until(it.d.Due)) {
				cl.s.workers.put(it)
			} else {
				cl.running.Done()
			}
		}()
	}
	cl.running.Add(len(now))
	cl.s.workers.put(now...)
}

// first says that nothing of the same key is before it; else it was put behind that.
func (cl *claimed) first(it *item) bool {
	if !cl.ordered || len(it.d.Key) == 0 {
		return true
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	behind, busy := cl.keys[string(it.d.Key)]
	if busy {
		cl.keys[string(it.d.Key)] = append(behind, it)
	} else {
		cl.keys[string(it.d.Key)] = nil
	}
	return !busy
}

// work is a worker's part: messages, and with order the next ones that came for their keys meanwhile.
func work(items []*item) (next []*item) {
	for len(items) > 0 {
		cl, n := items[0].claim, 1
		for n < len(items) && items[n].claim == cl {
			n++
		}
		next = append(next, cl.handle(items[:n])...)
		items = items[n:]
	}
	return next
}

// handle hands messages of the claim to the listener. When it fails with one, that one is repeated here and the others are
// left to other workers.
func (cl *claimed) handle(items []*item) (next []*item) {
	n := 0 // so many are handled
	var failed error
	for n < len(items) && cl.s.workers.admit(items[n].ctx) {
		if failed = cl.misplaced(items[n].d); failed != nil {
			break
		}
		cl.a.show(items[n])
		if failed = cl.s.call(&items[n].public); failed != nil {
			break
		}
		n++
	}
	cl.s.count.handled.Add(int64(n))
	cl.tracker.finish(items[:n]...)
	if failed == nil {
		return cl.release(items)
	}
	cl.s.workers.back(append(cl.release(items[:n]), items[n+1:]...))
	if cl.repeat(items[n], failed) {
		cl.tracker.finish(items[n])
	}
	return cl.release(items[n : n+1])
}

// release lets go of messages that are handled, or whose claim has ended, and with order takes the next ones of their keys.
func (cl *claimed) release(items []*item) (next []*item) {
	for _, it := range items {
		if after := cl.next(it); after != nil {
			next = append(next, after)
		}
	}
	cl.running.Add(len(next) - len(items))
	return next
}

// next frees the key of it, or takes the next message of it.
func (cl *claimed) next(it *item) *item {
	if !cl.ordered || len(it.d.Key) == 0 {
		return nil
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	key := string(it.d.Key)
	behind := cl.keys[key]
	if len(behind) == 0 || it.ctx.Err() != nil {
		delete(cl.keys, key)
		return nil
	}
	cl.keys[key] = behind[1:]
	return behind[0]
}

// repeat goes on with one message with which the listener failed, until it is done with or its claim has ended; true: done
// with.
func (cl *claimed) repeat(it *item, err error) bool {
	group := cl.s.settings()
	if isMisplaced(err) {
		return cl.setAside(it, group, err)
	}
	limit := tries
	if cl.ordered {
		limit += group.Retry.Max
	}
	wait := triesFirst
	for try := 1; ; try++ {
		cl.s.count.failed.Add(1)
		cl.s.log.Debug("listener failed", zap.String("id", it.d.ID), zap.Int("try", try), zap.Error(err))
		if try >= limit {
			return cl.setAside(it, group, err)
		}
		if !pause(it.ctx, wait) || !cl.s.workers.admit(it.ctx) {
			return false
		}
		if err = cl.s.call(&it.public); err == nil {
			cl.s.count.handled.Add(1)
			return true
		}
		wait = min(5*wait, triesMost)
	}
}

// setAside puts a message whose listener keeps failing into the retry topic, or at last into the dead letters. It goes
// on trying until that is stored: the position must not pass a message that is nowhere.
func (cl *claimed) setAside(it *item, group *metadata.Group, cause error) bool {
	wait := triesFirst
	for {
		ctx, cancel := context.WithTimeout(it.ctx, setAside)
		var err error
		dead := cl.ordered || it.d.Attempt >= group.Retry.Max || isMisplaced(cause)
		if dead {
			err = cl.a.conn.DeadLetter(ctx, cl.a.group, it.d, cause.Error())
		} else {
			err = cl.a.conn.Retry(ctx, cl.a.group, it.d, cl.s.retryDelay(it.d.Attempt))
		}
		cancel()
		switch {
		case err == nil && dead:
			cl.s.count.dead.Add(1)
			log := cl.s.log.Warn
			if isMisplaced(cause) { // which has been said
				log = cl.s.log.Debug
			}
			log("message went to the dead letters", zap.String("id", it.d.ID), zap.String("cluster", cl.a.cluster),
				zap.String("topic", cl.a.physical), zap.String("partition", it.d.Partition), zap.Int64("offset", it.d.Offset), zap.Error(cause))
			return true
		case err == nil:
			cl.s.count.retried.Add(1)
			return true
		}
		cl.s.log.Warn("message can not be set aside, it stays unfinished", zap.String("id", it.d.ID), zap.String("cluster", cl.a.cluster), zap.Error(err))
		if !pause(it.ctx, wait) {
			return false
		}
		wait = min(2*wait, setAsideMost)
	}
}

// misplacedError is that of a message that no listener is shown. It is a type of its own, so that a listener that returns
// errs.ErrMarked, of a send of its own say, has failed like any other.
type misplacedError struct{ error }

func isMisplaced(err error) bool {
	var m misplacedError
	return errors.As(err, &m)
}

// misplaced says why d must not be shown to the listener: it is of the other side of the stress mark.
func (cl *claimed) misplaced(d *broker.Delivery) error {
	if d.Shadow == cl.s.shadow {
		return nil
	}
	cl.s.count.misplaced.Add(1)
	err := fmt.Errorf("%w: with the stress mark, in production group %q", errs.ErrMarked, cl.s.group)
	if cl.s.shadow {
		err = fmt.Errorf("%w: without the stress mark, in shadow group %q", errs.ErrMarked, cl.s.group)
	}
	cl.s.alarm.Do(func() { // there may be as many as somebody can send
		cl.s.log.Error("a message is on the wrong side of the stress mark; find out who sent it", zap.String("id", d.ID), zap.String("cluster", cl.a.cluster),
			zap.String("topic", cl.a.physical), zap.String("partition", d.Partition), zap.Int64("offset", d.Offset), zap.Bool("marked", d.Shadow),
			zap.Int64("so far", cl.s.count.misplaced.Load()))
	})
	cl.a.r.topic.Touch()
	return misplacedError{err}
}

// call runs the listener; a panic in it is an error of it.
func (s *Subscription) call(d *Delivery) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("listener panicked: %v", r)
			s.log.Error("listener panicked", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		}
	}()
	return s.listener(s.ctx, d)
}

// show makes what the listener is given.
func (a *attachment) show(it *item) {
	d := it.d
	it.public = Delivery{Message: d.Message, Topic: a.shown, Group: a.r.s.shown, Cluster: a.cluster,
		Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt, Stored: d.Stored}
}

// pause waits for d; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errNotFinished = errors.New("not finished")
