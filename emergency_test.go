package turnout_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// Forced moves (R31). On real servers internal/faulttest has them, with processes of their own.

// emergency is a topic with traffic of both kinds of sends on a cluster that dies.
type emergency struct {
	*operator
	from, to string
	client   *turnout.Client
	quiet    func()
}

// withEmergency runs f in an environment of its own.
func withEmergency(t *testing.T, from, to string, ordered bool, f func(t *testing.T, e *emergency)) {
	t.Parallel()
	spec := testenv.Spec{ZooKeeper: 1}
	for _, name := range []string{from, to} {
		if name[:5] == "kafka" {
			spec.Kafka = append(spec.Kafka, name)
		} else {
			spec.RocketMQ = append(spec.RocketMQ, name)
		}
	}
	testenv.EachOf(t, spec, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) {
		w := newWorld(t, env, from, to)
		if ordered {
			w.putOrdered(from, to)
		} else {
			w.putTopic(from, to)
			w.putGroup(nil)
		}
		e := &emergency{operator: w.operate(), from: from, to: to, client: w.open("order_service")}
		rec := w.recorder("one")
		w.listen(e.client, rec)
		waiting, async := w.traffic(e.client, rec, 4), w.asyncTraffic(e.client, rec, 4)
		e.quiet = sync.OnceFunc(func() { waiting(); async() })
		t.Cleanup(e.quiet)
		w.eventually(func() bool { return e.client.Stats().Sent > 100 }, nil, "sends go to %s", from)
		w.applied(from)
		f(t, e)
	})
}

// node is what of a cluster stores messages.
func (e *emergency) node(cluster string) string {
	if e.w.env.Kind(cluster) == string(broker.RocketMQ) {
		return cluster + "/broker"
	}
	return cluster
}

// firstOn waits until a send is answered by a cluster after t, and says when.
func (e *emergency) firstOn(cluster string, t time.Time) (at time.Time) {
	e.w.t.Helper()
	e.w.eventually(func() (ok bool) {
		at, ok = e.w.answers.after(cluster, t)
		return ok
	}, nil, "a send succeeds on %s", cluster)
	return at
}

// settled ends the traffic and sees that no send failed and nothing is lost.
func (e *emergency) settled() history.Verdict {
	e.w.t.Helper()
	e.quiet()
	v := e.w.verdict(e.from, e.to)
	require.NoError(e.w.t, v.Err())
	require.Zero(e.w.t, e.client.Stats().Failed)
	return v
}

type fault struct{ begin, end func(e *emergency) error }

var faults = map[string]fault{
	"dead":    {func(e *emergency) error { return e.w.env.Kill(e.w.ctx(), e.node(e.from)) }, func(e *emergency) error { return e.w.env.Restart(e.w.ctx(), e.node(e.from)) }},
	"hanging": {func(e *emergency) error { return e.w.env.Pause(e.node(e.from)) }, func(e *emergency) error { return e.w.env.Resume(e.node(e.from)) }},
}

// A topic leaves a cluster that is dead, or accepts connections and answers nothing; when that is back it is read, closed and free.
func TestATopicIsForcedAwayFromADeadCluster(t *testing.T) {
	for _, pair := range [][2]string{{"kafka-a", "kafka-b"}, {"kafka-a", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}, {"rocketmq-a", "rocketmq-b"}} {
		for name, fault := range faults {
			t.Run(pair[0]+" "+pair[1]+" "+name, func(t *testing.T) {
				withEmergency(t, pair[0], pair[1], false, func(t *testing.T, e *emergency) {
					require.NoError(t, fault.begin(e))
					begun := time.Now()
					m := e.start(migrate.Plan{To: e.to, Force: true, Accept: []string{migrate.NotPortable}})
					t.Logf("the first send succeeds on %s %v after the command", e.to, e.firstOn(e.to, begun).Sub(begun).Round(time.Millisecond))
					e.reaches(m.ID, migrate.Pending)
					route, _ := e.w.route()
					require.Equal(t, []string{e.from}, route.Dead)
					require.Equal(t, e.to, route.Write)
					_, err := e.Receipt(e.w.ctx(), m.ID)
					require.ErrorIs(t, err, turnout.ErrNotFound)

					late := e.w.open("order_service_late") // that begins while it is dead
					stop := e.w.traffic(late, e.w.recorder("late"), 1)
					e.w.eventually(func() bool { return late.Stats().Sent > 0 }, nil, "it sends")
					stop()
					require.Zero(t, late.Stats().Failed)

					require.NoError(t, fault.end(e))
					r := e.ended(m.ID)
					require.Equal(t, store.Done, r.Outcome, e.story(m.ID))
					require.True(t, r.Free, r.Verdict)
					require.NotNil(t, r.Left[0].Away)
					require.NotNil(t, r.Left[0].Back)
					require.True(t, e.w.fenced(e.from))
					route, _ = e.w.route()
					require.Empty(t, route.Dead)
					require.Len(t, route.Stays, 1)
					v := e.settled()
					t.Logf("%d sent, duplicates %v, stored late %d", v.Sent, v.Groups[0].Causes, e.client.Stats().LateSuccess)
				})
			})
		}
	}
}

