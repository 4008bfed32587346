package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// roundTrip: every part of a message arrives as it was sent.
func (s *suite) roundTrip() {
	topic, group := s.topic(s.c, 2), s.name()
	want := map[string]*broker.Envelope{}
	add := func(m *broker.Envelope) { want[string(m.Body)] = m }

	full := message("köln", "full")
	full.Headers = []broker.Header{{Name: "trace", Value: "00-4bf9"}, {Name: "empty", Value: ""}, {Name: "umlaut", Value: "grün"}}
	full.Tag, full.Shadow, full.Origin = "created", true, "elsewhere"
	add(full)
	add(message("", "bare"))
	odd := message("", string([]byte{0, 1, 2, 255, '\n'}))
	odd.Key = []byte{0xff, 0xfe, 0, 1}
	add(odd)
	if s.c.Features().BinaryHeaders {
		m := message("", "binary header")
		m.Headers = []broker.Header{{Name: "raw", Value: "\x01\x02\xff"}}
		add(m)
	}
	begin := time.Now().Add(-time.Minute)
	receipts := map[string]broker.Receipt{}
	for body, m := range want {
		receipts[body] = s.send(s.c, topic, m)
	}
	require.NoError(s, s.c.Warm(s.ctx(), topic))

	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	for _, d := range r.wait(len(want)) {
		body := string(d.Body)
		m := want[body]
		require.NotNil(s, m, "nobody sent %q", body)
		require.ElementsMatch(s, m.Headers, d.Headers, body)
		d.Headers, m.Headers = nil, nil
		require.Equal(s, *m, d.Envelope, body)
		require.Equal(s, topic, d.Topic)
		require.Equal(s, receipts[body].Partition, d.Partition, body)
		require.Equal(s, receipts[body].Offset, d.Offset, body)
		require.False(s, d.Retry)
		require.True(s, d.Due.IsZero())
		require.WithinRange(s, d.Stored, begin, time.Now().Add(time.Minute))
	}
}

// foreign: what other producers wrote is read as it is.
func (s *suite) foreign() {
	topic := s.topic(s.c, 1)
	headers := []broker.Header{{Name: "x", Value: "y"}}
	require.NoError(s, s.Foreign(s.ctx(), topic, []byte("k"), []byte("b"), headers))
	r := s.join(s.c, broker.Membership{Group: s.name(), Topic: topic}, nil)
	d := r.wait(1)[0]
	require.Equal(s, broker.Message{Key: d.Key, Body: []byte("b"), Headers: headers}, d.Message)
	require.False(s, d.Shadow)
	require.Zero(s, d.Attempt)
	if s.Kind == broker.Kafka { // RocketMQ has no such thing as a key
		require.Equal(s, "k", string(d.Key))
	}
}

// keys: the partition of a key is the one of the Java client; the hashes are from Apache Kafka's own tests.
func (s *suite) keys() {
	const partitions = 4
	topic := s.topic(s.c, partitions)
	names := s.partitions(s.c, topic)
	require.Len(s, names, partitions)
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		for range 2 {
			receipt := s.send(s.c, topic, message(key, "x"))
			require.Equal(s, names[(hash&0x7fffffff)%partitions], receipt.Partition, key)
		}
	}
}

// noKey: messages without a key are spread over all partitions.
func (s *suite) noKey() {
	const partitions = 4
	topic := s.topic(s.c, partitions)
	count := map[string]int{}
	for _, r := range s.sendN(s.c, topic, 4*partitions) {
		count[r.Partition]++
	}
	for _, name := range s.partitions(s.c, topic) {
		require.NotZero(s, count[name], "partition %s of %v", name, count)
	}
}

// sizes: what is portable passes; what is too large is refused and nothing else suffers.
func (s *suite) sizes() {
	topic := s.topic(s.c, 1)
	large := message("k", strings.Repeat("x", 1_000_000-1))
	for i := range 16 {
		large.Headers = append(large.Headers, broker.Header{Name: fmt.Sprintf("h%02d", i), Value: strings.Repeat("v", 1<<10-3)})
	}
	s.send(s.c, topic, large)

	over := 8 << 20
	if info, err := s.c.DescribeTopic(s.ctx(), topic); err == nil && info.MaxMessageBytes > 0 {
		over = int(info.MaxMessageBytes) + 1
	}
	_, err := s.try(s.c, topic, message("k", strings.Repeat("y", over)))
	require.Error(s, err)
	require.Equal(s, broker.Refused, s.c.Classify(err), err)
	s.send(s.c, topic, message("k", "z"))

	r := s.join(s.c, broker.Membership{Group: s.name(), Topic: topic}, nil)
	got := r.wait(2)
	require.Len(s, got, 2)
	require.True(s, bytes.Equal(large.Body, got[0].Body))
	require.Len(s, got[0].Headers, 16)
	require.Equal(s, "z", string(got[1].Body))
}

