package kafka_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// burst sends n messages of a key without waiting and returns their errors, in order.
func burst(c broker.Cluster, topic, key string, n int, body func(i int) string) []error {
	ctx, cancel := within(patience)
	defer cancel()
	failures := make([]error, n)
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		c.Send(ctx, topic, message(key, body(i)), func(_ broker.Receipt, err error) {
			failures[i] = err
			all.Done()
		})
	}
	all.Wait()
	return failures
}

// A topic that takes less than a batch holds: small messages are never refused for the company they are in.
func smallTopic(t *testing.T, e *testenv.Env) {
	c := open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1, Config: map[string]string{"max.message.bytes": "2000"}})
	info, err := c.DescribeTopic(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, "delete", info.Settings["cleanup.policy"])
	info.Settings = nil
	require.Equal(t, broker.TopicInfo{
		Partitions: []string{"0"}, Replicas: 1, MaxMessageBytes: 2000, Config: map[string]string{"max.message.bytes": "2000"}, Restore: "2000",
	}, info)

	const n = 300
	for i, err := range burst(c, name, "k", n, func(i int) string { return fmt.Sprintf("%03d%s", i, strings.Repeat("x", 700)) }) {
		require.NoError(t, err, i)
	}
	_, err = send(c, name, message("k", strings.Repeat("y", 2100)))
	require.Error(t, err)
	require.Equal(t, broker.Refused, c.Classify(err))
	_, err = send(c, name, message("k", "z"))
	require.NoError(t, err)

	r := join(t, c, broker.Membership{Group: name, Topic: name, Retries: true})
	for i, d := range r.wait(t, n+1) {
		require.EqualValues(t, i, d.Offset)
		if i < n {
			require.Equal(t, fmt.Sprintf("%03d", i), string(d.Body[:3]))
		}
	}
	retries, err := c.DescribeTopic(t.Context(), "retry_"+name)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"max.message.bytes": "18384"}, retries.Config, "room for the headers of a retry")
}

// The client's own limit says so before anything is sent.
func TestTooLargeForTheClient(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	cfg.Properties["message.max.bytes"] = "2048"
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	_, err := send(c, name, message("", strings.Repeat("x", 2100)))
	require.ErrorIs(t, err, errs.ErrTooLarge)
	require.ErrorContains(t, err, "message.max.bytes")
	require.Equal(t, broker.Refused, c.Classify(err))
	ends, err := c.EndOffsets(t.Context(), name)
	require.NoError(t, err)
	require.Zero(t, ends["0"])
}

// Batches that fail reset the numbering of the idempotent producer for all partitions. What is sent elsewhere at
// that time is neither lost nor doubled nor disordered.
func failuresElsewhere(t *testing.T, e *testenv.Env) {
	c := open(t, config(e, 0))
	good := topic(t, c, broker.TopicSpec{Partitions: 3})
	bad := topic(t, c, broker.TopicSpec{Partitions: 3, Config: map[string]string{"max.message.bytes": "0"}})
	const keys, rounds, each = 4, 10, 30
	var all sync.WaitGroup
	stop := make(chan struct{})
	refused := 0
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, err := range burst(c, bad, "", 3, func(int) string { return "refused" }) {
				if c.Classify(err) == broker.Refused {
					refused++
				}
			}
		}
	})
	var senders sync.WaitGroup
	for k := range keys {
		senders.Go(func() {
			for round := range rounds {
				for i, err := range burst(c, good, fmt.Sprint(k), each, func(i int) string { return fmt.Sprintf("%d/%d", k, round*each+i) }) {
					if err != nil {
						t.Errorf("key %d, message %d: %v", k, round*each+i, err)
					}
				}
			}
		})
	}
	senders.Wait()
	close(stop)
	all.Wait()
	require.NotZero(t, refused)
	next := map[string]int{}
	for _, d := range join(t, c, broker.Membership{Group: good, Topic: good}).wait(t, keys*rounds*each) {
		key := string(d.Key)
		require.Equal(t, fmt.Sprintf("%s/%d", key, next[key]), string(d.Body))
		next[key]++
	}
	ends, err := c.EndOffsets(t.Context(), good)
	require.NoError(t, err)
	require.EqualValues(t, keys*rounds*each, broker.Offsets{}.Missing(ends))
}

