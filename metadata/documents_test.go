package metadata_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// roundTrip parses and writes again.
func roundTrip[T any](t *testing.T, parse func([]byte) (T, error), doc string) T {
	t.Helper()
	v, err := parse([]byte(doc))
	require.NoError(t, err)
	out, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, doc, string(out))
	return v
}

func TestDocumentsAreWrittenAsTheyWereRead(t *testing.T) {
	t.Run("wish", func(t *testing.T) {
		w := roundTrip(t, metadata.ParseWish, `{"cluster":"kafka-b","why":{"ticket":7}}`)
		require.Equal(t, "kafka-b", w.Cluster)
	})
	t.Run("route", func(t *testing.T) {
		r := roundTrip(t, metadata.ParseRoute, `{"v":1,"wish":{"czxid":"0x1f","version":3},"write":"kafka-b","order":"key","hold":{"ms":3000,"keys":[0,6553],"by":"m"},"lease":{"ms":4000},
			"warm":["kafka-c"],"migration":"m-17","canary":{"write":"rocketmq-a","percent":10,"instances":[],"keys":[0,6553],"y":[1]},"later":"x",
			"stays":[{"cluster":"kafka-a","start":[0,0],"end":[9120,8841],"note":"old"},{"cluster":"rocketmq-a","start":{"broker-a:0":14}},{"cluster":"kafka-b","start":[]}]}`)
		require.Equal(t, metadata.WishRef{Czxid: 0x1f, Version: 3}, r.Wish)
		require.Equal(t, broker.Offsets{"0": 9120, "1": 8841}, r.Stays[0].End)
		require.Equal(t, broker.Offsets{"broker-a:0": 14}, r.Stays[1].Start)
		require.NotNil(t, r.Stays[2].Start, "an empty start is not an absent one")
		require.True(t, r.Stays[2].Open())
	})
	t.Run("route as the design shows it", func(t *testing.T) {
		doc := `{"v":1,"wish":{"czxid":"0x1","version":3},"write":"kafka-b","order":"none","hold":null,"warm":[],"migration":"m-17","canary":null,` +
			`"stays":[{"cluster":"kafka-a","start":[0,0],"end":[9120,8841]},{"cluster":"kafka-b"}]}`
		r, err := metadata.ParseRoute([]byte(doc))
		require.NoError(t, err)
		require.Nil(t, r.Stays[1].Start)
		out, err := json.Marshal(r)
		require.NoError(t, err)
		require.Equal(t, doc, string(out))
	})
	t.Run("settings", func(t *testing.T) {
		s := roundTrip(t, metadata.ParseTopicSettings, `{"v":1,"app":"order_service","names":{"kafka-a":"orders.created"},"shadow":{"topic":"s","enabled":false,"x":1},"portable":false,"y":2}`)
		require.Equal(t, "orders.created", s.Physical("order_topic", "kafka-a"))
		require.Equal(t, "order_topic", s.Physical("order_topic", "kafka-b"))
	})
	t.Run("cluster", func(t *testing.T) {
		roundTrip(t, metadata.ParseCluster, `{"v":1,"kind":"kafka","addresses":["h:9092"],"clusterId":"c","auth":{"mechanism":"PLAIN","secret":"env:X","z":1},
			"tls":{"ca":"","cert":"","key":"","serverName":"n","insecure":false,"z":1},"properties":{"a":"b"},"z":1}`)
	})
	t.Run("group", func(t *testing.T) {
		roundTrip(t, metadata.ParseGroup, `{"v":1,"app":"a","topics":["order_topic"],"names":{"order_topic":"order_bil_group"},"start":"latest","from":{"order_topic":{"kafka-a":[4,5]}},
			"order":"key","concurrency":3,"rate":0.5,"paused":true,"tags":"x||y","retry":{"max":2,"z":1},"z":1}`)
	})
	t.Run("instance and participant", func(t *testing.T) {
		roundTrip(t, metadata.ParseInstance, `{"v":1,"host":"h","pid":1,"started":"2026-01-02T03:04:05Z","sdk":"0.1.0"}`)
		p := roundTrip(t, metadata.ParseParticipant, `{"v":1,"zxid":"0x2a","write":"kafka-a","warm":["kafka-b"],"held":false,"inflight":{"kafka-a":0},
			"groups":{"g":{"kafka-a":"finished","kafka-b":"attached"}},"error":"","at":"2026-01-02T03:04:05Z"}`)
		require.Equal(t, metadata.Zxid(42), p.Zxid)
		require.Equal(t, metadata.Finished, p.Groups["g"]["kafka-a"])
		require.Equal(t, time.UTC, p.At.Location())
	})
}

