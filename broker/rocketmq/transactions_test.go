package rocketmq_test

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
)

// transactionsAreSeen: those that are open on a topic, and only those, also when the broker has stored them anew, and behind a fence.
func (w *world) transactionsAreSeen() {
	other := w.topic + "_other"
	require.NoError(w, w.c.CreateTopic(w.ctx(), other, broker.TopicSpec{Partitions: 2}))
	w.send("before")
	prepare := func(topic string, queue int) *testenv.Half {
		w.Helper()
		h, err := testenv.PrepareHalf(w.ctx(), w.raw, w.broker, topic, queue, []byte("half"))
		require.NoError(w, err)
		return h
	}
	open := func() broker.Offsets {
		w.Helper()
		open, err := w.c.OpenTransactions(w.ctx(), w.topic)
		require.NoError(w, err)
		return open
	}
	becomes := func(want ...string) {
		w.Helper()
		w.eventually(func() error { // the broker notes ends some seconds later
			if got := open(); fmt.Sprint(got.Names()) != fmt.Sprint(want) {
				return fmt.Errorf("open are %v, not %v", got, want)
			}
			return nil
		})
	}
	part := func(queue int) string { return fmt.Sprintf("%s:%d", w.name, queue) }

	require.Empty(w, open())
	committed, rolledBack := prepare(w.topic, 0), prepare(w.topic, 1)
	foreign := prepare(other, 0)
	require.Equal(w, []string{part(0), part(1)}, open().Names())
	require.NoError(w, committed.End(w.ctx(), true))
	require.NoError(w, rolledBack.End(w.ctx(), false))
	becomes()
	require.NoError(w, foreign.End(w.ctx(), true))
	ends, err := w.c.EndOffsets(w.ctx(), w.topic)
	require.NoError(w, err)

	prepare(w.topic, 2)
	require.Equal(w, broker.Offsets{part(2): ends[part(2)]}, open())
	require.NoError(w, w.raw.UpdateBrokerConfig(w.ctx(), w.broker, map[string]string{"transactionTimeOut": "100"}))
	half := remoting.Queue{Topic: "RMQ_SYS_TRANS_HALF_TOPIC", Broker: w.name}
	end, err := w.raw.MaxOffset(w.ctx(), w.broker, half)
	require.NoError(w, err)
	w.eventually(func() error { // it asks the producer, and stores the message again
		require.Equal(w, []string{part(2)}, open().Names())
		at, _, _, err := w.raw.ConsumerOffset(w.ctx(), w.broker, "CID_RMQ_SYS_TRANS", half)
		if err == nil && at < end {
			err = fmt.Errorf("it stands at %d of %d", at, end)
		}
		return err
	})
	require.Equal(w, []string{part(2)}, open().Names())
	require.NoError(w, w.c.Fence(w.ctx(), w.topic))
	require.Equal(w, []string{part(2)}, open().Names())
}
