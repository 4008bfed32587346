package metadata_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// TestOnAnyZooKeeper is what must hold on every ZooKeeper, an ensemble of three servers here.
func TestOnAnyZooKeeper(t *testing.T) {
	t.Setenv("TURNOUT_TEST_SECRET", "alice:s3cr3t")
	testenv.Each(t, testenv.Spec{ZooKeeper: 3}, func(t *testing.T, e *testenv.Env) {
		connect := func(t *testing.T, chroot string) *metadata.Store {
			s, _ := open(t, e.ZooKeeper()+chroot, func(c *metadata.Config) {
				c.SessionTimeout, c.AuthScheme, c.AuthSecret = 30*time.Second, "digest", "env:TURNOUT_TEST_SECRET"
			})
			return s
		}
		t.Run("operations", func(t *testing.T) {
			s, ctx := connect(t, "/ops"), short(t)
			require.NoError(t, s.PutCluster(ctx, "a", kafka("a:1")))
			require.NoError(t, s.PutCluster(ctx, "b", kafka("b:1")))
			_, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "a"})
			require.NoError(t, err)
			topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "b"})
			require.NoError(t, err)
			require.Equal(t, topic.WishNode.Mzxid, topic.RouteNode.Mzxid, "one step")
			require.Equal(t, stays("a-", "b"), topic.Route.Stays)
			require.NoError(t, s.PutGroup(ctx, "g", group("orders")))
			require.ErrorIs(t, s.Multi(ctx, metadata.CheckOp(s.TopicPath("orders"), 9), metadata.CreateOp("/x", nil)), errs.ErrConflict)
			require.ErrorIs(t, s.DeleteTopic(ctx, "orders"), errs.ErrConflict)
			require.NoError(t, s.DeleteGroup(ctx, "g"))
			require.NoError(t, s.DeleteTopic(ctx, "orders"))
			require.NoError(t, s.DeleteCluster(ctx, "b"))
			stranger, _ := open(t, e.ZooKeeper()+"/ops")
			_, err = stranger.Read(ctx, s.ClusterPath("a"))
			require.ErrorIs(t, err, errs.ErrNotAllowed)
			require.ErrorIs(t, stranger.Create(ctx, "/turnout/x", nil), errs.ErrNotAllowed)
		})
		t.Run("a new session registers and reads again", func(t *testing.T) {
			s, ctx := connect(t, "/expire"), short(t)
			require.NoError(t, s.Create(ctx, "/t", wish("a")))
			got, f := follow(t, s, "/t")
			got.until(t, on("a"))
			r := s.Register(s.InstancePath("app", metadata.NewInstanceID()))
			before, err := r.Ensure(ctx, []byte("{}"))
			require.NoError(t, err)
			require.NoError(t, e.ExpireSession(ctx, before))
			require.Eventually(t, func() bool { x := s.Session(); return x.Connected && x.ID != before }, patience, moment)
			after, err := r.Ensure(ctx, []byte("{}"))
			require.NoError(t, err)
			require.NotEqual(t, before, after)
			session, err := f.Refresh(ctx)
			require.NoError(t, err)
			require.Equal(t, after, session)
			require.Equal(t, after, got.last().Node.Session)
			require.NoError(t, s.Set(ctx, "/t", wish("b"), 0))
			got.until(t, on("b"))
		})
		t.Run("the leader is killed during flips", func(t *testing.T) {
			s, writer, ctx := connect(t, "/flips"), connect(t, "/flips"), short(t)
			require.NoError(t, writer.Create(ctx, "/t", wish("c0")))
			got, _ := follow(t, s, "/t")
			got.until(t, on("c0"))
			stop, flips := make(chan struct{}), 0
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if writer.Set(ctx, "/t", wish(fmt.Sprintf("c%d", flips+1)), metadata.AnyVersion) == nil {
						flips++
					}
				}
			})
			leader, err := e.ZooKeeperLeader(ctx)
			require.NoError(t, err)
			seen := len(got.all())
			require.Eventually(t, func() bool { return len(got.all()) > seen+20 }, patience, moment)
			require.NoError(t, e.Kill(ctx, leader))
			seen = len(got.all())
			require.Eventually(t, func() bool { return len(got.all()) > seen+20 }, patience, moment)
			require.NoError(t, e.Restart(ctx, leader))
			close(stop)
			wg.Wait()
			last, err := writer.Read(ctx, "/t")
			require.NoError(t, err)
			got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Node.Mzxid == last.Mzxid && !u.Stale })
			order(t, got.all())
		})
		t.Run("all servers away and back", func(t *testing.T) {
			s, ctx := connect(t, "/away"), short(t)
			require.NoError(t, s.Create(ctx, "/t", wish("a")))
			got, f := follow(t, s, "/t")
			got.until(t, on("a"))
			require.NoError(t, e.Kill(ctx, "zookeeper"))
			u := got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Stale })
			require.Equal(t, "a", u.Value.Cluster)
			require.NoError(t, e.Restart(ctx, "zookeeper"))
			_, err := f.Refresh(ctx)
			require.NoError(t, err)
			require.NoError(t, s.Set(ctx, "/t", wish("b"), 0))
			got.until(t, on("b"))
		})
	})
}
