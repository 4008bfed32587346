package cli_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const shortly = 20 * time.Millisecond // between two looks

// shadowTopicDoc is the JSON of "shadow topic".
type shadowTopicDoc struct {
	Topic, ShadowTopic, Cluster string
	Created, CreatedThere       bool
}

func TestShadowTopic(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		require.Contains(t, w.refused(t, 4, "shadow", "topic", "order_topic"), "order_topic")
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "3", "--order", "key", "--app", "order_service")
		require.Contains(t, w.turnout(t, "topic", "get", "order_topic").stdout, "create it with: turnout shadow topic order_topic\n")

		d := decode[shadowTopicDoc](t, w.turnout(t, "shadow", "topic", "order_topic", "-o", "json").stdout)
		require.Equal(t, shadowTopicDoc{"order_topic", "shadow_order_topic", "kafka-a", true, true}, d)
		info, err := w.open(t, "kafka-a").DescribeTopic(t.Context(), "shadow_order_topic")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 3, "as many as the topic has")
		require.Equal(t, "key", w.topic(t, "shadow_order_topic").InForce.Order)
		require.Regexp(t, `(?m)^shadow topic: +shadow_order_topic on kafka-a$`, w.turnout(t, "topic", "get", "order_topic").stdout)
		require.Regexp(t, `(?m)^shadow of: +order_topic$`, w.turnout(t, "topic", "get", "shadow_order_topic").stdout)

		// Again: nothing changes. What the cluster has lost is created anew.
		require.Equal(t, "shadow topic shadow_order_topic of order_topic is there already: on kafka-a\n", w.turnout(t, "shadow", "topic", "order_topic").stdout)
		require.Contains(t, w.refused(t, 5, "shadow", "topic", "order_topic", "--cluster", "kafka-b"), "turnout topic put shadow_order_topic --cluster kafka-b")
		require.Contains(t, w.refused(t, 3, "shadow", "topic", "shadow_order_topic"), "is a shadow topic itself")
		require.Contains(t, w.refused(t, 2, "shadow", "topic", "order_topic", "--partitions", "-1"), "--partitions -1")
		require.NoError(t, w.open(t, "kafka-a").DeleteTopic(t.Context(), "shadow_order_topic"))
		d = decode[shadowTopicDoc](t, w.turnout(t, "shadow", "topic", "order_topic", "--partitions", "2", "-o", "json").stdout)
		require.False(t, d.Created)
		require.True(t, d.CreatedThere)
		info, err = w.open(t, "kafka-a").DescribeTopic(t.Context(), "shadow_order_topic")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 2)
	})
}

func TestShadowTopicOfAnotherNameOnAnotherCluster(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "refund_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		require.Contains(t, w.refused(t, 2, "topic", "put", "refund_topic", "--shadow", ""), "default or off")
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "stress_refund")
		w.turnout(t, "shadow", "topic", "refund_topic", "--cluster", "kafka-b")
		require.Equal(t, "kafka-b", w.topic(t, "stress_refund").InForce.Write)
		require.Regexp(t, `(?m)^shadow of: +refund_topic$`, w.turnout(t, "topic", "get", "stress_refund").stdout)
		require.Regexp(t, `(?m)^shadow topic: +stress_refund on kafka-b$`, w.turnout(t, "topic", "get", "refund_topic").stdout)

		// Where the topic is can not be asked: how many partitions is to be said.
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		require.NoError(t, w.Stop(t.Context(), "kafka-a"))
		require.Contains(t, w.refused(t, 1, "shadow", "topic", "order_topic", "--cluster", "kafka-b", "--timeout", "4s"), "--partitions")
		w.turnout(t, "shadow", "topic", "order_topic", "--cluster", "kafka-b", "--partitions", "5")
		require.NoError(t, w.Restart(t.Context(), "kafka-a"))

		// One that production uses.
		require.Contains(t, w.refused(t, 5, "topic", "put", "refund_topic", "--shadow", "order_topic"), "is no shadow topic")
		w.turnout(t, "topic", "put", "order_topic", "--shadow-of", "old_topic")
		require.Contains(t, w.refused(t, 3, "stress", "run", "--topic", "order_topic", "--rate", "1", "--count", "1"), "is a shadow topic")
		w.turnout(t, "topic", "put", "order_topic", "--shadow-of", "")

		// Switched off, and on again under either name.
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "off")
		require.Contains(t, w.refused(t, 3, "shadow", "topic", "refund_topic"), "shadow.enabled is false; set it to true, with: turnout topic put refund_topic --shadow stress_refund\n")
		require.Contains(t, w.refused(t, 3, "stress", "run", "--topic", "refund_topic", "--rate", "1", "--count", "1"), "turnout topic put refund_topic --shadow stress_refund\n")
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "default")
		require.Contains(t, w.turnout(t, "topic", "get", "refund_topic").stdout, "shadow_refund_topic does not exist")
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "off")
		require.Contains(t, w.refused(t, 3, "shadow", "topic", "refund_topic"), "turnout topic put refund_topic --shadow default\n")

		// Its name alone does not make it the shadow topic of a topic that has another one.
		w.turnout(t, "topic", "put", "shadow_refund_topic", "--cluster", "kafka-b", "--create", "--partitions", "1")
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "stress_refund")
		require.NotContains(t, w.turnout(t, "topic", "get", "shadow_refund_topic").stdout, "shadow of")
	})
}