func TestDefaults(t *testing.T) {
	r, err := metadata.ParseRoute([]byte(`{"write":"a","stays":[{"cluster":"a"}]}`))
	require.NoError(t, err)
	require.Equal(t, metadata.OrderNone, r.Order)
	s, err := metadata.ParseTopicSettings([]byte(`{"v":1,"shadow":{"topic":"x"}}`))
	require.NoError(t, err)
	require.True(t, s.Portable)
	require.True(t, s.Shadow.Enabled)
	g, err := metadata.ParseGroup([]byte(`{"v":1,"topics":["t"],"retry":{}}`))
	require.NoError(t, err)
	require.Equal(t, metadata.StartEarliest, g.Start)
	require.Equal(t, metadata.OrderNone, g.Order)
	require.Equal(t, 8, g.Concurrency)
	require.Equal(t, 16, g.Retry.Max)
}

func TestPhysicalGroups(t *testing.T) {
	g := metadata.DefaultGroup()
	g.Name, g.Topics = "bill", []string{"orders", "refunds"}
	require.Equal(t, "bill", g.Physical("orders"))
	require.Equal(t, "bill-refunds", g.Physical("refunds"))
	require.Empty(t, g.Physical("other"))
	g.Names = map[string]string{"orders": "BILL"}
	require.Equal(t, "BILL", g.Physical("orders"))
	require.NoError(t, g.Validate())

	g.Name = strings.Repeat("g", 116)
	require.ErrorContains(t, g.Validate(), "longer than 120")
	g.Names["refunds"] = "short"
	require.NoError(t, g.Validate())
	g.Names["refunds"] = "BILL"
	require.ErrorContains(t, g.Validate(), "for topic orders already")
}

func TestRefusals(t *testing.T) {
	parse := map[string]func([]byte) error{
		"wish":        func(b []byte) error { _, err := metadata.ParseWish(b); return err },
		"route":       func(b []byte) error { _, err := metadata.ParseRoute(b); return err },
		"settings":    func(b []byte) error { _, err := metadata.ParseTopicSettings(b); return err },
		"cluster":     func(b []byte) error { _, err := metadata.ParseCluster(b); return err },
		"group":       func(b []byte) error { _, err := metadata.ParseGroup(b); return err },
		"instance":    func(b []byte) error { _, err := metadata.ParseInstance(b); return err },
		"participant": func(b []byte) error { _, err := metadata.ParseParticipant(b); return err },
	}
	for kind, p := range parse {
		for name, doc := range map[string]string{"blank": " \n", "brace": "{", "null": "null", "list": "[]", "string": `"x"`, "empty": ""} {
			err := p([]byte(doc))
			require.ErrorIs(t, err, errs.ErrInvalid, "%s: %s", kind, name)
			require.Contains(t, err.Error(), kind)
			require.Contains(t, err.Error(), "JSON object")
		}
		err := p([]byte(`{"cluster":"` + strings.Repeat("x", metadata.MaxDocument) + `"}`))
		require.ErrorIs(t, err, errs.ErrTooLarge, kind)
		if kind != "wish" {
			err = p([]byte(`{"v":2,"write":7}`))
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.Contains(t, err.Error(), "v 2")
			require.NotContains(t, err.Error(), "write 7", "of an unknown version nothing else can be judged")
		}
	}

	for _, c := range []struct {
		kind, doc string
		want      []string
	}{
		{"wish", `{"Cluster":"a"}`, []string{`cluster ""`}},
		{"wish", `{"cluster":7}`, []string{"cluster 7"}},
		{"wish", `{"cluster":"a b"}`, []string{`cluster "a b"`, "1 to 120"}},
		{"route", `{"write":1,"stays":2,"order":3}`, []string{"write 1", "stays 2", "order 3"}},
		{"route", `{"wish":{"czxid":"12","version":-1},"write":"","order":"x"}`, []string{"wish", "0x1f"}},
		{"route", `{"wish":{"version":-1},"write":"","order":"x","hold":{"ms":0,"keys":[2,1]},"warm":["/"],"canary":{"write":"","percent":101,"keys":[3]},
			"stays":[{"cluster":"?"},{"cluster":"a","start":[5],"end":[4]}]}`,
			[]string{"wish.version -1", `write ""`, `order "x"`, "hold.ms 0", "hold.keys", `warm[0] "/"`, `canary.write ""`, "canary.percent 101", "canary.keys", `stays[0].cluster "?"`, "stays[1].end 4"}},
		{"route", `{"write":"a","stays":[{"cluster":"a"},{"cluster":"b"},{"cluster":"a"}]}`, []string{"one stay without end"}},
		{"route", `{"write":"a","stays":[{"cluster":"a","end":[1]}]}`, []string{`write "a"`, "never read"}},
		{"route", `{"write":"a","stays":[{"cluster":"a","start":[-1]}]}`, []string{"stays", "offset -1"}},
		{"settings", `{"app":"?","names":{"/":"..","a":"b c"},"shadow":{"topic":"x y"}}`, []string{`app "?"`, `names "/"`, `names["/"] ".."`, `names["a"] "b c"`, `shadow.topic "x y"`}},
		{"cluster", `{"kind":"pulsar","addresses":["h","h:0","h:1","h:1"],"auth":{"mechanism":"NONE","secret":"x"},"tls":{"cert":"c"}}`,
			[]string{`kind "pulsar"`, `addresses[0] "h"`, `addresses[1] "h:0"`, "listed twice", "auth.secret", "tls.cert"}},
		{"cluster", `{"kind":"rocketmq","auth":{"mechanism":"PLAIN","secret":"env:A"}}`, []string{"addresses", `auth.mechanism "PLAIN"`, `"ACL"`}},
		{"group", `{"app":"?","topics":["t","t","/"],"names":{"t":" "},"start":"now","order":"x","concurrency":0,"rate":-1,"retry":{"max":17}}`,
			[]string{`app "?"`, "listed twice", `topics[2] "/"`, `names["t"] " "`, `start "now"`, `order "x"`, "concurrency 0", "rate -1", "retry.max 17"}},
		{"group", `{}`, []string{"topics"}},
		{"participant", `{"zxid":12}`, []string{"zxid 12", "0x1f"}},
	} {
		err := parse[c.kind]([]byte(c.doc))
		require.ErrorIs(t, err, errs.ErrInvalid, c.doc)
		for _, want := range c.want {
			require.Contains(t, err.Error(), want, c.doc)
		}
	}
}