// unknownTopic: looking is answered and creates nothing.
func (s *suite) unknownTopic() {
	topic, group, ctx := s.name(), s.name(), s.ctx()
	_, err := s.try(s.c, topic, message("", "x"))
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
	require.Equal(s, broker.Fatal, s.c.Classify(err))
	require.ErrorIs(s, s.c.Warm(ctx, topic), errs.ErrUnknownTopic)
	require.ErrorIs(s, s.c.DeleteTopic(ctx, topic), errs.ErrUnknownTopic)
	_, err = s.c.EndOffsets(ctx, topic)
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
	_, err = s.c.StartOffsets(ctx, topic)
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
	_, err = s.c.DescribeTopic(ctx, topic)
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
	_, err = s.c.Join(ctx, broker.Membership{Group: group, Topic: topic, Retries: true, Claim: func(context.Context, broker.Claim) {}})
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
	names, err := s.c.Topics(ctx)
	require.NoError(s, err)
	for _, name := range names {
		require.NotContains(s, name, topic)
		require.NotContains(s, name, group)
	}

	require.NoError(s, s.c.CreateTopic(ctx, topic, broker.TopicSpec{Partitions: 1}))
	s.send(s.c, topic, message("", "now it is there"))
}

// order: what one goroutine sends with one key is stored in its order, without waiting for answers.
func (s *suite) order() {
	const keys, each = 5, 200
	topic := s.topic(s.c, 3)
	require.NoError(s, s.c.Warm(s.ctx(), topic))
	var answers sync.WaitGroup
	var failed atomic.Value
	for i := range each {
		for k := range keys {
			answers.Add(1)
			s.c.Send(s.ctx(), topic, message(fmt.Sprint("key", k), fmt.Sprintf("%d/%d", k, i)), func(_ broker.Receipt, err error) {
				if err != nil {
					failed.Store(err)
				}
				answers.Done()
			})
		}
	}
	answers.Wait()
	require.Nil(s, failed.Load())
	r := s.join(s.c, broker.Membership{Group: s.name(), Topic: topic}, nil)
	next := map[string]int{}
	for _, d := range r.wait(keys * each) {
		key := string(d.Key)
		require.Equal(s, fmt.Sprintf("%s/%d", strings.TrimPrefix(key, "key"), next[key]), string(d.Body))
		next[key]++
	}
}

// features: what is absent is refused, what is there works.
func (s *suite) features() {
	f := s.c.Features()
	require.Positive(s, f.SendTimeout)
	require.Positive(s, f.CommitInterval)
	topic := s.topic(s.c, 1)
	sent := 0
	attempt := func(has bool, m *broker.Envelope) {
		_, err := s.try(s.c, topic, m)
		if has {
			require.NoError(s, err)
			sent++
		} else {
			require.ErrorIs(s, err, errs.ErrUnsupported)
			require.Equal(s, broker.Fatal, s.c.Classify(err))
		}
	}
	delayed := message("", "delayed")
	delayed.Delay = time.Second
	begin := time.Now()
	attempt(f.Delay, delayed)
	raw := message("", "raw")
	raw.Headers = []broker.Header{{Name: "raw", Value: "\x01\x02\xff"}}
	attempt(f.BinaryHeaders, raw)
	s.send(s.c, topic, message("", "plain"))
	r := s.join(s.c, broker.Membership{Group: s.name(), Topic: topic}, func(_ broker.Claim, d *broker.Delivery) bool {
		if string(d.Body) == "delayed" && time.Since(begin) < delayed.Delay {
			s.Errorf("delivered %v after it was sent, not %v", time.Since(begin), delayed.Delay)
		}
		return true
	})
	r.wait(sent + 1)
}

