package turnout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/testenv"
)

const shadowApp = "order_service_consumer"

// sides are the inboxes of a listener: what came with the stress mark in its ctx, and what came without.
type sides struct{ production, shadow inbox }

func (s *sides) listen(ctx context.Context, d *turnout.Delivery) error {
	if shadow.Marked(ctx) {
		s.shadow.add(d)
	} else {
		s.production.add(d)
	}
	return nil
}

// putShadow makes the shadow topic of the topic.
func (w *world) putShadow(on ...string) {
	w.t.Helper()
	name := metadata.ShadowPrefix + w.topic
	for _, cluster := range on {
		w.with(cluster, func(c broker.Cluster) {
			require.NoError(w.t, c.CreateTopic(w.ctx(), name, broker.TopicSpec{Partitions: 4}))
		})
	}
	w.put(w.store.TopicPath(name), metadata.Wish{Cluster: on[0]})
}

// flag writes a node below the application's flags as a person would.
func (w *world) flag(task, data string) {
	w.t.Helper()
	path := w.store.ShadowPath(shadowApp, task, w.group)
	err := w.store.Create(w.ctx(), path, []byte(data))
	if errors.Is(err, turnout.ErrConflict) {
		err = w.store.Set(w.ctx(), path, []byte(data), metadata.AnyVersion)
	}
	require.NoError(w.t, err)
}

// flagByClient does the same with ZooKeeper's own command line client.
func (w *world) flagByClient(task, data string) {
	w.t.Helper()
	path := w.store.ShadowPath(shadowApp, task, w.group)
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			if node, err := w.store.Read(w.ctx(), path[:i]); err == nil && !node.Exists {
				_, err = w.env.ZkCli(w.ctx(), "create", path[:i])
				require.NoError(w.t, err)
			}
		}
	}
	command := "create"
	if node, err := w.store.Read(w.ctx(), path); err == nil && node.Exists {
		command = "set"
	}
	_, err := w.env.ZkCli(w.ctx(), command, path, data)
	require.NoError(w.t, err)
}

// shadowReports is what the application's instances say of the group.
func (w *world) shadowReports() (all []metadata.ShadowReport) {
	w.t.Helper()
	names, err := w.store.Children(w.ctx(), w.store.InstancesPath(shadowApp))
	if !errors.Is(err, turnout.ErrNotFound) {
		require.NoError(w.t, err)
	}
	for _, name := range names {
		node, err := w.store.Read(w.ctx(), w.store.InstancePath(shadowApp, name))
		require.NoError(w.t, err)
		if !node.Exists {
			continue
		}
		i, err := metadata.ParseInstance(node.Data)
		require.NoError(w.t, err)
		all = append(all, i.Shadow[w.group])
	}
	return all
}

// shadowIs waits until the only instance says so of the group.
func (w *world) shadowIs(state metadata.ShadowState, tasks ...string) (found metadata.ShadowReport) {
	w.t.Helper()
	w.eventually(func() bool {
		all := w.shadowReports()
		if len(all) != 1 {
			return false
		}
		found = all[0]
		return found.State == state && fmt.Sprint(found.Tasks) == fmt.Sprint(tasks)
	}, func() any { return w.shadowReports() }, "the instance says %s by %v", state, tasks)
	return found
}

// sendMarked sends one message with the stress mark and returns the cluster that has it.
func (w *world) sendMarked(c *turnout.Client, body string) (cluster string) {
	w.t.Helper()
	r, err := c.Send(shadow.WithMark(w.ctx()), w.topic, &turnout.Message{Key: []byte("k"), Body: []byte(body)})
	require.NoError(w.t, err)
	return r.Cluster
}

