package coord_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// embedded plays a case with faults that only the embedded ZooKeeper has.
func embedded(t *testing.T, play func(t *tree)) {
	testenv.EachOf(t, testenv.Spec{ZooKeeper: 1}, []testenv.Backend{testenv.Embedded}, func(t *testing.T, e *testenv.Env) { play(newTree(t, e)) })
}

// ZooKeeper does what it is asked to, and the answer is lost.
func TestLostAnswers(t *testing.T) {
	embedded(t, func(t *tree) {
		a, watcher := t.open(), t.open()
		zookeeper := t.env.EmbeddedZooKeeper()
		for range 3 {
			zookeeper.DropAnswers(t.root+locks, 2) // to the creation and to the removal, or of the parents at first
			held := t.lock(a)
			require.Len(t, t.places(watcher, locks), 1)
			require.NoError(t, held.Err())
			require.NoError(t, held.Unlock(t.ctx()))
			require.Empty(t, t.places(watcher, locks))
		}
		job, id := t.job(a)
		for range 3 {
			zookeeper.DropAnswers(t.root+"/jobs", 4)
			require.NoError(t, job.Lead(t.ctx(), func(_ context.Context, lead *coord.Held) error {
				require.Len(t, t.places(watcher, latch), 1)
				require.Equal(t, id, t.leader(job))
				return lead.Err()
			}))
			require.Empty(t, t.places(watcher, latch))
			require.Empty(t, t.leader(job))
		}
	})
}

// The consumer is fast: the item is gone before its sender can look for it.
func TestLostAnswersOfAQueue(t *testing.T) {
	embedded(t, func(t *tree) {
		a, b := t.open(), t.open()
		from, to := t.queue(a), t.queue(b)
		items, _ := t.served(to, nil)
		t.until(b, consumers, 1)
		const n = 8
		for i := range n {
			t.env.EmbeddedZooKeeper().DropAnswers(t.root+"/queue", 1+i%2) // also of the consumer
			_, err := from.Put(t.ctx(), []byte(strconv.Itoa(i)))
			require.NoError(t, err)
		}
		t.eventually(func() bool { return t.length(from) == 0 }, "the queue is empty")
		require.Len(t, items, n, "each item once")
		for i := range n {
			require.Equal(t, strconv.Itoa(i), string((<-items).Data))
		}
	})
}

// Who gives up while ZooKeeper does not answer has no place in the line when it does.
func TestGivingUpWithoutAnAnswer(t *testing.T) {
	embedded(t, func(t *tree) {
		a, watcher := t.open(), t.open()
		held := t.lock(watcher)
		zookeeper := t.env.EmbeddedZooKeeper()
		for range 5 {
			zookeeper.Freeze()
			ctx, cancel := context.WithTimeout(t.ctx(), 20*time.Millisecond)
			_, err := coord.Lock(ctx, a, "x")
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			zookeeper.Thaw()
			// What a asks now is answered after what it had asked.
			require.NoError(t, a.Sync(t.ctx(), t.root))
		}
		t.until(watcher, locks, 1)
		require.NoError(t, held.Unlock(t.ctx()))
		t.lock(a)
	})
}

// A watch that was lost is made good by looking again.
func TestLostWatch(t *testing.T) {
	embedded(t, func(t *tree) {
		a, b := t.open(), t.open(often)
		held := t.lock(a)
		next := t.inLine(b)
		t.eventually(func() bool { return t.env.EmbeddedZooKeeper().ForgetWatches(b.Session().ID) > 0 }, "it watches")
		require.NoError(t, held.Unlock(t.ctx()))
		require.NoError(t, wait(t, next, "the next holder").Unlock(t.ctx()))
	})
}

// often makes a Store look again soon.
func often(c *metadata.Config) { c.Recheck = 200 * time.Millisecond }
