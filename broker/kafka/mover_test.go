package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// transaction stores n messages "{name}/{i}" on partition 0 in a transaction, which end ends.
func transaction(t *testing.T, addresses []string, topic, name string, n int) (end func(commit bool)) {
	t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Net.MaxOpenRequests = 1
	conf.Producer.Idempotent = true
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Producer.Transaction.ID = topic + "/" + name
	p, err := sarama.NewSyncProducer(addresses, conf)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, p.BeginTxn())
	for i := range n {
		_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(name, "/", i))})
		require.NoError(t, err)
	}
	return func(commit bool) {
		t.Helper()
		if commit {
			require.NoError(t, p.CommitTxn())
		} else {
			require.NoError(t, p.AbortTxn())
		}
	}
}

// peekAll are the bodies from an offset on, and where looking ended.
func peekAll(t *testing.T, c broker.Cluster, topic string, at int64, limit int) (bodies []string, next int64) {
	t.Helper()
	bodies = []string{}
	for {
		got, next, err := c.Peek(t.Context(), topic, "0", at, limit)
		require.NoError(t, err)
		for _, d := range got {
			bodies = append(bodies, string(d.Body))
		}
		if len(got) == 0 {
			return bodies, next
		}
		require.Greater(t, next, at)
		at = next
	}
}

// Transactions leave markers that nobody reads; messages of one that was aborted are messages for who reads everything.
func peekTransactions(t *testing.T, e *testenv.Env) {
	all := open(t, config(e, 0))
	cfg := config(e, 0)
	cfg.Properties["isolation.level"] = "read_committed"
	committed := open(t, cfg)
	name := topic(t, all, broker.TopicSpec{Partitions: 2})
	end := func() int64 {
		ends, err := all.EndOffsets(t.Context(), name)
		require.NoError(t, err)
		return ends["0"]
	}
	undecided := func(want broker.Offsets) { // brokers write markers a moment after they have answered
		t.Helper()
		for _, c := range []broker.Cluster{all, committed} {
			require.Eventually(t, func() bool {
				got, err := c.OpenTransactions(t.Context(), name)
				return err == nil && maps.Equal(want, got)
			}, patience, 5*time.Millisecond, "want %v", want)
		}
	}
	ends := func(want int64) {
		t.Helper()
		require.Eventually(t, func() bool { return end() == want }, patience, 5*time.Millisecond, "want %d", want)
	}
	looks := func(c broker.Cluster, at int64, want []string, next int64) {
		t.Helper()
		for _, limit := range []int{1, 2, 100} {
			got, reached := peekAll(t, c, name, at, limit)
			require.Equal(t, want, got, "limit %d", limit)
			require.Equal(t, next, reached, "limit %d", limit)
		}
	}
	looks(all, 0, []string{}, 0)
	undecided(broker.Offsets{})

	finish := transaction(t, e.Addresses(names[0]), name, "a", 2) // offsets 0, 1
	undecided(broker.Offsets{"0": 0})
	looks(all, 0, []string{"a/0", "a/1"}, 2)
	looks(committed, 0, []string{}, 0)
	finish(true) // a marker at 2
	undecided(broker.Offsets{})
	ends(3)
	looks(all, 0, []string{"a/0", "a/1"}, 3)
	looks(committed, 0, []string{"a/0", "a/1"}, 3)
	looks(all, 2, []string{}, 3) // where a group stands that has read everything
	got, next, err := all.Peek(t.Context(), name, "0", 0, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, next)
	require.Regexp(t, `^producer \d+$`, got[0].Writer)
	require.Empty(t, got[0].ID)

	transaction(t, e.Addresses(names[0]), name, "b", 3)(false) // 3 to 5, a marker at 6
	ends(7)
	looks(all, 2, []string{"b/0", "b/1", "b/2"}, 7)
	looks(committed, 2, []string{}, 7)
	transaction(t, e.Addresses(names[0]), name, "c", 1)(true) // 7, a marker at 8
	ends(9)
	finish = transaction(t, e.Addresses(names[0]), name, "d", 1)
	transaction(t, e.Addresses(names[0]), name, "e", 1)(true) // 10, a marker at 11, behind what is open
	ends(12)
	undecided(broker.Offsets{"0": 9})
	looks(all, 0, []string{"a/0", "a/1", "b/0", "b/1", "b/2", "c/0", "d/0", "e/0"}, 12)
	looks(committed, 0, []string{"a/0", "a/1", "c/0"}, 9)
	finish(false)
	undecided(broker.Offsets{})
	ends(13)
	looks(committed, 0, []string{"a/0", "a/1", "c/0", "e/0"}, 13)
	looks(committed, 11, []string{}, 13)
	looks(all, 11, []string{}, 13)
}