// shadowScene is what the documentation tells: a group is switched on and off by a node, which edit writes, and stress messages
// come to the same listener with a marked ctx.
func shadowScene(t *testing.T, w *world, production, stress string, edit func(task, data string)) {
	w.putTopic(production)
	w.putShadow(stress)
	w.putGroup(nil)
	client := w.open(shadowApp)
	var in sides
	s, err := client.Subscribe(w.ctx(), w.group, in.listen)
	require.NoError(t, err)
	require.NoError(t, s.Ready(w.ctx()))

	require.Equal(t, stress, w.sendMarked(client, "s1"))
	require.Equal(t, production, w.send(client, "p1"))
	w.has(&in.production, "p1")

	edit("zpt_task_1", `{"enable":"1","owner":"somebody"}`)
	w.shadowIs(metadata.ShadowStarted, "zpt_task_1")
	w.has(&in.shadow, "s1")
	w.sendMarked(client, "s2")
	w.has(&in.shadow, "s2")
	for _, d := range in.shadow.deliveries() {
		require.Equal(t, w.topic, d.Topic)
		require.Equal(t, w.group, d.Group)
		require.Equal(t, stress, d.Cluster)
	}

	edit("zpt_task_1", `{"enable":"0","owner":"somebody"}`)
	w.shadowIs(metadata.ShadowStopped)
	w.with(stress, func(c broker.Cluster) {
		w.eventually(func() bool {
			members, err := c.GroupMembers(w.ctx(), metadata.ShadowPrefix+w.group)
			require.NoError(t, err)
			return len(members) == 0
		}, nil, "no member is left")
	})
	w.sendMarked(client, "s3")
	w.send(client, "p2")
	w.has(&in.production, "p1", "p2")
	require.ElementsMatch(t, []string{"p1", "p2"}, in.production.bodies())
	require.ElementsMatch(t, []string{"s1", "s2"}, in.shadow.bodies())

	edit("zpt_task_1", `{"enable":true}`)
	w.has(&in.shadow, "s3")
	require.NoError(t, s.Close(w.ctx()))
	w.shadowIs(metadata.ShadowIgnored, "zpt_task_1")
	require.ElementsMatch(t, []string{"s1", "s2", "s3"}, in.shadow.bodies(), "nothing twice")
}

func TestAShadowGroupRunsWhileItsFlagSaysSo(t *testing.T) {
	each(t, func(t *testing.T, w *world) { shadowScene(t, w, "kafka-a", "kafka-b", w.flag) })
}

func TestAShadowGroupRunsOnTheClusterOfItsTopicWhateverItsKind(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		for _, pair := range [][2]string{{"rocketmq-a", "rocketmq-b"}, {"kafka-a", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}, {"rocketmq-a", "rocketmq-a"}} {
			t.Run(pair[0]+" "+pair[1], func(t *testing.T) {
				w := newWorld(t, w.env, "kafka-a", "rocketmq-a", "rocketmq-b")
				shadowScene(t, w, pair[0], pair[1], w.flagByClient)
			})
		}
	})
}

func TestAGroupIsEnabledByTasksTogether(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		w.flag("one", `{"enable":"1"}`) // before the application is there
		w.flag("two", `{"enable":1}`)
		client := w.open(shadowApp)
		w.shadowIs(metadata.ShadowIgnored, "one", "two")
		var in sides
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		since := w.shadowIs(metadata.ShadowStarted, "one", "two").At
		w.flag("one", `{"enable":"0"}`)
		require.Equal(t, since, w.shadowIs(metadata.ShadowStarted, "two").At, "it has gone on")
		require.NoError(t, w.store.Delete(w.ctx(), w.store.ShadowPath(shadowApp, "two", w.group), metadata.AnyVersion))
		w.shadowIs(metadata.ShadowStopped)
		w.flag("three", `{"enable":"1"}`)
		w.shadowIs(metadata.ShadowStarted, "three")
		require.NoError(t, w.store.Delete(w.ctx(), w.store.ShadowPath(shadowApp, "three", w.group), metadata.AnyVersion))
		require.NoError(t, w.store.Delete(w.ctx(), w.flags+"/"+shadowApp+"/three", metadata.AnyVersion))
		w.shadowIs(metadata.ShadowStopped)
	})
}