func TestGroupShadowSettings(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		w.turnout(t, "topic", "put", "refund_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		w.turnout(t, "group", "put", "g", "--topic", "order_topic,refund_topic", "--concurrency", "16")
		type shadow struct {
			Names       map[string]string
			Concurrency int
			Rate        float64
			Error       string
		}
		of := func() shadow {
			return decode[struct{ Shadow shadow }](t, w.turnout(t, "group", "get", "g", "-o", "json").stdout).Shadow
		}
		require.Equal(t, shadow{Names: map[string]string{"shadow_order_topic": "shadow_g", "shadow_refund_topic": "shadow_g-refund_topic"}, Concurrency: 16}, of())
		w.turnout(t, "group", "put", "g", "--shadow-group", "stress_g", "--shadow-concurrency", "4", "--shadow-rate", "100")
		require.Equal(t, shadow{Names: map[string]string{"shadow_order_topic": "stress_g", "shadow_refund_topic": "stress_g-refund_topic"}, Concurrency: 4, Rate: 100}, of())
		require.Regexp(t, `(?m)^shadow group: +4 at once an instance, 100 a second an instance; `, w.turnout(t, "group", "get", "g").stdout)
		require.Contains(t, w.refused(t, 3, "group", "put", "g", "--shadow-concurrency", "-1", "--shadow-rate", "-1"), "shadow.rate -1")
		w.turnout(t, "topic", "put", "order_topic", "--shadow", "off")
		w.turnout(t, "topic", "put", "refund_topic", "--shadow", "off")
		require.Contains(t, of().Error, "shadow.enabled")
	})
}

// flagDoc is a line of the JSON of "shadow list".
type flagDoc struct {
	App, Task, Group, Problem, Path string
	Enabled                         bool
	Fields                          map[string]any
	Instances                       map[string]int
}

