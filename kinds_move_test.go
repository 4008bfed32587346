package turnout_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
)

// A tour over clusters of both kinds, and back onto those that were left and closed.
func TestMovesBetweenKindsLeaveNothingBehind(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "rocketmq-a", "rocketmq-b")
		w.putGroup(nil)
		o := w.operate()
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		m := &moving{operator: o, client: client, quiet: w.traffic(client, rec, 4)}
		m.sendsTo("kafka-a", 20)
		w.applied("kafka-a")
		at := "kafka-a"
		for _, to := range []string{"rocketmq-a", "rocketmq-b", "kafka-a", "rocketmq-a", "kafka-a"} {
			move := o.start(migrate.Plan{To: to})
			r := o.ended(move.ID)
			t.Log(o.story(move.ID))
			require.Equal(t, store.Done, r.Outcome, o.story(move.ID))
			require.True(t, r.Free, r.Verdict)
			require.True(t, w.fenced(at), at)
			require.False(t, w.fenced(to), to)
			route, _ := w.route()
			require.Equal(t, to, route.Write)
			require.Len(t, route.Stays, 1)
			m.sendsTo(to, 20)
			at = to
		}
		m.quiet()
		require.NoError(t, w.verdict("kafka-a", "rocketmq-a", "rocketmq-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}
