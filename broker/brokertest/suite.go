// Package brokertest is the suite that every driver passes, on every server that its kind runs on. It speaks the
// contract of package broker only; what the servers are and how faults are done comes with the Target.
package brokertest

import (
	"context"
	"testing"
	"time"

	"github.com/turnout-mq/turnout/broker"
)

// Target is two clusters of one kind and the driver for them. The suite does harm to cluster 1 only, so that most of
// it can run in parallel on cluster 0.
type Target struct {
	Kind broker.Kind
	// Open is the driver's.
	Open func(context.Context, broker.Config) (broker.Cluster, error)
	// Config returns the configuration of cluster 0 or 1, with Name and ClusterID filled in. Sessions and sends should
	// outlast a machine that stands still for some seconds; on cluster 1 sends should be given up within seconds.
	Config func(cluster int) broker.Config
	// Session is longer than it takes until the cluster gives the partitions of a member that died to others.
	Session time.Duration
	// Patience is the longest that anything may take before it counts as never. 0: 1 min.
	Patience time.Duration

	// Kill ends a cluster at once, Restart brings it back with its data.
	Kill, Restart func(ctx context.Context, cluster int) error
	// Pause freezes a cluster: it answers nothing until Resume.
	Pause, Resume func(cluster int) error
	// Commit makes 1 the position of group on the first partition of topic on cluster 0, as a client that knows nothing of
	// Turnout does.
	Commit func(ctx context.Context, group, topic string) error
	// Foreign stores a message on cluster 0 as a client that knows nothing of Turnout does.
	Foreign func(ctx context.Context, topic string, key, body []byte, headers []broker.Header) error
}

// Run runs the suite.
func Run(t *testing.T, target Target) {
	if target.Patience == 0 {
		target.Patience = time.Minute
	}
	t.Run("calm", func(t *testing.T) {
		t.Parallel()
		shared := open(t, target, 0)
		for name, test := range map[string]func(*suite){
			"Send":             (*suite).roundTrip,
			"Foreign":          (*suite).foreign,
			"Keys":             (*suite).keys,
			"NoKey":            (*suite).noKey,
			"Sizes":            (*suite).sizes,
			"UnknownTopic":     (*suite).unknownTopic,
			"Order":            (*suite).order,
			"Features":         (*suite).features,
			"Fence":            (*suite).fence,
			"FenceStops":       (*suite).fenceStops,
			"Unfence":          (*suite).unfence,
			"Groups":           (*suite).groups,
			"Peek":             (*suite).peek,
			"OpenTransactions": (*suite).openTransactions,
			"Topics":           (*suite).topics,
			"Offsets":          (*suite).offsets,
			"Reset":            (*suite).reset,
			"Describe":         (*suite).describe,
			"OpenRefuses":      (*suite).openRefuses,
			"Group":            (*suite).group,
			"Redelivery":       (*suite).redelivery,
			"CommitKeepsBack":  (*suite).commitKeepsBack,
			"LateCommit":       (*suite).lateCommit,
			"Crash":            (*suite).crash,
			"Retry":            (*suite).retry,
			"DeadLetter":       (*suite).deadLetter,
			"Pause":            (*suite).pause,
			"Start":            (*suite).start,
			"StartStoredFirst": (*suite).startStoredFirst,
			"Anew":             (*suite).anew,
			"Tags":             (*suite).tags,
			"ClaimReturns":     (*suite).claimReturns,
			"Close":            (*suite).closing,
			"CloseForced":      (*suite).closeForced,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(&suite{T: t, Target: target, c: shared})
			})
		}
	})
	t.Run("storm", func(t *testing.T) {
		t.Parallel()
		for _, test := range []struct {
			name string
			run  func(*suite)
		}{
			{"TwoClusters", (*suite).twoClusters},
			{"Restart", (*suite).restart},
			{"Paused", (*suite).paused},
			{"Dead", (*suite).dead},
		} {
			t.Run(test.name, func(t *testing.T) { test.run(&suite{T: t, Target: target}) })
		}
	})
}

// suite is one test of the suite.
type suite struct {
	*testing.T
	Target
	c broker.Cluster // a connection to cluster 0 that all calm tests share
}
