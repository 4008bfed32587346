package rocketmq_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// A cluster of two masters, each with two queues of the topic.
func TestSeveralMasters(t *testing.T) {
	testenv.Each(t, testenv.Spec{RocketMQ: names[:1], RocketMQBrokers: 2}, func(t *testing.T, e *testenv.Env) {
		newMasters := func(t *testing.T) (*world, map[string]string) {
			w := &world{T: t, e: e, name: names[0], raw: remoting.NewClient(remoting.Options{})}
			t.Cleanup(w.raw.Close)
			w.c = w.open()
			w.topic = strings.ToLower("rt_" + strings.ReplaceAll(t.Name(), "/", "_"))
			w.group = "g_" + w.topic
			require.NoError(t, w.c.CreateTopic(w.ctx(), w.topic, broker.TopicSpec{Partitions: 2}))
			info, err := w.raw.ClusterInfo(w.ctx(), e.Addresses(w.name)[0])
			require.NoError(t, err)
			masters := map[string]string{}
			for name, b := range info.Brokers {
				masters[name] = b.Master()
			}
			require.Len(t, masters, 2)
			return w, masters
		}
		t.Run("Closed", func(t *testing.T) { closedMasters(newMasters(t)) })
		t.Run("OneIsTakenOut", func(t *testing.T) { w, _ := newMasters(t); oneMasterIsTakenOut(w) })
		t.Run("OneDies", func(t *testing.T) { w, _ := newMasters(t); oneMasterDies(w) })
	})
}

// closedMasters: a topic is closed when all masters are, and what they have still counts.
func closedMasters(w *world, masters map[string]string) {
	queues := func(name string, n int) {
		w.Helper()
		require.NoError(w, w.raw.UpdateTopic(w.ctx(), masters[name], remoting.TopicConfig{Name: w.topic, ReadQueues: n, WriteQueues: n,
			Perm: remoting.PermRead | remoting.PermWrite}))
	}
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	for i := range 8 {
		w.send(fmt.Sprint(i))
	}
	before, err := w.c.DescribeTopic(w.ctx(), w.topic)
	require.NoError(w, err)
	require.Len(w, before.Partitions, 4)

	queues("rocketmq-a", 0)
	info, err := w.c.DescribeTopic(w.ctx(), w.topic)
	require.NoError(w, err)
	require.False(w, info.Fenced, "the other master takes messages")
	err = w.c.Fenced(w.ctx(), w.topic)
	require.ErrorIs(w, err, errs.ErrConflict)
	require.ErrorContains(w, err, `"rocketmq-a-2"`)
	require.Contains(w, w.send("to the other").Partition, "rocketmq-a-2:")

	require.NoError(w, w.c.Fence(w.ctx(), w.topic))
	require.NoError(w, w.c.Fenced(w.ctx(), w.topic))
	ends, err := w.c.EndOffsets(w.ctx(), w.topic)
	require.NoError(w, err)
	_, err = w.try(broker.Message{Body: []byte("x")})
	require.ErrorIs(w, err, errs.ErrFenced)
	for name, c := range map[string]broker.Cluster{"seen it open": w.c, "never seen it open": w.open()} {
		info, err = c.DescribeTopic(w.ctx(), w.topic)
		require.NoError(w, err)
		require.True(w, info.Fenced, name)
		got, err := c.EndOffsets(w.ctx(), w.topic)
		require.NoError(w, err)
		for queue, end := range ends { // one that is empty may be unknown to who never saw it open
			require.Equal(w, end, got[queue], "%s: %s", name, queue)
		}
	}

	require.NoError(w, w.c.Unfence(w.ctx(), w.topic, before.Restore))
	r := w.join(w.c, broker.Membership{})
	w.attached(r, 4)
	w.wait(r, 9)
	w.send("again")
	w.wait(r, 10)
}

