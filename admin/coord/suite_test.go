package coord_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

// TestOnEveryZooKeeper is what must hold on every ZooKeeper, an ensemble of three servers here. All of it is played in
// one environment, and whatever a case breaks is mended.
func TestOnEveryZooKeeper(t *testing.T) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 3}, func(t *testing.T, e *testenv.Env) {
		for _, c := range []struct {
			name string
			play func(*tree)
		}{
			{"a lock is held by one after the other", lockInTurn},
			{"the end of one wakes one", oneWakesOne},
			{"fifty contenders", fiftyContenders},
			{"contenders lose their sessions", contendersLoseSessions},
			{"in a chroot, with an identity", chrootAndIdentity},
			{"a session expires while it holds", expiryWhileHolding},
			{"a session expires while it waits", expiryWhileWaiting},
			{"a place is deleted by hand", deletedByHand},
			{"ZooKeeper is away for a moment", briefOutage},
			{"ZooKeeper is away for long", longOutage},
			{"a leader is cut off", leaderCutOff},
			{"a leader is killed", leaderKilled},
			{"a leader is stopped and goes on", leaderStopped},
			{"terms", terms},
			{"members", members},
			{"items in order", itemsInOrder},
			{"numbers go round", numbersGoRound},
			{"an item is not handled at first", itemAgain},
			{"a consumer is killed", consumerKilled},
			{"a consumer is deposed", consumerDeposed},
		} {
			t.Run(c.name, func(t *testing.T) {
				tree := newTree(t, e)
				c.play(tree)
				require.NoError(t, e.Mend(tree.ctx()))
			})
		}
	})
}