func TestShadowFlags(t *testing.T) {
	z := startZooKeeper(t)
	require.Equal(t, "[]\n", z.turnout(t, "shadow", "list", "-o", "json").stdout)
	require.Contains(t, z.turnout(t, "shadow", "status", "app").stdout, "turnout shadow enable app TASK GROUP")
	require.Contains(t, z.refused(t, 2, "shadow", "enable", "app", "task"), "at least 3")
	require.Contains(t, z.refused(t, 2, "shadow", "enable", "app", "task", "g", "--wait", "-1s"), "--wait -1s")
	require.Contains(t, z.refused(t, 3, "shadow", "enable", "app", "ta/sk", "g"), `task name "ta/sk"`)
	require.Contains(t, z.refused(t, 4, "shadow", "disable", "app", "task", "g"), "turnout shadow list --app app")

	// Doubtful, and written all the same. Nobody is there to wait for.
	r := run(t, "shadow", "enable", "app", "task", "g", "h", "--wait", "1h", "--zookeeper", z.connect)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "there is no group g in the metadata")
	require.Contains(t, r.stderr, "turnout: no instance of app runs")
	require.Contains(t, r.stdout, "g is on for task task (/zpt/app/task/g); instances of app: none runs\n")
	data, _, err := z.conn.Get("/zpt/app/task/g")
	require.NoError(t, err)
	require.JSONEq(t, `{"enable":"1"}`, string(data))
	require.Contains(t, run(t, "shadow", "enable", "app", "task", "g", "--zookeeper", z.connect).stdout, "g is on already for task task")

	// What other platforms and people write.
	z.create(t, "/zpt/app/task/broken", "on")
	z.create(t, "/zpt/other", "")
	z.create(t, "/zpt/other/task", "")
	z.create(t, "/zpt/other/task/g", `{"enable":true,"owner":"me"}`)
	list := decode[[]flagDoc](t, z.turnout(t, "shadow", "list", "-o", "json").stdout)
	require.Len(t, list, 4)
	require.Equal(t, "broken", list[0].Group)
	require.Contains(t, list[0].Problem, "no JSON object")
	require.False(t, list[0].Enabled)
	require.Equal(t, flagDoc{App: "other", Task: "task", Group: "g", Path: "/zpt/other/task/g", Enabled: true, Fields: map[string]any{"owner": "me"}, Instances: map[string]int{}}, list[3])
	text := z.turnout(t, "shadow", "list", "--app", "app").stdout
	require.Regexp(t, `(?m)^APP +TASK +GROUP +ENABLED +INSTANCES$`, text)
	require.Regexp(t, `(?m)^app +task +broken +no: .*no JSON object.* +none runs$`, text)
	require.Regexp(t, `(?m)^app +task +h +yes +none runs$`, text)
	require.NotContains(t, text, "other")

	// Off; other fields stay. A second task keeps a group on.
	z.turnout(t, "shadow", "disable", "other", "task", "g")
	data, _, err = z.conn.Get("/zpt/other/task/g")
	require.NoError(t, err)
	require.JSONEq(t, `{"enable":"0","owner":"me"}`, string(data))
	run(t, "shadow", "enable", "app", "task2", "g", "--zookeeper", z.connect)
	r = run(t, "shadow", "disable", "app", "task", "g", "--wait", "1h", "--zookeeper", z.connect)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "g goes on: it is enabled by task2, too")
	text = z.turnout(t, "shadow", "status", "app", "g").stdout
	require.Contains(t, text, "group g of app: on by task2\n")
	require.Contains(t, text, "! no instance of app runs")
	require.Contains(t, text, "! there is no group g in the metadata")
	require.Contains(t, z.turnout(t, "shadow", "status", "app", "broken").stdout, "! the flag /zpt/app/task/broken does not count: ")
	require.Contains(t, z.turnout(t, "shadow", "status", "app", "never").stdout, "! it is off: no task enables it below /zpt/app; turnout shadow enable app TASK never\n")

	// Deleted.
	require.Contains(t, z.refused(t, 2, "shadow", "remove", "app", "task"), "at least 3")
	require.Contains(t, z.refused(t, 4, "shadow", "remove", "app", "task", "g", "never"), "no flag for group never")
	r = run(t, "shadow", "remove", "app", "task", "g", "h", "broken", "--zookeeper", z.connect)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, "turnout: g goes on: it is enabled by task2, too\n", r.stderr)
	require.Equal(t, "flag /zpt/app/task/g deleted\nflag /zpt/app/task/h deleted\nflag /zpt/app/task/broken deleted\n", r.stdout)
	gone, _, err := z.conn.Exists("/zpt/app/task")
	require.NoError(t, err)
	require.False(t, gone)
	require.JSONEq(t, `{"deleted":["/zpt/app/task2/g"]}`, z.turnout(t, "shadow", "remove", "app", "task2", "g", "-o", "json").stdout)

	// Another root.
	run(t, "shadow", "enable", "app", "task", "g", "--shadow-root", "/stress", "--zookeeper", z.connect)
	ok, _, err := z.conn.Exists("/stress/app/task/g")
	require.NoError(t, err)
	require.True(t, ok)
	require.Contains(t, z.refused(t, 2, "shadow", "list", "--shadow-root", "stress"), "must be like /a/b")
}

// statusDoc is the JSON of "shadow status" for one group.
type statusDoc struct {
	Group     string
	Enabled   bool
	Instances []struct {
		Instance, State, Reason string
		Tasks                   []string
	}
	Topics []struct {
		Topic, ShadowTopic, Cluster, Error string
		Clusters                           []groupOn
	}
	Notes []string
}

// reason is that of the first instance in a state.
func (s statusDoc) reason(state string) string {
	for _, i := range s.Instances {
		if i.State == state {
			return i.Reason
		}
	}
	return ""
}

func (w *world) shadowStatus(t *testing.T, app, group string) statusDoc {
	t.Helper()
	all := decode[[]statusDoc](t, w.turnout(t, "shadow", "status", app, group, "-o", "json").stdout)
	require.Len(t, all, 1)
	return all[0]
}