// Compaction leaves holes, and of each producer's last batch the empty rest.
func peekCompacted(t *testing.T, e *testenv.Env) {
	const producers = 200
	c := open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1, Config: map[string]string{
		"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
	}})
	leader := sarama.NewBroker(e.Addresses(names[0])[0])
	require.NoError(t, leader.Open(nil))
	t.Cleanup(func() { require.NoError(t, leader.Close()) })
	store := func(producer int64, key string) {
		t.Helper()
		now := time.Now()
		req := &sarama.ProduceRequest{Version: 7, RequiredAcks: sarama.WaitForAll, Timeout: 2000}
		req.AddBatch(name, 0, &sarama.RecordBatch{Version: 2, FirstTimestamp: now, MaxTimestamp: now, ProducerID: producer,
			Records: []*sarama.Record{{Key: []byte(key), Value: []byte(key)}}})
		resp, err := leader.Produce(req)
		require.NoError(t, err)
		require.Equal(t, sarama.ErrNoError, resp.GetBlock(name, 0).Err)
	}
	store(1_000_000, "first")
	for i := range producers {
		store(int64(2_000_000+i), "often")
	}
	store(3_000_000, "last")

	compact := func() {
		if k := e.EmbeddedKafka(names[0]); k != nil {
			k.Compact()
		}
	}
	require.NoError(t, administer(e, func(admin sarama.ClusterAdmin) error {
		pause := "200"
		return admin.IncrementalAlterConfig(sarama.BrokerResource, "", map[string]sarama.IncrementalAlterConfigsEntry{
			"log.cleaner.backoff.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &pause},
		}, false)
	}))
	// The rest of "often" is gone when the one message of it that is left is the second of all.
	var end int64
	require.Eventually(t, func() bool {
		store(time.Now().UnixNano(), "roll") // segments are closed by writing
		compact()
		second, _, err := c.Peek(t.Context(), name, "0", 1, 1)
		ends, err2 := c.EndOffsets(t.Context(), name)
		end = ends["0"]
		return errors.Join(err, err2) == nil && second[0].Offset == producers
	}, 2*patience, 50*time.Millisecond)

	for at := range int64(producers) {
		got, next, err := c.Peek(t.Context(), name, "0", at+1, 1)
		require.NoError(t, err)
		require.Len(t, got, 1, at)
		require.Equal(t, "often", string(got[0].Body), at)
		require.EqualValues(t, producers, got[0].Offset, at)
		require.EqualValues(t, producers+1, next, at)
	}
	all, next := peekAll(t, c, name, 0, 1000)
	require.Equal(t, []string{"first", "often", "last"}, all[:3])
	require.Contains(t, all[3:], "roll")
	require.GreaterOrEqual(t, next, end)
	one, again := peekAll(t, c, name, 0, 1)
	require.Equal(t, all, one)
	require.Equal(t, next, again)
}

