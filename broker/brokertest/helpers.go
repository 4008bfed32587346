package brokertest

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
)

// open opens a cluster for as long as t runs.
func open(t *testing.T, target Target, cluster int) broker.Cluster {
	cfg := target.Config(cluster)
	cfg.ClientID = "brokertest-" + unique()
	return openConfig(t, target, cfg)
}

func openConfig(t *testing.T, target Target, cfg broker.Config) broker.Cluster {
	t.Helper()
	ctx, cancel := within(target.Patience)
	defer cancel()
	c, err := target.Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := within(target.Patience)
		defer cancel()
		require.NoError(t, c.Close(ctx), "close")
	})
	return c
}

// within is for what must also work when the test is over.
func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func unique() string { return fmt.Sprintf("%08x", rand.Uint32()) }

// ctx ends with the suite's patience.
func (s *suite) ctx() context.Context {
	ctx, cancel := within(s.Patience)
	s.Cleanup(cancel)
	return ctx
}

// name is a topic or a group of this test alone.
func (s *suite) name() string {
	_, test, _ := strings.Cut(s.Name(), "/")
	test = strings.NewReplacer("/", "_", " ", "_").Replace(test)
	return "bt_" + strings.ToLower(test[strings.LastIndexByte(test, '_')+1:]) + "_" + unique()
}

// topic creates one.
func (s *suite) topic(c broker.Cluster, partitions int) string {
	s.Helper()
	topic := s.name()
	require.NoError(s, c.CreateTopic(s.ctx(), topic, broker.TopicSpec{Partitions: partitions}))
	return topic
}

// partitions of a topic, in natural order.
func (s *suite) partitions(c broker.Cluster, topic string) []string {
	s.Helper()
	info, err := c.DescribeTopic(s.ctx(), topic)
	require.NoError(s, err)
	return info.Partitions
}

// message is one with an id.
func message(key, body string) *broker.Envelope {
	id, _ := uuid.NewV7()
	e := &broker.Envelope{}
	e.ID = strings.ReplaceAll(id.String(), "-", "")
	e.Body = []byte(body)
	if key != "" {
		e.Key = []byte(key)
	}
	return e
}

// try sends m and waits.
func (s *suite) try(c broker.Cluster, topic string, m *broker.Envelope) (broker.Receipt, error) {
	s.Helper()
	type result struct {
		receipt broker.Receipt
		err     error
	}
	ctx := s.ctx()
	results := make(chan result, 2)
	c.Send(ctx, topic, m, func(r broker.Receipt, err error) { results <- result{r, err} })
	select {
	case r := <-results:
		return r.receipt, r.err
	case <-ctx.Done():
		require.FailNow(s, "done was not called")
		panic("not reached")
	}
}

// send sends m, again after errors that say so: a topic that was made a moment ago may not be known everywhere.
func (s *suite) send(c broker.Cluster, topic string, m *broker.Envelope) broker.Receipt {
	s.Helper()
	var receipt broker.Receipt
	s.eventually(func() error {
		r, err := s.try(c, topic, m)
		if err != nil && c.Classify(err) != broker.Retry {
			require.NoError(s, err)
		}
		receipt = r
		return err
	})
	return receipt
}

// sendN sends n messages "0" … "n-1" one after the other, without a key.
func (s *suite) sendN(c broker.Cluster, topic string, n int) []broker.Receipt {
	s.Helper()
	receipts := make([]broker.Receipt, n)
	for i := range receipts {
		receipts[i] = s.send(c, topic, message("", fmt.Sprint(i)))
	}
	return receipts
}

// eventually repeats f until it returns nil.
func (s *suite) eventually(f func() error) {
	s.Helper()
	var err error
	ctx := s.ctx()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = f(); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.NoError(s, err, "still so after %v", s.Patience)
		}
	}
}

// reader is a member that keeps what it reads.
type reader struct {
	s      *suite
	c      broker.Cluster
	member broker.Member
	// handle says whether d is finished; nil: it always is.
	handle func(broker.Claim, *broker.Delivery) bool

	mu     sync.Mutex
	got    []*broker.Delivery
	claims map[string]int // partitions of the topic that are in its hands now
	taken  int            // how many claims there were
}

