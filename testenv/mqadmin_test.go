package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// mqadmin runs RocketMQ's own administration tool against a cluster.
type mqadmin struct {
	*testing.T
	java          *java
	dir           string
	names, broker string // addresses
}

// mqadminRun is what one run must print, in words with one space between them; BROKER stands for the address of the
// broker.
type mqadminRun struct {
	args string
	want []string
}

// run runs commands, some at once, for a run takes seconds of which it works for half a one. The tool gives up after seconds
// of its own, so what fails is tried again.
func (m *mqadmin) run(runs ...mqadminRun) {
	m.Helper()
	const tries = 4
	var g errgroup.Group
	g.SetLimit(5)
	for _, r := range runs {
		g.Go(func() error {
			for try := 1; ; try++ {
				out, err := m.try(r)
				if err == nil {
					return nil
				}
				if try == tries {
					return fmt.Errorf("mqadmin %s: %w\n%s", r.args, err, out)
				}
			}
		})
	}
	require.NoError(m, g.Wait())
}

var mqadminFailed = regexp.MustCompile(`(?m)^.*(Exception|ERROR|usage:|not exist).*$`)

func (m *mqadmin) try(r mqadminRun) (out string, err error) {
	if out, err = m.output(r.args); err != nil {
		return out, err
	}
	if bad := mqadminFailed.FindString(out); bad != "" {
		return out, errors.New(bad)
	}
	for _, want := range r.want {
		if want = strings.ReplaceAll(want, "BROKER", m.broker); !strings.Contains(out, want) {
			return out, fmt.Errorf("it has not printed %q", want)
		}
	}
	return out, nil
}