// closing: sends that were begun finish, done is called once, afterwards everything says ErrClosed.
func (s *suite) closing() {
	topic, group := s.topic(s.c, 2), s.name()
	c, err := s.Open(s.ctx(), s.Config(0))
	require.NoError(s, err)
	require.NoError(s, c.Warm(s.ctx(), topic))
	member, err := c.Join(s.ctx(), broker.Membership{Group: group, Topic: topic, Claim: func(ctx context.Context, _ broker.Claim) { <-ctx.Done() }})
	require.NoError(s, err)

	const n = 300
	var calls [n]atomic.Int32
	var stored atomic.Int32
	for i := range n {
		c.Send(s.ctx(), topic, message("", fmt.Sprint(i)), func(_ broker.Receipt, err error) {
			calls[i].Add(1)
			if err == nil {
				stored.Add(1)
			}
		})
	}
	require.NoError(s, c.Close(s.ctx()))
	for i := range calls {
		require.EqualValues(s, 1, calls[i].Load(), "calls of done %d", i)
	}
	require.EqualValues(s, n, stored.Load(), "what was begun is finished")
	require.EqualValues(s, n, broker.Offsets{}.Missing(s.ends(s.c, topic)))

	require.NoError(s, c.Close(s.ctx()), "again")
	require.NoError(s, member.Leave(s.ctx()))
	require.False(s, member.State().Attached)
	s.allClosed(c, topic, group)
	s.eventually(func() error {
		ids, err := s.c.GroupMembers(s.ctx(), group)
		if err == nil && len(ids) > 0 {
			err = fmt.Errorf("still members: %v", ids)
		}
		return err
	})
}

func (s *suite) allClosed(c broker.Cluster, topic, group string) {
	s.Helper()
	ctx, d := s.ctx(), &broker.Delivery{Topic: topic, Envelope: *message("", "x")}
	_, err := s.try(c, topic, message("", "late"))
	require.Equal(s, broker.Closed, c.Classify(err))
	is := func(err error) { s.Helper(); require.ErrorIs(s, err, errs.ErrClosed) }
	is(err)
	is(c.Warm(ctx, topic))
	is(c.CreateTopic(ctx, topic, broker.TopicSpec{}))
	is(c.DeleteTopic(ctx, topic))
	is(c.DeleteGroup(ctx, group))
	is(c.Retry(ctx, group, d, 0))
	is(c.DeadLetter(ctx, group, d, "x"))
	_, err = c.Join(ctx, broker.Membership{Group: group, Topic: topic, Claim: func(context.Context, broker.Claim) {}})
	is(err)
	_, err = c.Positions(ctx, group, topic)
	is(err)
	_, err = c.Pending(ctx, group, topic)
	is(err)
	_, err = c.EndOffsets(ctx, topic)
	is(err)
	_, err = c.StartOffsets(ctx, topic)
	is(err)
	_, err = c.DescribeTopic(ctx, topic)
	is(err)
	_, err = c.Topics(ctx)
	is(err)
	_, err = c.GroupMembers(ctx, group)
	is(err)
	_, err = c.Describe(ctx)
	is(err)
	is(c.Fence(ctx, topic))
	is(c.Fenced(ctx, topic))
	is(c.Unfence(ctx, topic, ""))
	_, err = c.Groups(ctx, topic)
	is(err)
	_, _, err = c.Peek(ctx, topic, "0", 0, 1)
	is(err)
	_, err = c.OpenTransactions(ctx, topic)
	is(err)
	require.Positive(s, c.Features().SendTimeout)
}

// closeForced: when there is no time, what is under way fails with ErrClosed, once.
func (s *suite) closeForced() {
	topic := s.topic(s.c, 2)
	c, err := s.Open(s.ctx(), s.Config(0))
	require.NoError(s, err)
	require.NoError(s, c.Warm(s.ctx(), topic))
	const n = 300
	var calls [n]atomic.Int32
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		c.Send(s.ctx(), topic, message("", fmt.Sprint(i)), func(_ broker.Receipt, err error) {
			if err != nil && c.Classify(err) != broker.Closed {
				s.Errorf("done(%v), want ErrClosed", err)
			}
			if calls[i].Add(1) == 1 {
				all.Done()
			}
		})
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(over); err != nil {
		require.ErrorIs(s, err, context.Canceled)
	}
	all.Wait()
	require.NoError(s, c.Close(s.ctx()))
	for i := range calls {
		require.EqualValues(s, 1, calls[i].Load(), "calls of done %d", i)
	}
}