func TestClusterConfig(t *testing.T) {
	const password = "s3cr3t:with colon"
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("alice:"+password+"\n"), 0o600))
	t.Setenv("TURNOUT_TEST_SECRET", "alice:"+password)
	cluster := func(secret string) metadata.Cluster {
		return metadata.Cluster{Name: "kafka-a", V: 1, Kind: broker.Kafka, Addresses: []string{"h:1"}, ClusterID: "c",
			Auth: &metadata.Auth{Mechanism: "PLAIN", Secret: secret}, Properties: map[string]string{"a": "b"}}
	}
	for _, ref := range []string{"env:TURNOUT_TEST_SECRET", "file:" + file} {
		conf, err := cluster(ref).Config("me", nil)
		require.NoError(t, err)
		user, got, err := conf.Login()
		require.NoError(t, err)
		require.Equal(t, "alice", user)
		require.Equal(t, password, got)
		conf.Login = nil
		require.Equal(t, broker.Config{Name: "kafka-a", Kind: broker.Kafka, Addresses: []string{"h:1"}, ClusterID: "c", Mechanism: "PLAIN",
			Properties: map[string]string{"a": "b"}, ClientID: "me"}, conf)
	}

	t.Setenv("TURNOUT_TEST_SECRET", "nocolon-"+"s3cr3t")
	for _, c := range []metadata.Cluster{cluster("env:TURNOUT_TEST_SECRET"), cluster("s3cr3t"), cluster("env:TURNOUT_TEST_ABSENT"), cluster("file:" + file + "x")} {
		_, err := c.Config("me", nil)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "kafka-a")
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	_, err := metadata.ParseCluster([]byte(`{"kind":"kafka","addresses":["h:1"],"auth":"alice:s3cr3t","properties":{"password":7}}`))
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.NotContains(t, err.Error(), "s3cr3t")
	_, err = metadata.ParseCluster([]byte(`{"kind":"kafka","addresses":["h:1"],"auth":{"mechanism":"PLAIN","secret":"alice:s3cr3t"}}`))
	require.ErrorContains(t, err, "auth.secret")
	require.NotContains(t, err.Error(), "s3cr3t")

	failed := errors.New("vault sealed")
	_, err = cluster("env:X").Config("me", func(string) (string, error) { return "", failed })
	require.ErrorIs(t, err, failed)

	c := cluster("env:TURNOUT_TEST_SECRET")
	c.Auth, c.TLS = nil, &metadata.TLS{CA: file, ServerName: "n"}
	_, err = c.Config("me", nil)
	require.ErrorContains(t, err, "no PEM certificate")
	c.TLS.CA = ""
	conf, err := c.Config("me", nil)
	require.NoError(t, err)
	secured, err := conf.TLS()
	require.NoError(t, err)
	require.Equal(t, "n", secured.ServerName)
	c.TLS.Cert, c.TLS.Key = file, file
	_, err = c.Config("me", nil)
	require.ErrorContains(t, err, "tls.cert")
}

func TestInstanceIDsCount(t *testing.T) {
	a, b := metadata.NewInstanceID(), metadata.NewInstanceID()
	require.NotEqual(t, a, b)
	require.Regexp(t, `^[0-9.]+@-@[0-9]+@-@[0-9]+$`, a)
}

func FuzzParseRoute(f *testing.F) {
	f.Add([]byte(`{"v":1,"wish":{"czxid":"0x1","version":3},"write":"a","stays":[{"cluster":"a","start":[1],"x":2}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := metadata.ParseRoute(data)
		if err != nil {
			require.True(t, errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrTooLarge))
			return
		}
		out, err := json.Marshal(r)
		require.NoError(t, err)
		again, err := metadata.ParseRoute(out)
		if errors.Is(err, errs.ErrTooLarge) {
			return
		}
		require.NoError(t, err)
		require.Equal(t, r.Stays, again.Stays)
		require.Equal(t, r.Write, again.Write)
	})
}
