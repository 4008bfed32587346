package rocketmq

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// stored is the message that a broker keeps of properties and body: it drops properties without a value.
func stored(properties map[string]string, body []byte) *remoting.Message {
	m := &remoting.Message{Body: body, QueueOffset: 7, Stored: time.UnixMilli(1700000000000)}
	for name, value := range properties {
		if value != "" {
			m.Properties = remoting.AppendProperty(m.Properties, name, value)
		}
	}
	return m
}

func TestEveryAcceptedMessageSurvives(t *testing.T) {
	text := rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != '\x01' && r != '\x02' }))
	name := text.Filter(func(s string) bool { return s != "" && !broker.ReservedHeader(s) })
	rapid.Check(t, func(t *rapid.T) {
		e := broker.Envelope{}
		e.Body = rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "body")
		if rapid.Bool().Draw(t, "keyed") {
			e.Key = rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "key")
		}
		values := rapid.MapOfN(name, text, 0, 5).Draw(t, "headers")
		for name, value := range values {
			e.Headers = append(e.Headers, broker.Header{Name: name, Value: value})
		}
		e.Tag = rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "tag")
		e.ID = rapid.StringMatching(`([0-9a-f]{32})?`).Draw(t, "id")
		e.Shadow, e.Attempt = rapid.Bool().Draw(t, "shadow"), rapid.IntRange(0, 3).Draw(t, "attempt")
		e.Origin = rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "origin")
		require.NoError(t, check(&e))
		m := stored(encode(&e, 0), e.Body)
		d, err := decode(m, remoting.Queue{Topic: "t", Broker: "b", ID: 3}, false, "c")
		require.NoError(t, err)
		require.ElementsMatch(t, e.Headers, d.Headers)
		d.Headers, e.Headers = nil, nil
		require.Equal(t, e, d.Envelope)
		require.Equal(t, "b:3", d.Partition)
		require.EqualValues(t, 7, d.Offset)
	})
}

func TestBrokersOwnPropertiesAreNoHeaders(t *testing.T) {
	p := map[string]string{"MSG_REGION": "r", "UNIQ_KEY": "u", "CLUSTER": "c", "TRACE_ON": "false", "REAL_TOPIC": "x",
		"REAL_QID": "0", "RETRY_TOPIC": "orders", "DELAY": "3", "ORIGIN_MESSAGE_ID": "o", "WAIT": "false", "mine": "1"}
	m := stored(p, []byte("b"))
	m.ReconsumeTimes = 2
	d, err := decode(m, remoting.Queue{Topic: "%RETRY%g"}, true, "here")
	require.NoError(t, err)
	require.Equal(t, []broker.Header{{Name: "mine", Value: "1"}}, d.Headers)
	require.Equal(t, 2, d.Attempt)
	require.Equal(t, "here", d.Origin)
	require.Equal(t, "orders", firstTopic(d))
}