// One row for each rule of what a flag node says, written into a node that says the opposite.
func TestEveryRuleOfAFlag(t *testing.T) {
	stops := []string{``, ` `, `no json`, `"1"`, `1`, `[]`, `null`, `{}`, `{"enable":null}`, `{"enable":""}`, `{"enable":"0"}`, `{"enable":0}`,
		`{"enable":0.0}`, `{"enable":false}`, `{"Enable":"1"}`, `{"enable":"1"`}
	starts := []string{`{"enable":"1"}`, `{"enable":1}`, `{"enable":true}`, `{"enable":"true"}`, `{"enable":"false"}`, `{"enable":" "}`, `{"enable":-1}`,
		`{"enable":1e999}`, `{"enable":{}}`, `{"enable":[]}`, `{"other":[1],"enable":"yes"}`}
	each(t, func(t *testing.T, w *world) {
		logged := w.observed(zapcore.WarnLevel)
		w.putTopic("kafka-a")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		client := w.open(shadowApp)
		_, err := client.Subscribe(w.ctx(), w.group, (&sides{}).listen)
		require.NoError(t, err)
		for _, data := range starts {
			w.flag("t", data)
			w.shadowIs(metadata.ShadowStarted, "t")
			w.flag("t", stops[0])
			w.shadowIs(metadata.ShadowStopped)
		}
		for _, data := range stops {
			w.flag("t", starts[0])
			w.shadowIs(metadata.ShadowStarted, "t")
			w.flag("t", data)
			w.shadowIs(metadata.ShadowStopped)
		}
		w.flag("t", starts[0])
		w.shadowIs(metadata.ShadowStarted, "t")
		require.NoError(t, w.store.Delete(w.ctx(), w.store.ShadowPath(shadowApp, "t", w.group), metadata.AnyVersion))
		w.shadowIs("") // nothing is to be said of it any more
		bad := logged.FilterMessage("a shadow flag can not be read and counts as off").All()
		require.NotEmpty(t, bad)
		require.Equal(t, w.store.ShadowPath(shadowApp, "t", w.group), bad[0].ContextMap()["path"])
		require.Contains(t, bad[0].ContextMap()["problem"], "no json")

		// What is no path of a group does nothing.
		for _, path := range []string{"/loose", "/task/" + w.group + "/deep", "/not a task/" + w.group, "/task2/not a group"} {
			require.NoError(t, w.store.Create(w.ctx(), w.flags+"/"+shadowApp+path, []byte(starts[0])))
		}
		w.flag("last", starts[0])
		w.shadowIs(metadata.ShadowStarted, "last")
	})
}

func TestWhatIsMarkedNeverGoesToProductionNorTheOtherWay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		logged := w.observed(zapcore.ErrorLevel)
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open(shadowApp)
		var in sides
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		name := metadata.ShadowPrefix + w.topic
		m := &turnout.Message{Key: []byte("k"), Body: []byte("x")}

		_, err = client.Send(shadow.WithMark(w.ctx()), w.topic, m)
		require.ErrorIs(t, err, turnout.ErrNoShadow)
		require.ErrorContains(t, err, "turnout shadow topic "+w.topic)
		async := make(chan error, 1)
		client.SendAsync(shadow.WithMark(w.ctx()), w.topic, m, func(_ turnout.SendResult, err error) { async <- err })
		require.ErrorIs(t, <-async, turnout.ErrNoShadow)
		_, err = client.Send(shadow.WithMark(w.ctx()), "nothing", m)
		require.ErrorIs(t, err, turnout.ErrUnknownTopic)

		w.flag("t", `{"enable":"1"}`)
		w.shadowIs(metadata.ShadowFailed, "t")
		require.Contains(t, w.shadowReports()[0].Reason, name)
		w.putShadow("kafka-a")
		w.shadowIs(metadata.ShadowStarted, "t")

		_, err = client.Send(w.ctx(), name, m)
		require.ErrorIs(t, err, turnout.ErrNotAllowed)
		_, err = client.Send(shadow.WithMark(w.ctx()), name, m)
		require.NoError(t, err, "a shadow topic is its own")
		w.has(&in.shadow, "x")

		// What others put on the wrong side is seen by no listener.
		w.with("kafka-a", func(c broker.Cluster) {
			stored := make(chan error, 2)
			for topic, marked := range map[string]bool{w.topic: true, name: false} {
				e := &broker.Envelope{Message: broker.Message{ID: producer.NewID(), Key: []byte("k"), Body: []byte("wrong")}, Shadow: marked}
				c.Send(w.ctx(), topic, e, func(_ broker.Receipt, err error) { stored <- err })
			}
			require.NoError(t, errors.Join(<-stored, <-stored))
			for _, group := range []string{w.group, metadata.ShadowPrefix + w.group} {
				topic := strings.Replace(group, w.group, w.topic, 1)
				w.eventually(func() bool {
					p, err := c.Pending(w.ctx(), group, topic)
					require.NoError(t, err)
					return p.DeadLetters == 1
				}, nil, "a dead letter of %s", group)
			}
		})
		require.Equal(t, int64(1), s.Stats().Misplaced)
		w.sendMarked(client, "s")
		w.send(client, "p")
		w.has(&in.production, "p")
		w.has(&in.shadow, "s")
		require.Equal(t, []string{"p"}, in.production.bodies())
		require.Equal(t, []string{"x", "s"}, in.shadow.bodies())
		require.Equal(t, 2, logged.FilterMessageSnippet("wrong side of the stress mark").Len())
		w.says("of the other side of the stress mark")
	})
}