func (m *mqadmin) output(args string) (string, error) {
	line, err := m.java.commandLine(command{
		module: "rocketmq", kind: "broker",
		flags: []string{"-Xmx128m", "-Drmq.logback.configurationFile=" + filepath.Join(m.dir, "logback.xml"), "-Duser.home=" + m.dir,
			"-Drocketmq.client.logRoot=" + m.dir},
		class: "org.apache.rocketmq.tools.command.MQAdminStartup",
		args:  append(strings.Fields(strings.ReplaceAll(args, "BROKER", m.broker)), "-n", m.names),
	})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(m.Context(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.java.binary, line...)
	cmd.Dir, cmd.WaitDelay = m.dir, stopTimeout
	out, err := cmd.CombinedOutput()
	var lines []string
	for l := range strings.Lines(string(out)) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n"), err
}

// RocketMQ's own tools work against the embedded servers. The environment on real servers is there for their jars alone.
func TestMQAdmin(t *testing.T) {
	EachOf(t, Spec{}, []Backend{Servers}, func(t *testing.T, tools *Env) {
		e, c := startFor(t, Spec{RocketMQ: []string{"rocketmq-a"}}), remoting.NewClient(remoting.Options{})
		defer c.Close()
		m := &mqadmin{T: t, java: tools.java, dir: t.TempDir(), names: e.Addresses("rocketmq-a")[0], broker: e.EmbeddedRocketMQ("rocketmq-a").Addr()}
		require.NoError(t, os.WriteFile(filepath.Join(m.dir, "logback.xml"), []byte(strings.ReplaceAll(rocketMQLogging, "WARN", "ERROR")), 0o644))
		ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
		defer cancel()

		// Three messages, two of them read by a group whose member is online.
		q := remoting.Queue{Topic: "orders", Broker: "rocketmq-a", ID: 1}
		for _, topic := range []string{"orders", "sent", "again", "gone"} {
			require.NoError(t, c.UpdateTopic(ctx, m.broker, remoting.TopicConfig{Name: topic, ReadQueues: 2, WriteQueues: 2, Perm: 6}))
		}
		for i := range 3 {
			p := ""
			for _, kv := range [][2]string{{"UNIQ_KEY", fmt.Sprint("0123456789ABCDEF0123456789ABCDE", i)}, {"KEYS", fmt.Sprint("key", i)}, {"TAGS", "paid"}} {
				p = remoting.AppendProperty(p, kv[0], kv[1])
			}
			for _, topic := range []string{"orders", "again"} {
				_, err := c.Call(ctx, m.broker, remoting.NewRequest(remoting.ReqSendMessage, []byte("body"), "producerGroup", "makers", "topic", topic, "queueId", "1",
					"defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0", "bornTimestamp", "1700000000000", "flag", "0", "properties", p,
					"reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
				require.NoError(t, err)
			}
		}
		require.NoError(t, c.Heartbeat(ctx, m.broker, remoting.Heartbeat{ClientID: "me@here", Producers: []remoting.ProducerGroup{{Name: "makers"}},
			Consumers: []remoting.ConsumerGroup{{Name: "readers", ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
				Subscriptions: []remoting.Subscription{remoting.NewSubscription("orders", "paid", 1)}}}}))
		require.NoError(t, c.UpdateConsumerOffset(ctx, m.broker, "readers", q, 2))
		for _, group := range []string{"returners", "leavers"} {
			require.NoError(t, c.UpdateSubscriptionGroup(ctx, m.broker, remoting.NewSubscriptionGroup(group)))
			require.NoError(t, c.UpdateConsumerOffset(ctx, m.broker, group, remoting.Queue{Topic: "again", ID: 1}, 3))
		}
		pulled, err := c.PullMessages(ctx, m.broker, remoting.Pull{Group: "readers", Queue: q, Max: 3, Subscription: remoting.NewSubscription("orders", "", 0)})
		require.NoError(t, err)
		require.Len(t, pulled.Messages, 3)
		id, key := pulled.Messages[1].ID(), "0123456789ABCDEF0123456789ABCDE1"
		t.Cleanup(func() { _ = os.Remove(filepath.Join("/tmp/rocketmq/msgbodys", key)) }) // mqadmin leaves the body there
		message := []string{"Topic: orders", "Tags: [paid]", "Keys: [key1]", "Queue ID: 1", "Queue Offset: 1", "Store Host: BROKER", "CLUSTER=rocketmq-a", "UNIQ_KEY=" + key}

		m.run(
			mqadminRun{"topicRoute -t orders", []string{`"brokerName":"rocketmq-a"`, `0:"BROKER"`, `"perm":6`, `"readQueueNums":2`, `"writeQueueNums":2`}},
			mqadminRun{"clusterList", []string{"rocketmq-a rocketmq-a 0 BROKER V5_5_0 0.00(0,0ms) 0.00(0,0ms|0,0ms)"}},
			mqadminRun{"consumerProgress -g readers", []string{"orders rocketmq-a 0 0 0", "orders rocketmq-a 1 3 2", "Consume Diff Total: 1"}},
			mqadminRun{"consumerProgress", []string{"readers 1 ", "CLUSTERING"}},
			mqadminRun{"queryMsgById -t orders -i " + id, append(message, "readers")},
			mqadminRun{"queryMsgByUniqueKey -t orders -i " + key, message},
			mqadminRun{"queryMsgByKey -t orders -k key1", []string{key + " 1 1"}},
			mqadminRun{"topicList -c", []string{"rocketmq-a orders readers"}},
			mqadminRun{"topicStatus -t orders", []string{"rocketmq-a 0 0 0", "rocketmq-a 1 0 3"}},
			mqadminRun{"consumerConnection -g readers", []string{"me@here", "GO", "orders paid", "CONSUME_PASSIVELY", "CLUSTERING"}},
			mqadminRun{"producer -b BROKER", []string{"makers", "me@here"}},
			mqadminRun{"brokerStatus -b BROKER", []string{"brokerVersionDesc : V5_5_0", "commitLogMinOffset : 0", "scheduleMessageOffset_1 : 0,0"}},
			mqadminRun{"getBrokerConfig -b BROKER", []string{"brokerName = rocketmq-a", "brokerPermission = 6"}},
			mqadminRun{"brokerConsumeStats -b BROKER", []string{"orders readers rocketmq-a 1 3 2 1", "Diff Total: 1"}},
			mqadminRun{"statsAll -t orders", []string{"orders readers 1 0.00 0.00 0 0"}},
			mqadminRun{"updateTopic -c rocketmq-a -t made -r 3 -w 3", []string{"create topic to BROKER success"}},
			mqadminRun{"updateSubGroup -c rocketmq-a -g made -i 0", []string{"create subscription group to BROKER success"}},
			mqadminRun{"sendMessage -t sent -p hello -k keys -b rocketmq-a -i 1", []string{"rocketmq-a 1 SEND_OK"}},
			mqadminRun{"checkMsgSendRT -t gone -a 3 -s 10", []string{"rocketmq-a 0 true", "rocketmq-a 1 true", "Avg RT:"}},
			mqadminRun{"resetOffsetByTime -g returners -t again -s 0", []string{"rocketmq-a 1 0"}},
		)
		made, err := c.TopicConfig(ctx, m.broker, "made")
		require.NoError(t, err)
		require.Equal(t, 3, made.WriteQueues)
		_, err = c.Call(ctx, m.broker, remoting.NewRequest(remoting.ReqGetSubscriptionGroup, nil, "group", "made"))
		require.NoError(t, err)
		end, err := c.MaxOffset(ctx, m.broker, remoting.Queue{Topic: "sent", ID: 1})
		require.NoError(t, err)
		require.Positive(t, end)
		position := func(group string) (int64, bool) {
			at, found, _, err := c.ConsumerOffset(ctx, m.broker, group, remoting.Queue{Topic: "again", Broker: "rocketmq-a", ID: 1})
			require.NoError(t, err)
			return at, found
		}
		at, _ := position("returners")
		require.Zero(t, at, "the group reads again from the begin")

		m.run(
			mqadminRun{"wipeWritePerm -b rocketmq-a", []string{"wipe write perm of broker[rocketmq-a] in name server[" + m.names + "] OK"}},
			mqadminRun{"consumeMessage -t orders -g tools -b rocketmq-a -i 1 -c 3", []string{"BODY: body"}},
			mqadminRun{"deleteSubGroup -c rocketmq-a -g leavers -r true", []string{"delete subscription group [leavers] from broker [BROKER] in cluster [rocketmq-a] success"}},
			mqadminRun{"deleteTopic -c rocketmq-a -t gone", []string{"delete topic [gone] from cluster [rocketmq-a] success", "delete topic [gone] from NameServer success"}},
		)
		permission := func() int {
			route, err := c.Route(ctx, m.names, "orders")
			require.NoError(t, err)
			return route.Queues[0].Perm
		}
		require.Equal(t, remoting.PermRead, permission())
		_, err = c.Route(ctx, m.names, "gone")
		require.True(t, remoting.HasCode(err, remoting.TopicNotExist), err)
		if _, found := position("leavers"); found {
			at, _ := position("leavers")
			require.Zero(t, at, "its positions went with the group")
		}
		m.run(mqadminRun{"addWritePerm -b rocketmq-a", []string{"add write perm of broker[rocketmq-a] in name server[" + m.names + "] OK"}})
		require.Equal(t, remoting.PermRead|remoting.PermWrite, permission())
	})
}
