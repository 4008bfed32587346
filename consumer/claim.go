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

// batch is how many messages are taken from a claim in one go, when they are there.
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
	taken := make([]*broker.Delivery, 0, batch)
	for {
		taken = take(ctx, c.Messages(), taken[:0])
		if len(taken) == 0 {
			return
		}
		a.lastNew.Store(time.Now().UnixNano())
		beyond := limit >= 0 && taken[len(taken)-1].Offset >= limit
		if beyond {
			taken = slices.DeleteFunc(taken, func(d *broker.Delivery) bool { return d.Offset >= limit })
		}
		items := make([]item, len(taken))
		ready := make([]*item, len(taken))
		for i, d := range taken {
			items[i] = item{ctx: ctx, d: d, claim: cl}
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

// take waits for a message and takes those that are there too; none: the claim has ended.
func take(ctx context.Context, messages <-chan *broker.Delivery, into []*broker.Delivery) []*broker.Delivery {
	select {
	case <-ctx.Done():
		return into
	case d, ok := <-messages:
		if !ok || ctx.Err() != nil {
			return into
		}
		into = append(into, d)
	}
	for len(into) < batch {
		select {
		case d, ok := <-messages:
			if !ok {
				return into
			}
			into = append(into, d)
		default:
			return into
		}
	}
	return into
}

// dispatch hands items to workers when their time has come: when they are due, and with order when their key is free.
func (cl *claimed) dispatch(items []*item) {
	now := items[:0]
	for _, it := range items {
		if !cl.first(it) {
			continue
		}
		cl.running.Add(1)
		if it.d.Due.IsZero() || !it.d.Due.After(time.Now()) {
			now = append(now, it)
			continue
		}
		go func() { // at most window of them a partition
			if pause(it.ctx, time.Until(it.d.Due)) {
				cl.s.workers.put(it)
			} else {
				cl.running.Done()
			}
		}()
	}
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

// work is a worker's part: the message, and with order the next one that came for its key meanwhile.
func work(it *item) (next *item) {
	cl := it.claim
	if cl.process(it) {
		cl.tracker.finish(it)
	}
	if next = cl.next(it); next == nil {
		cl.running.Done()
	}
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

// process handles one message until it is done with or its claim has ended; true: done with.
func (cl *claimed) process(it *item) bool {
	cl.a.show(it)
	group := cl.s.settings()
	limit := tries
	if cl.ordered {
		limit += group.Retry.Max
	}
	wait := triesFirst
	for try := 1; ; try++ {
		if !cl.s.workers.admit(it.ctx) {
			return false
		}
		err := cl.s.call(&it.public)
		if err == nil {
			cl.s.count.handled.Add(1)
			return true
		}
		cl.s.count.failed.Add(1)
		cl.s.log.Debug("listener failed", zap.String("id", it.d.ID), zap.Int("try", try), zap.Error(err))
		if try >= limit {
			return cl.setAside(it, group, err)
		}
		if !pause(it.ctx, wait) {
			return false
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
		dead := cl.ordered || it.d.Attempt >= group.Retry.Max
		if dead {
			err = cl.a.conn.DeadLetter(ctx, cl.a.group, it.d, cause.Error())
		} else {
			err = cl.a.conn.Retry(ctx, cl.a.group, it.d, cl.s.retryDelay(it.d.Attempt))
		}
		cancel()
		switch {
		case err == nil && dead:
			cl.s.count.dead.Add(1)
			cl.s.log.Warn("message went to the dead letters", zap.String("id", it.d.ID), zap.String("cluster", cl.a.cluster),
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
	it.public = Delivery{Message: d.Message, Topic: a.r.topic.Name(), Group: a.r.s.group, Cluster: a.cluster,
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
