package cli

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	// stressRoom bounds what is under way, in bytes. Where a cluster stands still, sends wait for it and so are late.
	stressRoom = 256 << 20
	// stressOverhead is what a message takes beside key and body.
	stressOverhead = 4 << 10
)

// load sends at a held rate: message n is due n/rate after the begin, whether or not those before it were answered.
type load struct {
	send   func(ctx context.Context, m *turnout.Message, done func(turnout.SendResult, error))
	source stressSource
	rate   float64
	before int64         // messages that were sent already
	count  int64         // 0: no limit
	during time.Duration // 0: no limit
	limit  time.Duration // for one send
	stats  *loadStats
}

// run sends until count or during is reached or ctx ends, and returns when every send has been answered: how many it has begun
// in what time. The ctx of sends outlives ctx.
func (l *load) run(ctx context.Context) (n int64, took time.Duration, err error) {
	begin := time.Now()
	room := semaphore.NewWeighted(stressRoom)
	var answers sync.WaitGroup
	defer answers.Wait() // each has a time limit
	stop := ctx
	if l.during > 0 {
		var cancel context.CancelFunc
		stop, cancel = context.WithDeadline(ctx, begin.Add(l.during))
		defer cancel()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	sends := context.WithoutCancel(ctx)
	for ; l.count == 0 || n < l.count; n++ {
		after := time.Duration(float64(n) / l.rate * float64(time.Second))
		due := begin.Add(after)
		if l.during > 0 && after >= l.during {
			<-stop.Done() // the last one has its time, too
			break
		}
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-stop.Done():
		}
		if stop.Err() != nil {
			break
		}
		m, err := l.source(l.before+n+1, due)
		if err != nil {
			return n, time.Since(begin), err
		}
		weight := min(size(m)+stressOverhead, stressRoom)
		if room.Acquire(stop, weight) != nil {
			break
		}
		l.stats.begun(time.Since(due), size(m))
		sendCtx, cancel := context.WithTimeout(sends, l.limit)
		answers.Add(1)
		l.send(sendCtx, m, func(r turnout.SendResult, err error) {
			l.stats.ended(time.Since(due), r, err)
			cancel()
			room.Release(weight)
			answers.Done()
		})
	}
	switch {
	case ctx.Err() != nil:
		return n, time.Since(begin), nil
	case stop.Err() != nil:
		return n, l.during, nil
	}
	return n, time.Since(begin) + time.Duration(float64(time.Second)/l.rate), nil // as above
}

func size(m *turnout.Message) int64 { return int64(len(m.Key) + len(m.Body)) }

// loadStats counts sends. All methods may be called concurrently.
type loadStats struct {
	mu       sync.Mutex
	sent     int64 // begun
	bytes    int64 // of keys and bodies
	answered int64 // stored
	failed   int64
	late     time.Duration // the longest that a send began after it was due
	all      histogram     // from when it was due to the answer
	lately   histogram     // the same since the last call of progress
	clusters map[string]int64
	errors   map[string]*stressError
}

// stressError is how often sends failed in one way.
type stressError struct {
	Kind  string `json:"kind"`
	Count int64  `json:"count"`
	First string `json:"first"` // text of the first one
}

func newLoadStats() *loadStats {
	return &loadStats{clusters: map[string]int64{}, errors: map[string]*stressError{}}
}

// first counts a message that was sent before the clock started.
func (s *loadStats) first(r turnout.SendResult, size int64) {
	s.begun(0, size)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered++
	s.clusters[r.Cluster]++
}

func (s *loadStats) begun(late time.Duration, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	s.bytes += size
	s.late = max(s.late, late)
}

func (s *loadStats) ended(took time.Duration, r turnout.SendResult, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.answered++
		s.clusters[r.Cluster]++
		s.all.add(took)
		s.lately.add(took)
		return
	}
	s.failed++
	kind := errorKind(err)
	if s.errors[kind] == nil {
		s.errors[kind] = &stressError{Kind: kind, First: flat(err)}
	}
	s.errors[kind].Count++
}

// errorKind is the sentinel that err is, in words.
func errorKind(err error) string {
	for _, kind := range []error{errs.ErrNoShadow, errs.ErrMarked, errs.ErrUnknownTopic, errs.ErrNoMetadata, errs.ErrFenced, errs.ErrTooLarge, errs.ErrUnsupported,
		errs.ErrInvalid, errs.ErrNotAllowed, errs.ErrClosed, errs.ErrTimeout} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within --timeout"
	}
	return "other"
}

// loadProgress is what loadStats has counted so far; the times are those since the call before.
type loadProgress struct {
	sent, failed   int64
	p50, p99, late time.Duration
}

func (s *loadStats) progress() loadProgress {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := loadProgress{s.sent, s.failed, s.lately.quantile(0.5), s.lately.quantile(0.99), s.late}
	s.lately = histogram{}
	return p
}

// failures are the errors, the most frequent first.
func (s *loadStats) failures() []stressError {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []stressError{}
	for _, e := range s.errors {
		list = append(list, *e)
	}
	slices.SortFunc(list, func(a, b stressError) int { return int(b.Count - a.Count) })
	return list
}

// histogram counts durations, each at most 1/32 too long, or a microsecond. The zero value is empty.
type histogram struct {
	counts [1100]int64
	n      int64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	us := uint64(d / time.Microsecond)
	i := us
	if us >= 64 {
		shift := uint64(bits.Len64(us)) - 6
		i = 64 + (shift-1)*32 + us>>shift - 32
	}
	h.counts[min(i, uint64(len(h.counts)-1))]++
	h.n++
	h.max = max(h.max, d)
}

// quantile is a duration that q of all, 0 to 1, do not exceed; 0 when there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(math.Ceil(q * float64(h.n)))
	for i, count := range h.counts {
		if rank -= count; rank > 0 || count == 0 {
			continue
		}
		last := uint64(i) // microsecond of the bucket
		if i >= 64 {
			shift := uint64(i-64)/32 + 1
			last = ((uint64(i-64)%32+32)+1)<<shift - 1
		}
		return min(time.Duration(last+1)*time.Microsecond, h.max)
	}
	return h.max
}