func TestAForcedMoveOfAnOrderedTopicSaysThatItsOrderIsSuspended(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", true, func(t *testing.T, e *emergency) {
		require.NoError(t, e.w.env.Kill(e.w.ctx(), e.from))
		plan := migrate.Plan{Topic: e.w.topic, To: e.to, Ordered: true, Force: true}
		found, err := e.Preflight(e.w.ctx(), plan)
		require.NoError(t, err)
		require.Empty(t, found.Blocking())
		require.True(t, slices.ContainsFunc(found.Findings, func(f migrate.Finding) bool { return f.Code == migrate.OrderNotKept && f.Level == migrate.Info }))
		m := e.start(plan)
		e.reaches(m.ID, migrate.Pending)
		e.firstOn(e.to, time.Now())
		require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
		r := e.ended(m.ID)
		require.True(t, r.Free, r.Verdict)
		require.Contains(t, r.NoOrder, e.from)
		require.Contains(t, e.story(m.ID), "the order per key is suspended")
		e.settled()
	})
}

func TestForceIsRefusedOrAcceptedWhereTheClusterAnswers(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", false, func(t *testing.T, e *emergency) {
		plan := migrate.Plan{Topic: e.w.topic, To: e.to, Force: true}
		var found migrate.Plan
		e.w.eventually(func() bool { // it is asked for a moment only, and may be slow
			var err error
			found, err = e.Preflight(e.w.ctx(), plan)
			require.NoError(t, err)
			return len(found.Blocking()) > 0
		}, nil, "it is seen to answer")
		var err error = &migrate.NotReadyError{Plan: found}
		require.ErrorIs(t, err, turnout.ErrConflict)
		require.ErrorContains(t, err, "--accept "+migrate.SourceAnswers)
		require.ErrorContains(t, err, "without --force")
		plan.Accept = []string{migrate.SourceAnswers}
		r := e.ended(e.start(plan).ID)
		require.True(t, r.Free, r.Verdict)
		e.settled()
	})
}

func TestAPreflightThatDoesNotReachTheClusterNamesForce(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", false, func(t *testing.T, e *emergency) {
		require.NoError(t, e.w.env.Kill(e.w.ctx(), e.from))
		_, err := e.Start(e.w.ctx(), migrate.Plan{Topic: e.w.topic, To: e.to}, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "turnout migrate start "+e.w.topic+" --to kafka-b --force")
		require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
		e.settled()
	})
}

// A move waits in a state for a cluster that has died: force takes it over, to the same cluster.
func TestForceTakesOverAMigrationThatRuns(t *testing.T) {
	for _, state := range []migrate.State{migrate.Preparing, migrate.Holding} {
		t.Run(string(state), func(t *testing.T) {
			withEmergency(t, "kafka-a", "kafka-b", state == migrate.Holding, func(t *testing.T, e *emergency) {
				var died atomic.Bool
				e.stop()
				e.operator = e.w.operateOn(e.path, func(o *migrate.Options) {
					o.Entered = func(_ context.Context, row *store.Migration) {
						if row.State == string(state) && died.CompareAndSwap(false, true) {
							if err := e.w.env.Kill(context.Background(), e.from); err != nil {
								panic(err)
							}
						}
					}
				})
				first := e.start(migrate.Plan{To: e.to, Ordered: state == migrate.Holding, Hold: 60_000})
				e.w.eventually(died.Load, nil, "it has died")
				begun := time.Now()
				m := e.start(migrate.Plan{To: e.to, Ordered: state == migrate.Holding, Force: true})
				e.firstOn(e.to, begun)
				require.Contains(t, e.ended(first.ID).Verdict[0], "taken it over")
				require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
				r := e.ended(m.ID)
				require.True(t, r.Free, e.story(m.ID))
				e.settled()
			})
		})
	}
}

