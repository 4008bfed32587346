package producer

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	turnLength = 2 * time.Second
	turnsKept  = 6 // the five before and the one that is being filled: 10 to 12 s
	finest     = 16
	buckets    = 1 + 4*(36-finest) // four a doubling, from 2^16 ns (66 µs) to 2^36 ns (69 s)
)

// tally counts what became of the attempts to send to one cluster lately. Adding takes no lock but once in turnLength.
type tally struct {
	began time.Time
	turns [turnsKept]turn
}

// turn is a piece of the time.
type turn struct {
	mu     sync.Mutex   // held to begin n
	n      atomic.Int64 // counts from 1; 0: never used
	failed atomic.Int64
	took   [buckets]atomic.Uint32
}

func newTally() *tally { return &tally{began: time.Now()} }

func (t *tally) now() time.Duration { return time.Since(t.began) }

// add counts an attempt that began at that time of now.
func (t *tally) add(began time.Duration, failed bool) {
	now := t.now()
	u := t.turn(now)
	if failed {
		u.failed.Add(1)
	}
	u.took[bucket(now-began)].Add(1)
}

// turn is where to count at that time.
func (t *tally) turn(now time.Duration) *turn {
	n := int64(now/turnLength) + 1
	u := &t.turns[n%turnsKept]
	if u.n.Load() < n {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.n.Load() < n {
			u.failed.Store(0)
			for i := range u.took {
				u.took[i].Store(0)
			}
			u.n.Store(n)
		}
	}
	return u
}

// sends is what was counted; sent: something was.
func (t *tally) sends() (s metadata.Sends, sent bool) {
	oldest := int64(t.now()/turnLength) + 1 - turnsKept
	var took [buckets]int64
	all := int64(0)
	for i := range t.turns {
		u := &t.turns[i]
		if n := u.n.Load(); n == 0 || n <= oldest {
			continue
		}
		s.Failed += u.failed.Load()
		for i := range u.took {
			n := int64(u.took[i].Load())
			took[i] += n
			all += n
		}
	}
	s.OK = max(0, all-s.Failed)
	s.P99 = p99(took[:], all)
	return s, all > 0
}

// bucket is where an attempt that took d is counted.
func bucket(d time.Duration) int {
	if d < 1<<finest {
		return 0
	}
	e := bits.Len64(uint64(d)) - 1
	return min((e-finest)*4+int(d>>(e-2)&3)+1, buckets-1)
}

// p99 is the time in ms that 99 % of the attempts stayed below, within a tenth.
func p99(took []int64, all int64) float64 {
	rank := (all*99 + 99) / 100
	for i, n := range took {
		if n < rank {
			rank -= n
			continue
		}
		from, width := 0.0, float64(int64(1)<<finest)
		if i > 0 {
			width = float64(int64(1) << (finest + (i-1)/4 - 2))
			from = width * float64(4+(i-1)%4)
		}
		ms := (from + width*float64(rank)/float64(max(n, 1))) / float64(time.Millisecond)
		return math.Round(ms*100) / 100
	}
	return 0
}

// stopwatch is the time of one attempt. It counts once, whoever stops it first.
type stopwatch struct {
	began time.Duration
	on    atomic.Pointer[tally] // nil: it does not run
}

func (w *stopwatch) start(t *tally) {
	w.began = t.now()
	w.on.Store(t)
}

// stop counts the attempt by what it ended with. A refusal says nothing of how well the cluster does, and neither does
// somebody who does not wait any more.
func (w *stopwatch) stop(c *clusters.Conn, err error) {
	t := w.on.Swap(nil)
	switch {
	case t == nil, errors.Is(err, context.Canceled), errors.Is(err, errs.ErrClosed):
	case err == nil:
		t.add(w.began, false)
	case errors.Is(err, context.DeadlineExceeded):
		t.add(w.began, true)
	default:
		if class := c.Classify(err); class != broker.Refused && class != broker.Closed {
			t.add(w.began, true)
		}
	}
}