// oneMasterIsTakenOut: keys go to the other one when the name server lets nobody write to it, and when it is not there any more.
func oneMasterIsTakenOut(w *world) {
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	name := w.e.Addresses(w.name)[0]
	permission := func(code int) {
		w.Helper()
		_, err := w.raw.Call(w.ctx(), name, remoting.NewRequest(code, nil, "brokerName", "rocketmq-a-2"))
		require.NoError(w, err)
	}
	others := func(c broker.Cluster) error {
		of := *w
		of.c = c
		for i := range 16 {
			r, err := of.try(broker.Message{Key: fmt.Append(nil, i), Body: []byte("k")})
			if err != nil {
				return err
			}
			if strings.Contains(r.Partition, "rocketmq-a-2:") {
				return fmt.Errorf("key %d goes to %s", i, r.Partition)
			}
		}
		return nil
	}
	const wipe, give = 205, 327
	require.Error(w, others(w.c))
	permission(wipe)
	c := w.open() // who is there already asks within half a minute
	require.NoError(w, c.Warm(w.ctx(), w.topic))
	require.NoError(w, others(c))
	require.NoError(w, w.e.Kill(w.ctx(), "rocketmq-a/broker-2"))
	w.eventually(func() error { return others(c) })
	require.NoError(w, w.e.Restart(w.ctx(), "rocketmq-a/broker-2"))
	permission(give)
}

// oneMasterDies: the queues of the other one are read on, and those of the dead one when it is back; nothing is lost.
func oneMasterDies(w *world) {
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	r := w.join(w.c, broker.Membership{Retries: true})
	w.attached(r, 4)
	sent := map[string]bool{}
	round := func(name string) {
		for i := range 8 {
			body := fmt.Sprint(name, i)
			w.send(body)
			sent[body] = true
		}
	}
	all := func() {
		w.Helper()
		w.eventually(func() error {
			got := map[string]bool{}
			for _, body := range r.bodies() {
				got[body] = true
			}
			for body := range sent {
				if !got[body] {
					return fmt.Errorf("%s has not come; %+v", body, r.State())
				}
			}
			return nil
		})
	}
	round("both")
	all()
	keyOf := map[string]string{} // of the first queue of each broker
	for i := 0; len(keyOf) < 2; i++ {
		var r broker.Receipt
		w.eventually(func() (err error) {
			r, err = w.try(broker.Message{Key: fmt.Append(nil, i), Body: []byte("k")})
			return err
		})
		if name, found := strings.CutSuffix(r.Partition, ":0"); found {
			keyOf[name] = fmt.Sprint(i)
		}
	}
	keyed := func(on string) error {
		r, err := w.try(broker.Message{Key: []byte(keyOf[on]), Body: []byte("k")})
		if err == nil {
			require.Equal(w, on+":0", r.Partition)
		}
		return err
	}
	told := *w // somebody has told it that the second one is not to be waited for
	cfg := config(w.e, w.name)
	cfg.Properties = map[string]string{"retired.brokers": "rocketmq-a-2"}
	var err error
	told.c, err = rocketmq.Open(w.ctx(), cfg)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, told.c.Close(w.ctx())) })
	r2, err := told.try(broker.Message{Key: []byte(keyOf["rocketmq-a-2"]), Body: []byte("k")})
	require.NoError(w, err)
	require.Equal(w, "rocketmq-a-2:0", r2.Partition)
	require.NoError(w, w.e.Kill(w.ctx(), "rocketmq-a/broker-2"))
	round("one")
	all()
	w.eventually(func() error {
		if r2, err = told.try(broker.Message{Key: []byte(keyOf["rocketmq-a-2"]), Body: []byte("k")}); err == nil {
			_, err = told.c.EndOffsets(w.ctx(), w.topic, "rocketmq-a-2:0")
		}
		return err
	})
	require.Contains(w, r2.Partition, "rocketmq-a:")
	err = keyed("rocketmq-a-2")
	require.Error(w, err, "a key goes to no other queue")
	require.Equal(w, broker.Retry, w.c.Classify(err), err)
	w.eventually(func() error { return keyed("rocketmq-a") })
	_, err = w.c.EndOffsets(w.ctx(), w.topic)
	require.Error(w, err, "no queue is left out")
	require.Equal(w, broker.Retry, w.c.Classify(err), err)
	require.NoError(w, w.e.Restart(w.ctx(), "rocketmq-a/broker-2"))
	w.attached(r, 4)
	w.eventually(func() error { return keyed("rocketmq-a-2") })
	round("both again")
	all()
	w.eventually(func() error {
		ends, err := w.c.EndOffsets(w.ctx(), w.topic)
		if err != nil {
			return err
		}
		positions, err := w.c.Positions(w.ctx(), w.group, w.topic)
		if err == nil && !positions.Reached(ends) {
			err = fmt.Errorf("positions %v of %v", positions, ends)
		}
		return err
	})
}