// A position before the first message that is left.
func TestPeekExpired(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	for i := range 6 {
		_, err := send(c, name, message("", fmt.Sprint(i)))
		require.NoError(t, err)
	}
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(cfg.Addresses, conf)
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close()) }()
	for _, first := range []int64{4, 6} {
		require.NoError(t, admin.DeleteRecords(name, map[int32]int64{0: first}))
		got, next := peekAll(t, c, name, 0, 10)
		require.Len(t, got, int(6-first))
		require.EqualValues(t, 6, next)
	}
}

// A leader that gives nothing below its end: compaction has emptied the rest, or remote storage is slow.
func TestPeekEmptyEnd(t *testing.T) {
	t.Parallel()
	for name, remote := range map[string]bool{"compacted": false, "remote": true} {
		t.Run(name, func(t *testing.T) {
			k, cfg := fake(t)
			c := open(t, cfg)
			name := topic(t, c, broker.TopicSpec{Partitions: 1})
			k.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				k.KeepControl()
				resp := kreq.ResponseKind().(*kmsg.FetchResponse)
				st, sp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
				sp.HighWatermark, sp.LastStableOffset, sp.RecordBatches = 10, 10, []byte{}
				st.Topic, st.Partitions = name, append(st.Partitions, sp)
				resp.Topics = append(resp.Topics, st)
				return resp, nil, true
			})
			k.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				resp := kreq.ResponseKind().(*kmsg.DescribeConfigsResponse)
				sr, sc := kmsg.NewDescribeConfigsResponseResource(), kmsg.NewDescribeConfigsResponseResourceConfig()
				value := fmt.Sprint(remote)
				sr.ResourceType, sr.ResourceName = kmsg.ConfigResourceTypeTopic, name
				sc.Name, sc.Value = "remote.storage.enable", &value
				sr.Configs = append(sr.Configs, sc)
				resp.Resources = append(resp.Resources, sr)
				k.KeepControl()
				return resp, nil, true
			})
			got, next, err := c.Peek(t.Context(), name, "0", 4, 1)
			require.Empty(t, got)
			if remote {
				require.ErrorContains(t, err, "remote storage")
				require.Equal(t, broker.Retry, c.Classify(err))
				return
			}
			require.NoError(t, err)
			require.EqualValues(t, 10, next)
		})
	}
}

// What the driver reads of sarama where it has no accessor; without it Peek goes through holes offset by offset.
func TestOffsetBehindEmptyBatches(t *testing.T) {
	field, ok := reflect.TypeFor[sarama.FetchResponseBlock]().FieldByName("recordsNextOffset")
	require.True(t, ok)
	require.Equal(t, reflect.TypeFor[*int64](), field.Type)
}

// answers makes a fake cluster answer what is produced to a partition with a code of its own; absent: as usual.
func answers(k *kfake.Cluster, codes map[int32]int16) {
	k.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, codes[rp.Partition]
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
}

// One leader that has not read the setting, or can not be asked, is enough for a fence not to stand; and to name it.
func TestFenceOnEveryLeader(t *testing.T) {
	t.Parallel()
	const tooLarge, invalid, notLeader = 10, 87, 6
	for name, test := range map[string]struct {
		third int16
		says  string // of the third partition, where it should be fenced
	}{
		"fenced":        {third: tooLarge},
		"open":          {third: invalid, says: "takes"},
		"not answering": {third: notLeader, says: "leader"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, others := range []int16{tooLarge, invalid} {
				k, cfg := fake(t, kfake.NumBrokers(3))
				c := open(t, cfg)
				name := topic(t, c, broker.TopicSpec{Partitions: 3})
				require.NoError(t, c.Warm(t.Context(), name))
				answers(k, map[int32]int16{0: others, 1: others, 2: test.third})
				err := c.Fenced(t.Context(), name)
				switch {
				case others == invalid:
					require.ErrorContains(t, err, "takes")
					require.ErrorIs(t, err, errs.ErrConflict)
				case test.third == tooLarge:
					require.NoError(t, err)
				default:
					require.ErrorContains(t, err, "partition 2")
					require.ErrorContains(t, err, test.says)
					require.Equal(t, test.third == invalid, errors.Is(err, errs.ErrConflict), err)
				}
				if others == invalid && test.third == invalid {
					require.NoError(t, c.Unfence(t.Context(), name, ""))
				} else {
					ctx, cancel := within(300 * time.Millisecond)
					require.ErrorIs(t, c.Unfence(ctx, name, ""), context.DeadlineExceeded)
					cancel()
				}
			}
		})
	}
}