// The cluster that was left dies before a group has read it: by force to where the topic is the rest is read all the same, without
// the order.
func TestTheClusterThatWasLeftDiesBeforeItWasRead(t *testing.T) {
	for pair, name := range map[[2]string]string{{"kafka-a", "kafka-b"}: "dead", {"kafka-a", "rocketmq-a"}: "hanging"} {
		t.Run(pair[0]+" "+pair[1]+" "+name, func(t *testing.T) {
			withEmergency(t, pair[0], pair[1], true, func(t *testing.T, e *emergency) {
				gate, held := make(chan struct{}), make(chan struct{})
				open, hold := sync.OnceFunc(func() { close(gate) }), sync.OnceFunc(func() { close(held) })
				t.Cleanup(open)
				var shut, died atomic.Bool
				var handled atomic.Int64
				slow := e.w.group + "_slow"
				g := metadata.DefaultGroup()
				g.Topics, g.Order = []string{e.w.topic}, metadata.OrderKey
				require.NoError(t, e.w.store.PutGroup(e.w.ctx(), slow, g))
				sub, err := e.client.Subscribe(e.w.ctx(), slow, func(_ context.Context, d *turnout.Delivery) error {
					if shut.Load() {
						hold()
						<-gate
					}
					if d.Cluster == e.to {
						handled.Add(1)
					}
					return nil
				})
				require.NoError(t, err)
				require.NoError(t, sub.Ready(e.w.ctx()))
				e.w.participant(func(p metadata.Participant) bool { return p.Groups[slow] != nil }, "the group is seen")
				e.stop()
				e.operator = e.w.operateOn(e.path, func(o *migrate.Options) {
					o.Entered = func(ctx context.Context, row *store.Migration) {
						switch migrate.State(row.State) {
						case migrate.Holding:
							shut.Store(true)
							select {
							case <-held:
							case <-ctx.Done():
							}
						case migrate.Switching:
							if died.CompareAndSwap(false, true) {
								if err := faults[name].begin(e); err != nil {
									panic(err)
								}
							}
						default:
						}
					}
				})
				first := e.start(migrate.Plan{To: e.to, Ordered: true, Hold: 60_000})
				e.w.eventually(died.Load, func() any { return e.story(first.ID) }, "it has died")
				open()
				again := "turnout migrate start " + e.w.topic + " --to " + e.to + " --force"
				e.waitsFor(first.ID, again)
				require.Zero(t, handled.Load(), "what comes later waits")

				plan := migrate.Plan{Topic: e.w.topic, To: e.to, Ordered: true, Force: true}
				m := e.start(plan)
				e.w.eventually(func() bool { return handled.Load() > 20 }, func() any { return e.story(m.ID) }, "%s is read", e.to)
				require.Contains(t, e.ended(first.ID).Verdict[0], "taken it over")
				e.reaches(m.ID, migrate.Pending)
				_, err = e.Start(e.w.ctx(), plan, "tester", migrate.StarterApproves)
				require.ErrorContains(t, err, "on "+e.to+" already; its migration "+m.ID)
				route, _ := e.w.route()
				require.Equal(t, []string{e.from}, route.Dead)
				require.NoError(t, faults[name].end(e))
				r := e.ended(m.ID)
				require.Equal(t, store.Done, r.Outcome, e.story(m.ID))
				require.True(t, r.Free, r.Verdict)
				require.Contains(t, r.NoOrder, e.from)
				require.True(t, e.w.fenced(e.from))
				e.settled()
				require.Zero(t, e.w.left(e.from))
			})
		})
	}
}