func TestShadowGroupIsStartedAndStopped(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		const app, task, group = "order_service_consumer", "zpt_task_1", "order_bil_group"
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		w.turnout(t, "group", "put", group, "--topic", "order_topic", "--app", app)
		w.subscribe(t, w.client(t, app), group)

		// Without a flag instances have nothing to report.
		st := w.shadowStatus(t, app, group)
		require.Contains(t, st.reason(""), "it reports nothing, because there is no flag for the group below /zpt/"+app)

		// On, and nothing can be consumed: the reason is in one place.
		r := run(t, "shadow", "enable", app, task, group, "--wait", "500ms", "--zookeeper", w.connect)
		require.Equal(t, 6, r.code, r.stdout)
		require.Contains(t, r.stderr, "turnout: topic order_topic: no shadow topic: shadow_order_topic does not exist; create it with: turnout shadow topic order_topic\n")
		require.Contains(t, r.stderr, "still waiting for ")
		require.NotContains(t, r.stderr, "unreported")
		require.Contains(t, r.stdout, group+" is on for task "+task, "the flag is written")
		st = w.shadowStatus(t, app, group)
		require.True(t, st.Enabled)
		require.Len(t, st.Instances, 1)
		require.Contains(t, st.Topics[0].Error, "turnout shadow topic order_topic")
		require.Contains(t, st.Notes[0], "turnout shadow topic order_topic")
		require.Contains(t, run(t, "shadow", "enable", "other", task, group, "--zookeeper", w.connect).stderr, "belongs to application "+app)

		// The topic is there: it starts by itself.
		w.turnout(t, "shadow", "topic", "order_topic", "--cluster", "kafka-b")
		r = run(t, "shadow", "status", app, "--wait", "1m", "-o", "json", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
		st = decode[[]statusDoc](t, r.stdout)[0]
		require.Empty(t, st.Notes)
		require.Equal(t, "started", st.Instances[0].State)
		require.Equal(t, []string{task}, st.Instances[0].Tasks)
		require.Equal(t, "kafka-b", st.Topics[0].Cluster)
		require.Equal(t, "shadow_"+group, st.Topics[0].Clusters[0].PhysicalGroup)
		require.Regexp(t, `(?m)^`+app+` +`+task+` +`+group+` +yes +1 started$`, w.turnout(t, "shadow", "list").stdout)
		text := w.turnout(t, "shadow", "status", app, group).stdout
		require.Regexp(t, `(?m)^\S+@-@\S+ +started +\S+ \S+ +`+task+` +-$`, text)
		require.Regexp(t, `(?m)^order_topic +shadow_order_topic +kafka-b +shadow_`+group+` +.* 0 +0 +0 +0$`, text)
		require.Equal(t, "shadow_"+group, w.topic(t, "shadow_order_topic").Groups[0].Group)

		// What somebody stored there without the mark.
		w.fill(t, "kafka-b", "shadow_order_topic", 1)
		eventually(t, func() bool {
			st = w.shadowStatus(t, app, group)
			return len(st.Notes) == 1 && st.Topics[0].Clusters[0].DeadLetters == 1
		}, patience, shortly)
		require.Contains(t, st.Notes[0], "says of shadow_order_topic: ")

		// An instance that does not subscribe the group is not waited for.
		w.client(t, app)
		eventually(t, func() bool { return w.shadowStatus(t, app, group).reason("ignored") != "" }, patience, shortly)
		require.Contains(t, w.shadowStatus(t, app, group).reason("ignored"), "does not subscribe")
		w.turnout(t, "shadow", "enable", app, task, group, "--wait", "1m")

		// A second task keeps it on.
		r = run(t, "shadow", "enable", app, "task2", group, "--wait", "1m", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
		r = run(t, "shadow", "disable", app, task, group, "--wait", "1m", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stderr, "goes on: it is enabled by task2, too")
		require.Contains(t, r.stdout, "1 started, 1 ignored")
		r = run(t, "shadow", "disable", app, "task2", group, "--wait", "1m", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stdout, "1 stopped, 1 ignored")
		require.Contains(t, w.shadowStatus(t, app, group).Notes[0], "it is off")
	})
}

func TestShadowGroupThatNobodySubscribes(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		w.turnout(t, "shadow", "topic", "order_topic")
		w.turnout(t, "group", "put", "g", "--topic", "order_topic")
		w.client(t, "app")
		eventually(t, func() bool {
			return len(decode[[]any](t, w.turnout(t, "instances", "-o", "json").stdout)) == 1
		}, patience, shortly)
		r := run(t, "shadow", "enable", "app", "task", "g", "--wait", "2s", "--zookeeper", w.connect)
		require.Equal(t, 6, r.code, r.stdout)
		require.Contains(t, r.stderr, "an instance that subscribes g: none of 1 does")
		require.Contains(t, w.shadowStatus(t, "app", "g").Notes, "no running instance of app subscribes g")
	})
}