// Who may change settings but not write sees a fence by its setting; who may neither write nor look is told so.
func TestFencePermissions(t *testing.T) {
	t.Parallel()
	acl := func(op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "t", Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	_, cfg := fake(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(2, "t"),
		kfake.Superuser("PLAIN", "root", "root"),
		kfake.User("PLAIN", "mover", "mover", acl(kmsg.ACLOperationDescribe), acl(kmsg.ACLOperationDescribeConfigs), acl(kmsg.ACLOperationAlterConfigs)),
		kfake.User("PLAIN", "guest", "guest", acl(kmsg.ACLOperationDescribe)))
	root, mover, guest := open(t, as(cfg, "PLAIN", "root", "root")), open(t, as(cfg, "PLAIN", "mover", "mover")), open(t, as(cfg, "PLAIN", "guest", "guest"))
	ctx := t.Context()
	require.ErrorIs(t, mover.Fenced(ctx, "t"), errs.ErrConflict)
	require.ErrorIs(t, guest.Fence(ctx, "t"), errs.ErrNotAllowed)
	require.ErrorIs(t, guest.Unfence(ctx, "t", ""), errs.ErrNotAllowed)
	require.NoError(t, mover.Fence(ctx, "t"))
	require.NoError(t, mover.Fenced(ctx, "t"))
	require.NoError(t, root.Fenced(ctx, "t"))
	err := guest.Fenced(ctx, "t")
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorContains(t, err, "DESCRIBE_CONFIGS")
	require.NoError(t, mover.Unfence(ctx, "t", "5000"))
	require.ErrorIs(t, root.Fenced(ctx, "t"), errs.ErrConflict)
	info, err := mover.DescribeTopic(ctx, "t")
	require.NoError(t, err)
	require.Equal(t, "5000", info.Restore)
	require.Equal(t, "5000", info.Settings["max.message.bytes"])
	info, err = guest.DescribeTopic(ctx, "t")
	require.NoError(t, err)
	require.Nil(t, info.Settings)
	described, err := guest.Describe(ctx)
	require.NoError(t, err)
	require.True(t, described.AutoCreate, "not permitted to ask")
}

// Whether brokers create topics by being sent to.
func TestAutoCreate(t *testing.T) {
	t.Parallel()
	for _, creates := range []bool{false, true} {
		_, cfg := fake(t, kfake.BrokerConfigs(map[string]string{"auto.create.topics.enable": fmt.Sprint(creates)}), kfake.NumBrokers(2))
		info, err := open(t, cfg).Describe(t.Context())
		require.NoError(t, err)
		require.Equal(t, creates, info.AutoCreate)
		require.Regexp(t, `^metadata.version \d+$`, info.Version)
		require.Len(t, info.Brokers, 2)
	}
}

// A call returns when its ctx ends, whatever the brokers do.
func TestJoinEndsWithItsContext(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	var asked atomic.Bool
	free := make(chan struct{})
	k.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		asked.Store(true)
		k.SleepControl(func() { <-free })
		return nil, nil, false
	})
	defer close(free)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.Join(ctx, broker.Membership{Group: "g", Topic: name, Claim: func(context.Context, broker.Claim) {}})
		result <- err
	}()
	require.Eventually(t, asked.Load, patience, time.Millisecond)
	cancel()
	select {
	case err := <-result:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(patience):
		require.FailNow(t, "Join goes on")
	}
}
