package turnout_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
)

// mapped are messages that have something of everything, several for each key.
func mapped(round int) (all []turnout.Message) {
	keys := [][]byte{nil, []byte("order-7"), []byte("ключ 鍵"), {0, 1, 2, 0xff}, []byte("a\x01b"), []byte(strings.Repeat("k", 300))}
	headers := [][]turnout.Header{nil, {{Name: "empty"}, {Name: "trace", Value: "00-4bf9-01"}}, {{Name: "имя", Value: "значение ✓"}}}
	tags := []string{"", "red", "зелёный"}
	bodies := [][]byte{{0}, []byte("text"), bytes.Repeat([]byte{0, 0xff, '\n'}, 20_000), []byte(`{"json":true}`)}
	for i := range 60 {
		m := turnout.Message{ID: producer.NewID(), Key: keys[i%len(keys)], Headers: headers[i%len(headers)], Tag: tags[i/2%len(tags)],
			Body: append(slices.Clone(bodies[i%len(bodies)]), fmt.Sprintf("|%d-%02d", round, i)...)}
		all = append(all, m)
	}
	return all
}

// Every message comes out as it went in, and those of a key in their order, on whichever side of the move it was stored and
// although the numbers of partitions and queues differ.
func TestAMoveBetweenKindsKeepsEveryPartOfAMessage(t *testing.T) {
	eachKindPair(t, func(t *testing.T, w *world, from, to string) {
		counts := map[string]int{from: 3, to: 5}
		for cluster, n := range counts {
			w.with(cluster, func(c broker.Cluster) {
				require.NoError(t, c.CreateTopic(w.ctx(), w.topic, broker.TopicSpec{Partitions: n}))
			})
		}
		w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: from})
		w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
		_, err := w.store.PutTopic(w.ctx(), w.topic, metadata.PutTopic{Cluster: from, Order: metadata.OrderKey})
		require.NoError(t, err)
		client := w.open("order_service")
		var in inbox
		sub, err := client.Subscribe(w.ctx(), w.group, in.listen, consumer.WithLinger(300*time.Millisecond), consumer.WithRecheck(time.Second))
		require.NoError(t, err)
		require.NoError(t, sub.Ready(w.ctx()))
		var sent []turnout.Message
		where := map[string]turnout.SendResult{}
		send := func(round int) {
			for _, m := range mapped(round) {
				r, err := client.Send(w.ctx(), w.topic, &m)
				require.NoError(t, err)
				sent = append(sent, m)
				where[m.ID] = r
			}
		}
		send(1)
		w.applied(from)
		m := &moving{operator: w.operate()}
		move := m.start(migrate.Plan{To: to, Ordered: true, Hold: 30_000, Accept: []string{migrate.PartitionsDiffer}})
		send(2)
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		send(3)
		w.eventually(func() bool { return len(in.deliveries()) >= len(sent) }, func() any { return len(in.deliveries()) }, "all are handled")

		first := map[string]turnout.Delivery{}
		var order []turnout.Delivery
		for _, d := range in.deliveries() {
			if _, again := first[d.ID]; !again {
				first[d.ID] = d
				order = append(order, d)
			}
		}
		sides := map[string]int{}
		for i := range sent {
			want, got := sent[i], first[sent[i].ID]
			byName := func(a, b turnout.Header) int { return strings.Compare(a.Name, b.Name) }
			slices.SortFunc(want.Headers, byName)
			slices.SortFunc(got.Headers, byName) // RocketMQ sorts them
			if len(got.Headers) == 0 {
				got.Headers = want.Headers[:len(got.Headers):len(got.Headers)]
			}
			require.Equal(t, want, got.Message, "%+v", where[want.ID])
			require.Equal(t, where[want.ID].Cluster, got.Cluster)
			require.Equal(t, where[want.ID].Partition, got.Partition)
			sides[got.Cluster]++
		}
		require.GreaterOrEqual(t, sides[from], 60, sides)
		require.GreaterOrEqual(t, sides[to], 60, sides)

		byKey := func(all func(func(key, id, place string))) (ids map[string][]string, places map[string][]string) {
			ids, places = map[string][]string{}, map[string][]string{}
			all(func(key, id, place string) {
				ids[key] = append(ids[key], id)
				if !slices.Contains(places[key], place) {
					places[key] = append(places[key], place)
				}
			})
			return ids, places
		}
		went, _ := byKey(func(yield func(key, id, place string)) {
			for _, m := range sent {
				if m.Key != nil {
					yield(string(m.Key), m.ID, "")
				}
			}
		})
		came, places := byKey(func(yield func(key, id, place string)) {
			for _, d := range order {
				if d.Key != nil {
					yield(string(d.Key), d.ID, d.Cluster+"/"+d.Partition)
				}
			}
		})
		require.Equal(t, went, came, "the order of each key")
		for key, at := range places {
			require.Len(t, at, 2, "key %q: one partition on each side", key)
		}
	})
}