// Leaders move while messages are under way: none fails, none is lost, their order stays.
func TestLeadersMove(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t, kfake.NumBrokers(3))
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 6})
	const keys, rounds, each = 6, 20, 20
	var senders sync.WaitGroup
	for key := range keys {
		senders.Go(func() {
			for round := range rounds {
				if key == 0 {
					k.ShufflePartitionLeaders()
				}
				for i, err := range burst(c, name, fmt.Sprint(key), each, func(i int) string { return fmt.Sprint(round*each + i) }) {
					if err != nil {
						t.Errorf("key %d, message %d: %v", key, round*each+i, err)
					}
				}
			}
		})
	}
	senders.Wait()
	k.ShufflePartitionLeaders()
	ends, err := c.EndOffsets(t.Context(), name)
	require.NoError(t, err)
	require.EqualValues(t, keys*rounds*each, broker.Offsets{}.Missing(ends))
	next := map[string]int{}
	for _, d := range join(t, c, broker.Membership{Group: "g", Topic: name}).wait(t, keys*rounds*each) {
		require.Equal(t, fmt.Sprint(next[string(d.Key)]), string(d.Body), "key %s", d.Key)
		next[string(d.Key)]++
	}
}

// A topic that is deleted while it is sent to is unknown; created again it takes messages at once.
func deletedUnderway(t *testing.T, e *testenv.Env) {
	c, other := open(t, config(e, 0)), open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	_, err := send(c, name, message("", "x"))
	require.NoError(t, err)
	require.NoError(t, other.DeleteTopic(t.Context(), name))
	for range 5 {
		_, err = send(c, name, message("", "y"))
		require.Error(t, err)
	}
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	require.Equal(t, broker.Fatal, c.Classify(err))
	require.NoError(t, other.CreateTopic(t.Context(), name, broker.TopicSpec{Partitions: 1}))
	require.NoError(t, c.Warm(t.Context(), name))
	_, err = send(c, name, message("", "z"))
	if err != nil { // Kafka 4.5 refuses the number that the producer has reached, once
		require.Equal(t, broker.Retry, c.Classify(err))
		_, err = send(c, name, message("", "z"))
	}
	require.NoError(t, err)
}

// What a broker answers decides the class.
func TestClasses(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	require.NoError(t, c.Warm(t.Context(), name))
	for code, class := range map[int16]broker.Class{
		-1: broker.Retry,   // UNKNOWN_SERVER_ERROR
		10: broker.Refused, // MESSAGE_TOO_LARGE
		17: broker.Fatal,   // INVALID_TOPIC_EXCEPTION
		29: broker.Fatal,   // TOPIC_AUTHORIZATION_FAILED
		45: broker.Retry,   // OUT_OF_ORDER_SEQUENCE_NUMBER
		47: broker.Retry,   // INVALID_PRODUCER_EPOCH
		56: broker.Retry,   // KAFKA_STORAGE_ERROR
		87: broker.Fatal,   // INVALID_RECORD
	} {
		var answer atomic.Bool
		answer.Store(true)
		k.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			if !answer.Load() {
				return nil, nil, false
			}
			k.KeepControl()
			req := kreq.(*kmsg.ProduceRequest)
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, rt := range req.Topics {
				st := kmsg.NewProduceResponseTopic()
				st.Topic, st.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					sp := kmsg.NewProduceResponseTopicPartition()
					sp.Partition, sp.ErrorCode = rp.Partition, code
					st.Partitions = append(st.Partitions, sp)
				}
				resp.Topics = append(resp.Topics, st)
			}
			return resp, nil, true
		})
		_, err := send(c, name, message("", "x"))
		require.Error(t, err, code)
		require.Equal(t, class, c.Classify(err), "%d: %v", code, err)
		answer.Store(false)
		_, err = send(c, name, message("", "after it"))
		require.NoError(t, err, code)
	}
}