func TestShadowNamesOfOnesOwn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Shadow = metadata.ShadowLimits{Group: "stress-" + w.group, Concurrency: 2} })
		own := "stress-" + w.topic
		w.with("kafka-a", func(c broker.Cluster) {
			require.NoError(t, c.CreateTopic(w.ctx(), own, broker.TopicSpec{Partitions: 4}))
		})
		settings := metadata.DefaultTopicSettings()
		settings.Shadow.Topic = own
		w.put(w.store.TopicPath(own), metadata.Wish{Cluster: "kafka-a"})
		w.put(w.store.SettingsPath(w.topic), settings)
		client := w.open(shadowApp)
		var in sides
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		_, err = client.Send(shadow.WithMark(w.ctx()), w.topic, &turnout.Message{Body: []byte("x")})
		require.ErrorIs(t, err, turnout.ErrNoShadow, "the other topic does not say that it is a shadow topic")
		w.flag("t", `{"enable":"1"}`)
		w.shadowIs(metadata.ShadowFailed, "t")
		require.Contains(t, w.shadowReports()[0].Reason, "is no shadow topic")
		w.with("kafka-a", func(c broker.Cluster) {
			positions, err := c.Positions(w.ctx(), "stress-"+w.group, own)
			require.NoError(t, err)
			require.Empty(t, positions, "nobody reads it")
		})
		w.flag("t", `{"enable":"0"}`)

		of := metadata.DefaultTopicSettings()
		of.ShadowOf = w.topic
		w.put(w.store.SettingsPath(own), of)
		w.eventually(func() bool {
			_, err := client.Send(shadow.WithMark(w.ctx()), w.topic, &turnout.Message{Body: []byte("s1")})
			return err == nil
		}, nil, "its settings say so now")
		_, err = client.Send(w.ctx(), own, &turnout.Message{Body: []byte("x")})
		require.ErrorIs(t, err, turnout.ErrNotAllowed)
		w.flag("t", `{"enable":"1"}`)
		w.has(&in.shadow, "s1")
		require.Equal(t, []string{"s1"}, in.shadow.bodies())
		w.with("kafka-a", func(c broker.Cluster) {
			members, err := c.GroupMembers(w.ctx(), "stress-"+w.group)
			require.NoError(t, err)
			require.Len(t, members, 1)
		})

		settings.Shadow.Enabled = false
		data, err := settings.MarshalJSON()
		require.NoError(t, err)
		require.NoError(t, w.store.Set(w.ctx(), w.store.SettingsPath(w.topic), data, metadata.AnyVersion))
		w.eventually(func() bool {
			_, err := client.Send(shadow.WithMark(w.ctx()), w.topic, &turnout.Message{Body: []byte("x")})
			return errors.Is(err, turnout.ErrNoShadow)
		}, nil, "no shadow topic any more")
		w.shadowIs(metadata.ShadowFailed, "t")
		require.Contains(t, w.shadowReports()[0].Reason, "shadow.enabled")
	})
}

