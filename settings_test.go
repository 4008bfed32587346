package turnout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// set changes the group's node while it is in use.
func (w *world) set(edit func(g *metadata.Group)) {
	w.t.Helper()
	path := w.store.GroupPath(w.group)
	node, err := w.store.Read(w.ctx(), path)
	require.NoError(w.t, err)
	g, err := metadata.ParseGroup(node.Data)
	require.NoError(w.t, err)
	edit(&g)
	data, err := json.Marshal(g)
	require.NoError(w.t, err)
	require.NoError(w.t, w.store.Set(w.ctx(), path, data, node.Version))
}

// another is a world beside w in the same root, with a topic and a group of its own.
func (w *world) another(name string) *world {
	other := *w
	other.topic, other.group = w.topic+"-"+name, w.group+"-"+name
	return &other
}

func TestPausedGroupHandlesNothingUntilItGoesOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		mark, control := w.another("mark"), w.another("control")
		mark.putTopic("kafka-a")
		control.topic = w.topic
		control.putGroup(nil)
		client := w.open("order_service")
		var in, other inbox
		var resumed atomic.Bool
		_, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "while paused" && !resumed.Load() {
				t.Errorf("handled while the group was paused")
			}
			return in.listen(ctx, d)
		})
		require.NoError(t, err)
		_, err = client.Subscribe(w.ctx(), control.group, other.listen)
		require.NoError(t, err)
		w.send(client, "before")
		w.has(&in, "before")
		w.set(func(g *metadata.Group) { g.Paused, g.Topics = true, append(g.Topics, mark.topic) })
		w.eventually(func() bool { return len(mark.participants()) == 1 }, nil, "the new settings are in force, all of them")
		w.send(client, "while paused")
		w.has(&other, "while paused")
		require.NotContains(t, in.bodies(), "while paused")
		resumed.Store(true)
		w.set(func(g *metadata.Group) { g.Paused = false })
		w.has(&in, "while paused")
	})
}

func TestMoreListenersAtOnceWhenTheGroupSaysSo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Concurrency = 1 })
		client := w.open("order_service")
		entered, leave := make(chan struct{}, 100), make(chan struct{})
		_, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			entered <- struct{}{}
			select {
			case <-leave:
			case <-ctx.Done():
			}
			return nil
		})
		require.NoError(t, err)
		for i := range 10 {
			w.send(client, fmt.Sprint(i))
		}
		<-entered
		require.Empty(t, entered)
		w.set(func(g *metadata.Group) { g.Concurrency = 5 })
		for range 4 {
			<-entered
		}
		require.Empty(t, entered)
		close(leave)
		for range 5 {
			<-entered
		}
	})
}

func TestGroupGoesFasterWhenItsRateIsRaised(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Rate = 0.001 }) // the first at once, the next in a quarter of an hour
		client := w.open("order_service")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		for i := range 10 {
			w.send(client, fmt.Sprint(i))
		}
		w.eventually(func() bool { return len(in.bodies()) == 1 }, nil, "one is handled")
		w.set(func(g *metadata.Group) { g.Rate = 500 })
		w.eventually(func() bool { return len(in.bodies()) == 10 }, func() any { return in.bodies() }, "all are handled")
	})
}

func TestTagsOfAGroupChangeWhileItRuns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Tags = "red" })
		client := w.open("order_service")
		send := func(tag, body string) {
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte("k"), Tag: tag, Body: []byte(body)})
			require.NoError(t, err)
		}
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		send("blue", "blue, not wanted")
		send("red", "red")
		send("", "without a tag, not wanted")
		send("red", "red again")
		w.has(&in, "red", "red again")
		require.Equal(t, []string{"red", "red again"}, in.bodies())
		w.set(func(g *metadata.Group) { g.Tags = "red || blue" })
		w.eventually(func() bool {
			send("blue", "blue")
			return strings.Contains(fmt.Sprint(in.bodies()), "blue")
		}, func() any { return in.bodies() }, "blue is wanted now")
		require.NotContains(t, in.bodies(), "blue, not wanted")
		w.eventually(func() bool { return w.left("kafka-a") == 0 }, nil, "what is not wanted holds no position up")
	})
}

func TestTopicsOfAGroupAreAddedAndRemovedWhileItRuns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		second, third := w.another("second"), w.another("third")
		w.putTopic("kafka-a")
		second.putTopic("kafka-b")
		w.putGroup(nil)
		sender, receiver := w.open("order_service"), w.open("order_service_consumer")
		var in inbox
		s, err := receiver.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.send(sender, "1")
		w.has(&in, "1")

		w.set(func(g *metadata.Group) {
			g.Topics = append(g.Topics, second.topic, third.topic)
			g.Names[second.topic], g.Names[third.topic] = second.group, third.group
		})
		second.send(sender, "2")
		w.has(&in, "2")
		w.send(sender, "3")
		w.has(&in, "3")
		for _, d := range in.deliveries() {
			require.Equal(t, w.group, d.Group)
		}
		third.putTopic("kafka-a") // it was not there when the group named it
		third.send(sender, "4")
		w.has(&in, "4")
		require.NoError(t, s.Ready(w.ctx()))

		w.set(func(g *metadata.Group) { g.Topics = g.Topics[1:] })
		w.eventually(func() bool { return len(w.members("kafka-a")) == 0 }, nil, "the first topic is left")
		w.participant(func(p metadata.Participant) bool { return len(p.Groups) == 0 }, "only the sender is left there")
		require.Equal(t, w.ends("kafka-a"), w.positions("kafka-a"))
		second.send(sender, "5")
		w.has(&in, "5")
		w.set(func(g *metadata.Group) { g.Topics = append(g.Topics, w.topic) })
		w.send(sender, "6")
		w.has(&in, "6")
	})
}

// The group's node is deleted, and made again with other settings.
func TestGroupThatIsDeletedGoesOnAndTakesTheSettingsOfItsSuccessor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open("order_service")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.send(client, "1")
		w.has(&in, "1")
		require.NoError(t, w.store.Delete(w.ctx(), w.store.GroupPath(w.group), -1))
		w.says("deleted")
		w.send(client, "2")
		w.has(&in, "2")
		w.putGroup(func(g *metadata.Group) { g.Tags = "red" })
		w.participant(func(p metadata.Participant) bool { return p.Error == "" }, "good again")
		w.eventually(func() bool {
			w.send(client, "3")
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Tag: "red", Body: []byte("red")})
			require.NoError(t, err)
			bodies := in.bodies()
			return bodies[len(bodies)-1] == "red" && len(bodies) > 4 && bodies[len(bodies)-2] == "red"
		}, func() any { return in.bodies() }, "only what the new settings ask for is handled")
	})
}

// A group that is ordered while its topic is not reads as any other.
func TestOrderIsKeptOnlyWhereTopicAndGroupAskForIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
		client := w.open("order_service")
		w.send(client, "a")
		w.change(func(r *metadata.Route) {
			r.Write = "kafka-b"
			r.Stays[0].End = broker.Offsets{"0": 1000, "1": 1000, "2": 1000, "3": 1000} // nobody will ever finish it
			r.Stays = append(r.Stays, metadata.Stay{Cluster: "kafka-b", Start: broker.Offsets{}})
		})
		w.eventually(func() bool { return w.send(client, "b") == "kafka-b" }, nil, "sends go to kafka-b")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.has(&in, "a", "b")
	})
}
