package remoting

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCommandSurvivesBothCodecs(t *testing.T) {
	for name, codec := range map[string]Codec{"JSON": JSON, "ROCKETMQ": RocketMQ} {
		t.Run(name, func(t *testing.T) {
			in := NewRequest(ReqPullMessage, []byte("body"), "topic", "orders", "queueId", "3", "empty", "")
			in.Codec, in.Opaque, in.Remark = codec, 7, "why – not"
			frame, err := in.Append(nil)
			require.NoError(t, err)
			r := bytes.NewReader(frame)
			out, err := ReadCommand(r)
			require.NoError(t, err)
			require.Equal(t, in, out)
			require.False(t, out.IsResponse())
			_, err = ReadCommand(r)
			require.ErrorIs(t, err, io.EOF)

			answer := out.Answer(TopicNotExist, "no such topic", nil)
			require.True(t, answer.IsResponse())
			require.Equal(t, codec, answer.Codec)
			require.EqualValues(t, 7, answer.Opaque)
		})
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	frame, err := (&Command{Codec: RocketMQ, Remark: "r", Fields: map[string]string{"k": "v"}}).Append(nil)
	require.NoError(t, err)
	_, err = ReadCommand(bytes.NewReader(frame[:len(frame)-1]))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	for name, bad := range map[string][]byte{
		"huge length":             {0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"header beyond the frame": {0, 0, 0, 4, 0, 0, 0, 9},
		"unknown codec":           {0, 0, 0, 4, 9, 0, 0, 0},
		"JSON that is none":       append([]byte{0, 0, 0, 5, 0, 0, 0, 1}, 'x'),
		"binary header cut short": append([]byte{0, 0, 0, 7, 1, 0, 0, 3}, 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadCommand(bytes.NewReader(bad))
			require.ErrorIs(t, err, ErrFrame)
		})
	}
}

func message() *Message {
	return &Message{Topic: "orders", QueueID: 2, QueueOffset: 11, PhysicalOffset: 4711, Flag: 5,
		Born: time.UnixMilli(1700000000123), BornHost: netip.MustParseAddrPort("10.0.0.7:1234"),
		Stored: time.UnixMilli(1700000000456), StoreHost: netip.MustParseAddrPort("127.0.0.1:10911"),
		ReconsumeTimes: 3, PreparedOffset: 9, Body: []byte("hello"),
		Properties: AppendProperty(AppendProperty("", "TAGS", "a"), "k", "v=1")}
}

func TestMessagesAreReadAsTheyWereStored(t *testing.T) {
	v6 := message()
	v6.BornHost, v6.StoreHost = netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[::1]:10911")
	v6.SysFlag = sysBornHostV6 | sysStoreHostV6
	long := message()
	long.Topic = strings.Repeat("t", 200)
	var b []byte
	var err error
	for _, m := range []*Message{message(), v6, long} {
		b, err = m.Append(b)
		require.NoError(t, err)
	}
	got, err := ParseMessages(b)
	require.NoError(t, err)
	require.Equal(t, []*Message{message(), v6, long}, got)
	require.Equal(t, map[string]string{"TAGS": "a", "k": "v=1"}, ParseProperties(got[0].Properties))
	require.Equal(t, "7F00000100002A9F0000000000001267", got[0].ID())

	_, err = ParseMessages(b[:len(b)-1])
	require.ErrorIs(t, err, ErrFrame)
}

func TestContent(t *testing.T) {
	m := message()
	body, err := m.Content()
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))

	m.SysFlag = SysCompressed
	m.Body, err = hex.DecodeString("789ccb48cdc9c90700062c0215") // zlib of "hello"
	require.NoError(t, err)
	body, err = m.Content()
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))

	m.Body = []byte("not zlib")
	_, err = m.Content()
	require.Error(t, err)

	m.SysFlag |= 1 << 8
	_, err = m.Content()
	require.ErrorIs(t, err, ErrCompression)
}

func TestHashCodeIsJavas(t *testing.T) {
	require.EqualValues(t, 2598919, HashCode("TagA")) // "TagA".hashCode()
	require.EqualValues(t, 1772899, HashCode("😀"))
	require.EqualValues(t, 0, HashCode(""))
}

func TestSubscription(t *testing.T) {
	require.Equal(t, "*", NewSubscription("t", "", 1).Expression)
	require.Equal(t, "*", NewSubscription("t", "*", 1).Expression)
	s := NewSubscription("t", " TagA || b", 1)
	require.Equal(t, "TagA||b", s.Expression)
	require.Equal(t, []string{"TagA", "b"}, s.Tags)
	require.Equal(t, []int32{HashCode("TagA"), HashCode("b")}, s.Codes)
}