// A delay is RocketMQ's alone: a topic that may have such messages is not portable, and who moves it to Kafka is told.
func TestADelayHasNoCounterpartOnKafka(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "rocketmq-a")
		w.putGroup(nil)
		client := w.open("order_service")
		delayed := func() error {
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("later"), Delay: time.Second})
			return err
		}
		require.ErrorIs(t, delayed(), turnout.ErrUnsupported, "a portable topic has none")
		w.settings(w.topic, func(s *metadata.TopicSettings) { s.Portable = false })
		w.eventually(func() bool { // the settings have come
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("b"), Headers: []turnout.Header{{Name: "binary", Value: "\xff"}}})
			return err == nil
		}, nil, "a header that not every kind can carry")
		require.ErrorIs(t, delayed(), turnout.ErrUnsupported, "Kafka can not")
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))

		m := &moving{operator: w.operate()}
		plan := func(to string) map[string]migrate.Level {
			p, err := m.Preflight(w.ctx(), migrate.Plan{Topic: w.topic, To: to})
			require.NoError(t, err)
			found := map[string]migrate.Level{}
			for _, f := range p.Findings {
				found[f.Code] = f.Level
			}
			return found
		}
		w.setConfig("kafka-a", "cleanup.policy", "compact,delete")
		found := plan("rocketmq-a")
		for code, level := range map[string]migrate.Level{migrate.OtherKind: migrate.Info, migrate.NotPortable: migrate.Warning,
			migrate.Compaction: migrate.Warning, migrate.SettingsDiffer: migrate.Info} {
			require.Equal(t, level, found[code], "%s: %v", code, found)
		}
		w.setConfig("kafka-a", "cleanup.policy", "")
		move := m.start(migrate.Plan{To: "rocketmq-a", Accept: []string{migrate.NotPortable}})
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		begin := time.Now()
		require.NoError(t, delayed())
		w.has(&in, "later")
		require.GreaterOrEqual(t, time.Since(begin), time.Second)

		found = plan("kafka-a")
		for code, level := range map[string]migrate.Level{migrate.OtherKind: migrate.Info, migrate.NotPortable: migrate.Warning,
			migrate.LateFence: migrate.Info, migrate.SettingsDiffer: migrate.Info} {
			require.Equal(t, level, found[code], "%s: %v", code, found)
		}
	})
}

// RocketMQ takes larger messages than a topic of Kafka does that nobody has said anything of.
func TestAMoveToKafkaHasRoomForTheLargestMessage(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		w.putTopic("rocketmq-a")
		w.settings(w.topic, func(s *metadata.TopicSettings) { s.Portable = false })
		client := w.open("order_service")
		w.send(client, "first")
		w.applied("rocketmq-a")
		m := &moving{operator: w.operate()}
		w.createTopic("kafka-a")
		plan := migrate.Plan{Topic: w.topic, To: "kafka-a", Accept: []string{migrate.NotPortable}}
		_, err := m.Start(w.ctx(), plan, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "raise max.message.bytes")
		w.with("kafka-a", func(c broker.Cluster) { require.NoError(t, c.DeleteTopic(w.ctx(), w.topic)) })
		move := m.start(migrate.Plan{To: "kafka-a", Accept: plan.Accept, Create: true})
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		w.with("kafka-a", func(c broker.Cluster) {
			info, err := c.DescribeTopic(w.ctx(), w.topic)
			require.NoError(t, err)
			require.Greater(t, info.MaxMessageBytes, int64(4<<20))
		})
	})
}