func TestAForcedMoveIsRolledBackWhenTheClusterIsBack(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", false, func(t *testing.T, e *emergency) {
		require.NoError(t, e.w.env.Kill(e.w.ctx(), e.from))
		m := e.start(migrate.Plan{To: e.to, Force: true})
		e.reaches(m.ID, migrate.Pending)
		require.NoError(t, e.Abort(e.w.ctx(), m.ID, "tester"))
		e.w.eventually(func() bool { row, err := e.Get(e.w.ctx(), m.ID); return err == nil && row.Request == store.None }, nil, "it is answered")
		require.Contains(t, e.story(m.ID), "ask for a rollback")
		require.NoError(t, e.Rollback(e.w.ctx(), m.ID, "tester"))
		e.w.eventually(func() bool { row, err := e.Get(e.w.ctx(), m.ID); return err == nil && row.Request == store.None }, nil, "it is answered")
		require.Contains(t, e.story(m.ID), "goes back to kafka-a when that answers again")
		require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
		r := e.ended(m.ID)
		require.Equal(t, store.RolledBack, r.Outcome, e.story(m.ID))
		require.True(t, r.Free, r.Verdict)
		e.w.applied(e.from)
		e.settled()
	})
}

// Nobody can be asked how many partitions the topic has.
func TestAForcedMoveCreatesTheTopicWithTheNumberThatIsGiven(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", false, func(t *testing.T, e *emergency) {
		e.w.with(e.to, func(c broker.Cluster) { require.NoError(t, c.DeleteTopic(e.w.ctx(), e.w.topic)) })
		require.NoError(t, e.w.env.Kill(e.w.ctx(), e.from))
		plan := migrate.Plan{Topic: e.w.topic, To: e.to, Force: true, Create: true}
		_, err := e.Start(e.w.ctx(), plan, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "--partitions")
		plan.Partitions = 3
		m := e.start(plan)
		e.reaches(m.ID, migrate.Pending)
		e.w.with(e.to, func(c broker.Cluster) {
			info, err := c.DescribeTopic(e.w.ctx(), e.w.topic)
			require.NoError(t, err)
			require.Len(t, info.Partitions, 3)
		})
		require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
		require.True(t, e.ended(m.ID).Free)
		e.settled()
	})
}

// The wish goes elsewhere by hand while a cluster is waited for: it stays given up, and is read when it is back.
func TestAnEditByHandWhileADeadClusterIsWaitedFor(t *testing.T) {
	withEmergency(t, "kafka-a", "rocketmq-a", false, func(t *testing.T, e *emergency) {
		require.NoError(t, e.w.env.Pause(e.from))
		m := e.start(migrate.Plan{To: e.to, Force: true, Accept: []string{migrate.NotPortable}})
		e.reaches(m.ID, migrate.Pending)
		e.w.edit(e.to) // what is so already
		e.w.eventually(func() bool {
			topic, err := e.w.store.GetTopic(e.w.ctx(), e.w.topic)
			require.NoError(t, err)
			return metadata.Answered(topic.Route, topic.WishNode)
		}, nil, "the wish is answered")
		route, _ := e.w.route()
		require.Equal(t, []string{e.from}, route.Dead)
		require.NoError(t, e.w.env.Resume(e.from))
		require.True(t, e.ended(m.ID).Free, e.story(m.ID))
		e.settled()
	})
}

// The wish was edited to a cluster that nobody can use, and then the cluster that is written dies: the plan says how to get away.
func TestForceAfterAnEditThatNobodyCanFollow(t *testing.T) {
	withEmergency(t, "kafka-a", "kafka-b", false, func(t *testing.T, e *emergency) {
		e.w.put(e.w.store.ClusterPath("kafka-x"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{deadAddress(t)}})
		e.w.edit("kafka-x")
		require.NoError(t, e.w.env.Kill(e.w.ctx(), e.from))
		_, err := e.Start(e.w.ctx(), migrate.Plan{Topic: e.w.topic, To: e.to, Force: true}, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "turnout topic put "+e.w.topic+" --cluster kafka-b --force")
		begun := time.Now()
		_, err = e.w.store.PutTopic(e.w.ctx(), e.w.topic, metadata.PutTopic{Cluster: e.to, Start: e.w.ends(e.to)}) // what that does
		require.NoError(t, err)
		e.firstOn(e.to, begun)
		require.NoError(t, e.w.env.Restart(e.w.ctx(), e.from))
		e.settled()
	})
}