func TestUnacceptableMessages(t *testing.T) {
	header := func(name, value string) broker.Message {
		return broker.Message{Body: []byte("b"), Headers: []broker.Header{{Name: name, Value: value}}}
	}
	large := make([]byte, maxMessage)
	for name, test := range map[string]struct {
		m    broker.Message
		want error
		says string
	}{
		"no body":                 {broker.Message{}, errs.ErrInvalid, "body"},
		"too large":               {broker.Message{Key: []byte("k"), Body: large}, errs.ErrTooLarge, "4194305"},
		"empty header name":       {header("", "v"), errs.ErrInvalid, `""`},
		"separator in a name":     {header("a\x01", "v"), errs.ErrInvalid, `"a\x01"`},
		"separator in a value":    {header("a", "\x02"), errs.ErrInvalid, `"a"`},
		"binary value":            {header("a", "\xff"), errs.ErrUnsupported, `"a"`},
		"RocketMQ's name":         {header("TAGS", "v"), errs.ErrInvalid, "TAGS"},
		"RocketMQ's timer":        {header("TIMER_DELAY_MS", "v"), errs.ErrInvalid, "TIMER_DELAY_MS"},
		"Turnout's name":          {header("turnout-x", "v"), errs.ErrInvalid, "turnout-x"},
		"a name twice":            {broker.Message{Body: []byte("b"), Headers: []broker.Header{{Name: "a"}, {Name: "a"}}}, errs.ErrInvalid, "twice"},
		"two words as tag":        {broker.Message{Body: []byte("b"), Tag: "a b"}, errs.ErrInvalid, "a b"},
		"an expression as tag":    {broker.Message{Body: []byte("b"), Tag: "a||b"}, errs.ErrInvalid, "a||b"},
		"more headers than bytes": {header("a", strings.Repeat("v", maxProperties)), errs.ErrTooLarge, "headers"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(&broker.Envelope{Message: test.m})
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestDelaysAreRoundedUpToLevels(t *testing.T) {
	levels, _, err := parse(broker.Config{Kind: broker.RocketMQ, Addresses: []string{"h:1"}})
	require.NoError(t, err)
	c := &Cluster{levels: levels}
	for d, want := range map[time.Duration]int{0: 0, -1: 0, 1: 1, time.Second: 1, time.Second + 1: 2, 5 * time.Minute: 9, 2 * time.Hour: 18} {
		level, err := c.level(d)
		require.NoError(t, err)
		require.Equal(t, want, level, d)
	}
	_, err = c.level(2*time.Hour + 1)
	require.ErrorIs(t, err, errs.ErrUnsupported)
	require.Equal(t, 1, c.retryLevel(0))
	require.Equal(t, 3, c.retryLevel(6*time.Second))
	require.Equal(t, 18, c.retryLevel(math.MaxInt64))
}

func TestCausesAreOneLine(t *testing.T) {
	require.Equal(t, "a b", oneLine("a\nb"))
	require.Equal(t, "?", oneLine(""))
	require.Equal(t, "a b\ufffd", oneLine("a\x01b\xff"))
	long := oneLine(strings.Repeat("ü", 1000))
	require.LessOrEqual(t, len(long), 1000)
	require.Greater(t, len(long), 990)
}

func TestConfig(t *testing.T) {
	good := func() broker.Config {
		return broker.Config{Name: "ra", Kind: broker.RocketMQ, Addresses: []string{"h:9876"}}
	}
	levels, _, err := parse(good())
	require.NoError(t, err)
	require.Len(t, levels, 18)
	own := good()
	own.Properties = map[string]string{propertyDelayLevels: "1s 1m 1d"}
	levels, _, err = parse(own)
	require.NoError(t, err)
	require.Equal(t, []time.Duration{time.Second, time.Minute, 24 * time.Hour}, levels)

	for name, test := range map[string]struct {
		change func(*broker.Config)
		want   error
		says   string
	}{
		"kind":        {func(c *broker.Config) { c.Kind = broker.Kafka }, errs.ErrInvalid, "kafka"},
		"no address":  {func(c *broker.Config) { c.Addresses = nil }, errs.ErrInvalid, "addresses"},
		"bad address": {func(c *broker.Config) { c.Addresses = []string{"host"} }, errs.ErrInvalid, `"host"`},
		"mechanism":   {func(c *broker.Config) { c.Mechanism = "PLAIN" }, errs.ErrInvalid, "PLAIN"},
		"half an ACL": {func(c *broker.Config) {
			c.Mechanism, c.Login = "ACL", func() (string, string, error) { return "ak", "", nil }
		}, errs.ErrInvalid, "password"},
		"no login":        {func(c *broker.Config) { c.Mechanism = "ACL" }, errs.ErrInvalid, "Login"},
		"unknown setting": {func(c *broker.Config) { c.Properties = map[string]string{"x.y": "1"} }, errs.ErrInvalid, "x.y"},
		"retired":         {func(c *broker.Config) { c.Properties = map[string]string{propertyRetired: "a, b"} }, errs.ErrInvalid, "a,"},
		"levels":          {func(c *broker.Config) { c.Properties = map[string]string{propertyDelayLevels: "5s 1s"} }, errs.ErrInvalid, "5s 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			test.change(&cfg)
			_, _, err := parse(cfg)
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.says)
			require.ErrorContains(t, err, `"ra"`)
		})
	}
}

func TestClassify(t *testing.T) {
	c := &Cluster{cfg: broker.Config{Name: "ra"}}
	answer := func(code int) error { return &remoting.ResponseError{Code: code} }
	for _, test := range []struct {
		err  error
		want broker.Class
		is   error
	}{
		{answer(remoting.TopicNotExist), broker.Fatal, errs.ErrUnknownTopic},
		{answer(remoting.GroupNotExist), broker.Fatal, errs.ErrUnknownGroup},
		{answer(remoting.NoPermission), broker.Fatal, errs.ErrNotAllowed},
		{answer(remoting.SystemBusy), broker.Retry, nil},
		{remoting.ErrDisconnected, broker.Retry, nil},
		{remoting.ErrClientClosed, broker.Closed, errs.ErrClosed},
		{errs.ErrFenced, broker.Refused, errs.ErrFenced},
		{errs.ErrTooLarge, broker.Refused, errs.ErrTooLarge},
		{errors.New("anything"), broker.Retry, nil},
	} {
		err := c.wrap("test", test.err)
		require.Equal(t, test.want, c.Classify(err), test.err)
		require.ErrorIs(t, err, test.err)
		if test.is != nil {
			require.ErrorIs(t, err, test.is)
		}
	}
	require.NoError(t, c.wrap("test", nil))
}
