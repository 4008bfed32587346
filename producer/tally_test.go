package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
)

// migrating says in the route that the topic is being moved, or not.
func (r *rig) migrating(id string) {
	r.Helper()
	node, err := r.store.Read(r.ctx(), r.store.RoutePath(topic))
	require.NoError(r, err)
	route, err := metadata.ParseRoute(node.Data)
	require.NoError(r, err)
	route.Migration = id
	data, err := json.Marshal(route)
	require.NoError(r, err)
	require.NoError(r, r.store.Set(r.ctx(), node.Path, data, node.Version))
}

// What a process says of its sends while the topic is moved: attempts that have failed, and not those that the cluster has refused or that
// nobody waits for any more.
func TestAttemptsAreCountedByWhatTheyEndWith(t *testing.T) {
	again := map[string]bool{}
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: func(c *clustertest.Cluster, _ string, m *broker.Envelope, done func(broker.Receipt, error)) {
		switch string(m.Body) {
		case "again":
			if again[m.ID] {
				done(c.Store(m), nil)
				return
			}
			again[m.ID] = true
			done(broker.Receipt{}, errTransient)
		case "fatal":
			done(broker.Receipt{}, clustertest.ErrFatal)
		case "refused":
			done(broker.Receipt{}, errors.Join(clustertest.ErrRefused, errs.ErrTooLarge))
		case "hangs":
		default:
			done(c.Store(m), nil)
		}
	}})
	send := func(ctx context.Context, body string, want error) {
		t.Helper()
		_, err := r.producer.Send(ctx, topic, message("k", body))
		require.ErrorIs(t, err, want)
		answer := make(chan error, 1)
		r.producer.SendAsync(ctx, topic, message("k", body), func(_ producer.Result, err error) { answer <- err })
		require.ErrorIs(t, <-answer, want)
	}
	cancelled, cancel := context.WithCancel(r.ctx())
	cancel()
	late, cancel := context.WithDeadline(r.ctx(), time.Now())
	defer cancel()
	round := func() {
		for range 3 {
			send(r.ctx(), "ok", nil)
		}
		send(r.ctx(), "again", nil)
		send(r.ctx(), "fatal", clustertest.ErrFatal)
		send(late, "hangs", context.DeadlineExceeded)
		send(cancelled, "hangs", context.Canceled)
		send(r.ctx(), "refused", errs.ErrTooLarge)
	}
	round()
	require.Empty(t, r.participant().Sends, "nobody moves the topic")
	r.migrating("m-1")
	r.eventually(func() bool {
		round()
		ended := time.Now()
		var now metadata.Sends
		r.eventually(func() bool { // once it has told of all of them
			p := r.participant()
			now = p.Sends["a"]
			return p.At.After(ended) && now.Failed > 0
		}, "the sends are reported")
		require.Len(t, r.participant().Sends, 1, "nothing was sent to b")
		return now.OK*3 == now.Failed*4 // of each round four and three; those of a round from before may have been forgotten in part
	}, "the attempts are counted by what they ended with")

	r.migrating("")
	r.eventually(func() bool { return r.participant().Sends == nil }, "it is told no more")
}

func TestTimesOfAttemptsAreThoseOfTheCluster(t *testing.T) {
	const slow = 150 * time.Millisecond
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: func(c *clustertest.Cluster, _ string, m *broker.Envelope, done func(broker.Receipt, error)) {
		time.AfterFunc(slow, func() { done(c.Store(m), nil) })
	}})
	r.migrating("m-1")
	_, err := r.producer.Send(r.ctx(), topic, message("k", "1"))
	require.NoError(t, err)
	r.eventually(func() bool { return r.participant().Sends["a"].OK == 1 }, "it is counted")
	const bucket = 0.8 // times are kept in steps
	require.GreaterOrEqual(t, r.participant().Sends["a"].P99, bucket*float64(slow/time.Millisecond))
}

func TestSendsOfSeveralAreJoined(t *testing.T) {
	a, b := metadata.Sends{OK: 80, Failed: 10, P99: 10}, metadata.Sends{OK: 10, P99: 110}
	require.Equal(t, metadata.Sends{OK: 90, Failed: 10, P99: 20}, a.Plus(b))
	require.Equal(t, a, metadata.Sends{}.Plus(a))
	require.Equal(t, metadata.Sends{}, metadata.Sends{}.Plus(metadata.Sends{}))
}