// Without ZooKeeper nobody could stop a shadow group: it stops by itself, and business goes on.
func TestAShadowGroupStopsWhenTheSessionIsLost(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: kafkas}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		w.flag("t", `{"enable":"1"}`)
		client := w.open(shadowApp, turnout.WithSessionTimeout(4*time.Second))
		var in sides
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.shadowIs(metadata.ShadowStarted, "t")
		members := func() int {
			n := 0
			w.with("kafka-a", func(c broker.Cluster) {
				members, err := c.GroupMembers(w.ctx(), metadata.ShadowPrefix+w.group)
				require.NoError(t, err)
				n = len(members)
			})
			return n
		}
		require.Equal(t, 1, members())
		require.NoError(t, w.env.Kill(w.ctx(), "zookeeper"))
		w.eventually(func() bool { return members() == 0 }, nil, "it has stopped")
		w.send(client, "p")
		w.has(&in.production, "p")
		require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
		w.shadowIs(metadata.ShadowStarted, "t")
		w.expire(w.session(shadowApp))
		w.sendMarked(client, "s")
		w.has(&in.shadow, "s")
	})
}

// toggler switches the shadow group on, has it handle a message, and switches it off.
func (w *world) toggler(client *turnout.Client, in *sides) func() {
	n := 0
	return func() {
		w.flag("t", `{"enable":"1"}`)
		n++
		body := fmt.Sprint(n)
		w.sendMarked(client, body)
		w.has(&in.shadow, body)
		w.flag("t", `{"enable":"0"}`)
		w.shadowIs(metadata.ShadowStopped)
	}
}

// A shadow group that is enabled and disabled again and again leaves nothing behind in the process.
func TestTogglesLeaveNothingBehind(t *testing.T) { // alone, because it counts
	backends, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, sharedEnv(t, backend, kafkasSpec), kafkas...)
			w.putTopic("kafka-a")
			w.putShadow("kafka-b")
			w.putGroup(nil)
			client := w.open(shadowApp)
			var in sides
			_, err := client.Subscribe(w.ctx(), w.group, in.listen)
			require.NoError(t, err)
			toggle := w.toggler(client, &in)
			for range 3 {
				toggle()
			}
			before := goroutines()
			const toggles = 10
			for range toggles {
				toggle()
			}
			var more []string
			w.eventually(func() bool {
				more = nil
				for by, n := range goroutines() {
					if n > before[by]+toggles/2 { // what comes and goes counts neither way
						more = append(more, fmt.Sprintf("%d more by %s", n-before[by], by))
					}
				}
				return len(more) == 0
			}, func() any { return more }, "nothing is left behind")
		})
	}
}

// A listener at work when its shadow group is switched off finishes, and nothing is handled twice.
func TestAListenerAtWorkFinishesWhenItsShadowGroupIsStopped(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		w.flag("t", `{"enable":"1"}`)
		client := w.open(shadowApp)
		var in inbox
		var once sync.Once
		entered, leave := make(chan struct{}), make(chan struct{})
		_, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			once.Do(func() { close(entered) })
			<-leave
			in.add(d)
			return ctx.Err()
		}, consumer.WithLinger(time.Second))
		require.NoError(t, err)
		w.sendMarked(client, "s")
		<-entered
		w.flag("t", `{"enable":"0"}`)
		w.shadowIs(metadata.ShadowStopping)
		w.flag("t", `{"enable":"1"}`)
		w.shadowIs(metadata.ShadowStopping, "t")
		close(leave)
		w.shadowIs(metadata.ShadowStarted, "t")
		w.sendMarked(client, "t")
		w.has(&in, "s", "t")
		require.Equal(t, []string{"s", "t"}, in.bodies())
	})
}
