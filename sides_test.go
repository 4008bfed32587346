package turnout_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
)

// putMirror makes a topic that may be a shadow topic by its settings, not by its name.
func (w *world) putMirror() (mirror string) {
	w.t.Helper()
	mirror = "mirror-" + w.topic
	w.with("kafka-a", func(c broker.Cluster) {
		require.NoError(w.t, c.CreateTopic(w.ctx(), mirror, broker.TopicSpec{Partitions: 1}))
	})
	_, err := w.store.PutTopic(w.ctx(), mirror, metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(w.t, err)
	return mirror
}

// settings replaces those of a topic.
func (w *world) settings(topic string, change func(*metadata.TopicSettings)) {
	w.t.Helper()
	s := metadata.DefaultTopicSettings()
	change(&s)
	require.NoError(w.t, w.store.PutSettings(w.ctx(), topic, s))
}

// A send that waits while its topic changes sides is not let across.
func TestASendThatWaitsDoesNotCross(t *testing.T) {
	message := &turnout.Message{Body: []byte("x")}
	hold := func(w *world, mirror string, hold *metadata.Hold) {
		of := *w
		of.topic = mirror
		of.change(func(r *metadata.Route) { r.Hold = hold })
		if hold != nil {
			of.participant(func(p metadata.Participant) bool { return p.Held }, "sends wait")
		}
	}
	t.Run("without the mark", func(t *testing.T) {
		each(t, func(t *testing.T, w *world) {
			w.putTopic("kafka-a")
			mirror := w.putMirror()
			client := w.open(shadowApp)
			_, err := client.Send(w.ctx(), mirror, message)
			require.NoError(t, err)
			hold(w, mirror, &metadata.Hold{MS: 60_000})
			done := make(chan error, 1)
			go func() {
				_, err := client.Send(w.ctx(), mirror, message)
				done <- err
			}()
			w.settings(mirror, func(s *metadata.TopicSettings) { s.ShadowOf = w.topic })
			require.ErrorIs(t, <-done, turnout.ErrNotAllowed)
		})
	})
	t.Run("with the mark", func(t *testing.T) {
		each(t, func(t *testing.T, w *world) {
			w.putTopic("kafka-a")
			mirror := w.putMirror()
			w.settings(mirror, func(s *metadata.TopicSettings) { s.ShadowOf = w.topic })
			w.settings(w.topic, func(s *metadata.TopicSettings) { s.Shadow.Topic = mirror })
			client := w.open(shadowApp)
			marked := shadow.WithMark(w.ctx())
			_, err := client.Send(marked, w.topic, message)
			require.NoError(t, err)
			hold(w, mirror, &metadata.Hold{MS: 60_000})
			done := make(chan error, 1)
			go func() {
				_, err := client.Send(marked, w.topic, message)
				done <- err
			}()
			w.settings(w.topic, func(*metadata.TopicSettings) {})
			w.settings(mirror, func(*metadata.TopicSettings) {})
			require.ErrorIs(t, <-done, turnout.ErrNoShadow)
		})
	})
}

// A process that sends only with the stress mark uses the topic's settings and nothing else of it.
func TestAProcessThatOnlySendsMarkedHoldsNoMoveUp(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		w.sendMarked(w.open("stress_only"), "s")
		o := w.operate()
		move := o.start(migrate.Plan{To: "kafka-b", Accept: []string{migrate.SleepingGroups}})
		require.Equal(t, store.Done, o.ended(move.ID).Outcome, o.story(move.ID))
	})
}

// What is said of a group whose shadow group never came up, and of flags that go.
func TestShadowReportsFollowTheFlags(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		logged := w.observed(zapcore.ErrorLevel)
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open(shadowApp)
		_, err := client.Subscribe(w.ctx(), w.group, (&sides{}).listen)
		require.NoError(t, err)
		for _, task := range []string{"one", "two", "three"} {
			w.flag(task, `{"enable":"1"}`)
			require.Contains(t, w.shadowIs(metadata.ShadowFailed, task).Reason, "turnout topic put")
			require.NoError(t, w.store.Delete(w.ctx(), w.store.ShadowPath(shadowApp, task, w.group), metadata.AnyVersion))
			w.shadowIs("")
		}
		require.Empty(t, logged.All(), "a flag that is deleted is no error")
	})
}

// A topic that a group reads in production becomes a shadow topic by hand: the group stops reading it, and says so.
func TestAGroupSaysWhyItDoesNotReadAShadowTopic(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		logged := w.observed(zapcore.ErrorLevel)
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open(shadowApp)
		var in sides
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.write(w.store.SettingsPath(w.topic), []byte(`{"v":1,"shadowOf":"other"}`))
		w.says("is a shadow topic")
		require.NotEmpty(t, logged.FilterMessage("the topic is not read").All())
		w.eventually(func() bool { return len(w.members("kafka-a")) == 0 }, nil, "it has left")
		w.write(w.store.SettingsPath(w.topic), []byte(`{"v":1}`))
		require.NoError(t, s.Ready(w.ctx()))
		w.send(client, "p")
		w.has(&in.production, "p")
	})
}

// Clients open, subscribe, send and close again while flags change all the time, and every Close ends.
func TestSubscriptionsComeAndGoWhileFlagsChange(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putShadow("kafka-a")
		w.putGroup(nil)
		stop := make(chan struct{})
		var toggler sync.WaitGroup
		toggler.Go(func() {
			tick := time.NewTicker(7 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				w.flag("t", []string{`{"enable":"1"}`, `{"enable":"0"}`}[i%2])
			}
		})
		for range 8 {
			client := w.open(shadowApp)
			var users sync.WaitGroup
			for range 3 {
				users.Go(func() {
					for range 4 {
						s, err := client.Subscribe(w.ctx(), w.group, (&sides{}).listen)
						if errors.Is(err, turnout.ErrConflict) || errors.Is(err, turnout.ErrClosed) {
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						_, err = client.Send(shadow.WithMark(w.ctx()), w.topic, &turnout.Message{Body: []byte("x")})
						if err != nil && !errors.Is(err, turnout.ErrClosed) {
							t.Error(err)
						}
						short, cancel := context.WithTimeout(w.ctx(), time.Millisecond)
						_ = s.Close(short) // gives up, and is called again
						cancel()
						if err := s.Close(w.ctx()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			users.Wait()
			require.NoError(t, client.Close(w.ctx()))
		}
		close(stop)
		toggler.Wait()
	})
}