// The cluster that a topic goes to dies on the way: the way back does not wait for it.
func TestTheWayBackFromADeadClusterWaitsForNobody(t *testing.T) {
	for _, pair := range [][2]string{{"kafka-a", "kafka-b"}, {"rocketmq-a", "rocketmq-b"}} {
		t.Run(pair[0]+" "+pair[1], func(t *testing.T) {
			withEmergency(t, pair[0], pair[1], false, func(t *testing.T, e *emergency) {
				m := e.start(migrate.Plan{To: e.to, Canary: &migrate.Canary{Percent: 100}, Accept: []string{migrate.NotPortable}})
				e.reaches(m.ID, migrate.Canarying)
				e.firstOn(e.to, time.Now())
				require.NoError(t, e.w.env.Kill(e.w.ctx(), e.node(e.to)))
				begun := time.Now()
				require.NoError(t, e.Rollback(e.w.ctx(), m.ID, "tester"))
				e.firstOn(e.from, begun)
				e.reaches(m.ID, migrate.Pending)
				require.NoError(t, e.w.env.Restart(e.w.ctx(), e.node(e.to)))
				r := e.ended(m.ID)
				require.Equal(t, store.RolledBack, r.Outcome, e.story(m.ID))
				require.True(t, e.w.fenced(e.to))
				require.False(t, e.w.fenced(e.from))
				e.settled()
			})
		})
	}
}

// The keys of an ordered canary can not leave a cluster that has died, but for who gives up their order.
func TestTheClusterOfAnOrderedCanaryDies(t *testing.T) {
	for pair, hangs := range map[[2]string]bool{{"kafka-a", "kafka-b"}: true, {"kafka-a", "rocketmq-a"}: false} {
		t.Run(pair[0]+" "+pair[1], func(t *testing.T) {
			withEmergency(t, pair[0], pair[1], true, func(t *testing.T, e *emergency) {
				begin, end := e.w.env.Kill, e.w.env.Restart
				if hangs {
					begin, end = func(_ context.Context, node string) error { return e.w.env.Pause(node) }, func(_ context.Context, node string) error { return e.w.env.Resume(node) }
				}
				if hangs { // it was used before
					require.Equal(t, store.Done, e.ended(e.start(migrate.Plan{To: e.to, Ordered: true, Hold: 60_000}).ID).Outcome)
					require.Equal(t, store.Done, e.ended(e.start(migrate.Plan{To: e.from, Ordered: true, Hold: 60_000}).ID).Outcome)
				}
				// The keys of the sends that nobody waits for are in the range, the others are not.
				first := e.start(migrate.Plan{To: e.to, Ordered: true, Hold: 60_000, Canary: &migrate.Canary{Keys: []int{0, 20_000}}, Accept: []string{"all"}})
				e.reaches(first.ID, migrate.Canarying)
				e.firstOn(e.to, time.Now())
				require.NoError(t, begin(e.w.ctx(), e.node(e.to)))
				e.waitsFor(first.ID, "turnout migrate start "+e.w.topic+" --to "+e.from+" --force")
				e.firstOn(e.from, time.Now()) // the rest goes on
				require.NoError(t, e.Abort(e.w.ctx(), first.ID, "tester"))
				e.w.eventually(func() bool {
					return strings.Contains(e.story(first.ID), "goes back to "+e.from+" when every group is near")
				}, nil, "it is answered")

				begun := time.Now()
				m := e.start(migrate.Plan{To: e.from, Ordered: true, Force: true, Accept: []string{"all"}})
				e.firstOn(e.from, begun)
				over := e.ended(first.ID)
				require.Contains(t, over.Verdict[0], "taken it over")
				require.NotNil(t, over.Canary[0].Until)
				e.reaches(m.ID, migrate.Pending)
				require.NoError(t, e.Rollback(e.w.ctx(), m.ID, "tester"))
				e.w.eventually(func() bool { return strings.Contains(e.story(m.ID), "there is nothing to go back to") }, nil, "it is refused")
				route, _ := e.w.route()
				require.Equal(t, e.from, route.Write)
				require.Equal(t, []string{e.to}, route.Dead)
				require.Nil(t, route.Canary)
				require.NoError(t, end(e.w.ctx(), e.node(e.to)))
				r := e.ended(m.ID)
				require.True(t, r.Free, e.story(m.ID))
				require.Contains(t, r.NoOrder, e.to)
				require.True(t, e.w.fenced(e.to))
				require.False(t, e.w.fenced(e.from))
				e.settled()
			})
		})
	}
}