func TestJavasJSON(t *testing.T) {
	var info ClusterInfo
	require.NoError(t, unmarshal([]byte(`{"brokerAddrTable":{"b":{"brokerAddrs":{0:"127.0.0.1:1",1:"h:2"},"brokerName":"b","cluster":"c","enableActingMaster":false}},"clusterAddrTable":{"c":["b"]}}`), &info))
	require.Equal(t, map[int64]string{0: "127.0.0.1:1", 1: "h:2"}, info.Brokers["b"].Addrs)
	require.Equal(t, "127.0.0.1:1", info.Brokers["b"].Master())

	var stats struct {
		Offsets map[string]TopicOffset `json:"offsetTable"`
	}
	require.NoError(t, unmarshal([]byte(`{"offsetTable":{ {"brokerName":"b","queueId":0,"topic":"a\"}b"} : {"maxOffset":7,"minOffset":1} , {"brokerName":"b","queueId":1,"topic":"t"}:{}},"topicPutTps":0.0}`), &stats))
	offsets, err := byQueue(stats.Offsets)
	require.NoError(t, err)
	require.Equal(t, map[Queue]TopicOffset{{Topic: `a"}b`, Broker: "b"}: {Min: 1, Max: 7}, {Topic: "t", Broker: "b", ID: 1}: {}}, offsets)

	for _, bad := range []string{``, `{`, `{1:`, `{"a":1}x`, `{"a`, strings.Repeat("[", 1000), `{{:1}`} {
		require.Error(t, unmarshal([]byte(bad), &info), bad)
	}
}

func FuzzReadCommand(f *testing.F) {
	for _, codec := range []Codec{JSON, RocketMQ} {
		c := NewRequest(ReqRoute, []byte("b"), "topic", "t")
		c.Codec = codec
		frame, err := c.Append(nil)
		require.NoError(f, err)
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 && b[0] > 0 { // a long frame that is not there costs only memory
			return
		}
		c, err := ReadCommand(bytes.NewReader(b))
		if err != nil {
			return
		}
		frame, err := c.Append(nil)
		require.NoError(t, err)
		again, err := ReadCommand(bytes.NewReader(frame))
		require.NoError(t, err)
		if len(again.Fields) == 0 {
			c.Fields, again.Fields = nil, nil
		}
		require.Equal(t, c, again)
	})
}

// A header is read as encoding/json reads it, and written so that encoding/json reads it.
func FuzzJSONHeader(f *testing.F) {
	for _, seed := range []string{`{}`, `{"code":10,"extFields":{"a":"b","":""},"flag":-1,"language":"GO","opaque":2147483647,"version":401}`,
		`{"remark":null,"extFields":{"properties":"TAGS\u0001a\u0002","x":"\"\\\/\n\u00e4"}}`, ` { "code" : 01 } `, `{"Code":1,"code":1.0}`,
		`{"extFields":{"a":"1"},"extFields":{"b":"2"}} `, `{"code":1}x`, `{"code":1,}`, "{\"remark\":\"ä\xff\"}", `{"extFields":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want jsonHeader
		err := json.Unmarshal(b, &want)
		got, plain := parsePlain(b)
		if plain {
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		text := strings.ToValidUTF8(string(b), "?")
		c := &Command{Code: len(b), Language: text, Version: 1, Opaque: -5, Flag: 2, Remark: text, Fields: map[string]string{text: text, "k": text}}
		var back Command
		header := c.appendJSON(nil)
		require.True(t, json.Valid(header), "%s", header)
		require.NoError(t, back.parseJSON(header))
		require.Equal(t, c, &back)
		var standard jsonHeader
		require.NoError(t, json.Unmarshal(header, &standard))
		require.Equal(t, jsonHeader{c.Code, text, 1, -5, 2, text, c.Fields, "JSON"}, standard)
	})
}

func FuzzByQueue(f *testing.F) {
	f.Add("topic", `b"}{`, 3, int64(7))
	f.Fuzz(func(t *testing.T, topic, broker string, id int, n int64) {
		topic, broker = strings.ToValidUTF8(topic, "?"), strings.ToValidUTF8(broker, "?")
		want := map[Queue]TopicOffset{{Topic: topic, Broker: broker, ID: id}: {Max: n}, {Topic: topic, Broker: "b", ID: 1}: {Min: n}}
		b, err := AppendByQueue([]byte(`{"offsetTable":`), want)
		require.NoError(t, err)
		var table struct {
			Offsets map[string]TopicOffset `json:"offsetTable"`
		}
		require.NoError(t, unmarshal(append(b, '}'), &table))
		got, err := byQueue(table.Offsets)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func BenchmarkHeader(b *testing.B) {
	c := NewRequest(ReqSendMessageV2, nil, "a", "producers", "b", "topic", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1700000000000", "h", "7",
		"i", "UNIQ_KEY\x010123456789abcdef0123456789abcdef\x02TAGS\x01a\x02", "j", "0", "k", "false", "l", "16", "m", "false", "n", "broker")
	frame, err := c.Append(nil)
	require.NoError(b, err)
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			_, _ = c.Append(frame[:0])
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			_, _ = ReadCommand(bytes.NewReader(frame))
		}
	})
}

func FuzzParseMessages(f *testing.F) {
	b, err := message().Append(nil)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := ParseMessages(b)
		if err != nil {
			return
		}
		for _, m := range messages {
			if len(m.Properties) > 1<<15-1 || len(m.Topic) > 1<<15-1 {
				continue
			}
			stored, err := m.Append(nil)
			require.NoError(t, err)
			again, err := ParseMessages(stored)
			require.NoError(t, err)
			require.Equal(t, []*Message{m}, again)
		}
	})
}

func FuzzJavasJSON(f *testing.F) {
	f.Add([]byte(`{0:"a",{"b":[1,2]}:{},[1]:null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := standardJSON(b)
		if err != nil || !json.Valid(s) {
			return
		}
		again, err := standardJSON(s)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