// join makes a reader; what m does not say is filled in.
func (s *suite) join(c broker.Cluster, m broker.Membership, handle func(broker.Claim, *broker.Delivery) bool) *reader {
	s.Helper()
	r := &reader{s: s, c: c, handle: handle, claims: map[string]int{}}
	if m.Claim == nil {
		m.Claim = r.claim
	}
	var err error
	r.member, err = c.Join(s.ctx(), m)
	require.NoError(s, err)
	s.Cleanup(r.leave)
	return r
}

func (r *reader) claim(ctx context.Context, c broker.Claim) {
	if !c.Retry() {
		r.mu.Lock()
		r.claims[c.Partition()]++
		r.taken++
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			if r.claims[c.Partition()]--; r.claims[c.Partition()] == 0 {
				delete(r.claims, c.Partition())
			}
			r.mu.Unlock()
		}()
	}
	for d := range Deliveries(c) {
		r.mu.Lock()
		r.got = append(r.got, d)
		r.mu.Unlock()
		if r.handle == nil || r.handle(c, d) {
			c.Commit(d.Offset + 1)
		}
	}
}

// Deliveries are the messages of a claim until it ends.
func Deliveries(c broker.Claim) iter.Seq[*broker.Delivery] {
	return func(yield func(*broker.Delivery) bool) {
		for {
			into := make([]broker.Delivery, 16)
			n := c.Take(into)
			for i := range n {
				if !yield(&into[i]) {
					return
				}
			}
			if n == 0 {
				return
			}
		}
	}
}

// Next is the next message of a claim; false: it has ended.
func Next(c broker.Claim) (*broker.Delivery, bool) {
	var into [1]broker.Delivery
	return &into[0], c.Take(into[:]) == 1
}

func (r *reader) leave() {
	ctx, cancel := within(r.s.Patience)
	defer cancel()
	require.NoError(r.s, r.member.Leave(ctx), "leave")
}

// messages that were read so far.
func (r *reader) messages() []*broker.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*broker.Delivery(nil), r.got...)
}

func (r *reader) bodies() []string {
	var bodies []string
	for _, d := range r.messages() {
		bodies = append(bodies, string(d.Body))
	}
	return bodies
}

// attached waits until the member says so, with n partitions, and no error.
func (r *reader) attached(n int) *reader {
	r.s.Helper()
	r.s.eventually(func() error {
		if st := r.member.State(); !st.Attached || st.Err != nil || n >= 0 && len(st.Partitions) != n {
			return fmt.Errorf("want attached with %d partitions, is %+v", n, st)
		}
		return nil
	})
	return r
}

// wait waits until n different bodies were read, and returns all messages.
func (r *reader) wait(n int) []*broker.Delivery {
	r.s.Helper()
	var got []*broker.Delivery
	r.s.eventually(func() error {
		got = r.messages()
		seen := map[string]bool{}
		for _, d := range got {
			seen[string(d.Body)] = true
		}
		if len(seen) < n {
			return fmt.Errorf("%d of %d messages were read; state %+v", len(seen), n, r.member.State())
		}
		return nil
	})
	return got
}

// positionsAt waits until the positions are exactly want, partitions at 0 left out on both sides.
func (s *suite) positionsAt(c broker.Cluster, group, topic string, want broker.Offsets) {
	s.Helper()
	s.eventually(func() error {
		got, err := c.Positions(s.ctx(), group, topic)
		if err != nil {
			return err
		}
		for name, offset := range want {
			if got[name] != offset {
				return fmt.Errorf("positions are %v, want %v", got, want)
			}
		}
		for name, offset := range got {
			if want[name] != offset {
				return fmt.Errorf("positions are %v, want %v", got, want)
			}
		}
		return nil
	})
}

// ends are the end offsets now.
func (s *suite) ends(c broker.Cluster, topic string) broker.Offsets {
	s.Helper()
	end, err := c.EndOffsets(s.ctx(), topic)
	require.NoError(s, err)
	return end
}
