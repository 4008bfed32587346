package rocketmq_test

import (
	"fmt"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// timedIsPending: what others have sent to this topic with a timer is counted from the acknowledgement until it is in the topic.
func (w *world) timedIsPending() {
	other := w.topic + "_other"
	require.NoError(w, w.c.CreateTopic(w.ctx(), other, broker.TopicSpec{Partitions: 1}))
	send := func(topic, timer, value string) {
		w.Helper()
		_, err := w.raw.Call(w.ctx(), w.broker, remoting.NewRequest(remoting.ReqSendMessage, []byte("later"), "producerGroup", "p", "topic", topic,
			"queueId", "0", "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0", "bornTimestamp", "1700000000000", "flag", "0",
			"properties", remoting.AppendProperty("", timer, value), "reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
		require.NoError(w, err)
	}
	soon := strconv.FormatInt(time.Now().Add(3*time.Second).UnixMilli(), 10)
	send(w.topic, "TIMER_DELIVER_MS", soon)
	send(other, "TIMER_DELAY_MS", "3600000")
	send(w.topic, "TIMER_DELAY_MS", "2500")
	send(w.topic, "TIMER_DELAY_SEC", "2")
	w.eventually(func() error {
		p, err := w.c.Pending(w.ctx(), w.group, w.topic)
		if err != nil {
			return err
		}
		require.Empty(w, p.Uncounted)
		ends, err := w.c.EndOffsets(w.ctx(), w.topic)
		if err != nil {
			return err
		}
		in := broker.Offsets{}.Missing(ends)
		require.GreaterOrEqual(w, p.Delayed+in, int64(3), "each is seen in one place or in both")
		if in < 3 || p.Delayed > 0 {
			return fmt.Errorf("%d wait, %d are there", p.Delayed, in)
		}
		return nil
	})
	p, err := w.c.Pending(w.ctx(), w.group, other)
	require.NoError(w, err)
	require.EqualValues(w, 1, p.Delayed)
	send(other, "TIMER_DELAY_MS", "-5") // is due
	ends, err := w.c.EndOffsets(w.ctx(), other)
	require.NoError(w, err)
	require.EqualValues(w, 1, broker.Offsets{}.Missing(ends))
}
