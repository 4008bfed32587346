package jute_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

func TestRoundTrip(t *testing.T) {
	var e jute.Encoder
	acl := []jute.ACL{{Perms: jute.PermAll, ID: jute.ID{Scheme: "digest", ID: "a:b"}}}
	stat := jute.Stat{
		Czxid: 1, Mzxid: 2, Ctime: 3, Mtime: 4, Version: 5, Cversion: 6, Aversion: 7,
		EphemeralOwner: math.MinInt64, DataLength: 9, NumChildren: 10, Pzxid: 11,
	}
	e.Int32(-5).Int64(math.MaxInt64).Bool(true).Buffer(nil).Buffer([]byte{}).Ustring("ö").
		Strings([]string{"a", ""}).ACLs(acl).Stat(stat)
	d := jute.NewDecoder(e.Bytes())
	require.EqualValues(t, -5, d.Int32())
	require.EqualValues(t, math.MaxInt64, d.Int64())
	require.True(t, d.Bool())
	require.Nil(t, d.Buffer())
	require.Equal(t, []byte{}, d.Buffer())
	require.Equal(t, "ö", d.Ustring())
	require.Equal(t, []string{"a", ""}, d.Strings())
	require.Equal(t, acl, d.ACLs())
	require.Equal(t, stat, d.Stat())
	require.False(t, d.More())
	require.NoError(t, d.Err())
}

func TestTruncated(t *testing.T) {
	var e jute.Encoder
	e.Ustring("abc").Strings([]string{"x", "yz"})
	for n := range e.Bytes() {
		d := jute.NewDecoder(e.Bytes()[:n])
		d.Ustring()
		require.Empty(t, d.Strings())
		require.ErrorIs(t, d.Err(), jute.ErrTruncated)
		require.Zero(t, d.Int64(), "reads after an error give zero")
		require.False(t, d.More())
	}
	d := jute.NewDecoder([]byte{0x80, 0, 0, 0}) // a length below -1
	require.Nil(t, d.Buffer())
	require.ErrorIs(t, d.Err(), jute.ErrTruncated)
}

func TestFrame(t *testing.T) {
	f := jute.Frame([]byte("ab"), nil, []byte("c"))
	b, err := jute.ReadFrame(bytes.NewReader(f), 3)
	require.NoError(t, err)
	require.Equal(t, "abc", string(b))
	_, err = jute.ReadFrame(bytes.NewReader(f), 2)
	require.ErrorContains(t, err, "frame of 3 bytes, the limit is 2")
	_, err = jute.ReadFrame(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), 2)
	require.ErrorContains(t, err, "frame of -1 bytes")
	_, err = jute.ReadFrame(bytes.NewReader(f[:5]), 3)
	require.Error(t, err)
}

func TestCodeIsAnError(t *testing.T) {
	require.EqualError(t, jute.NoNode, "zookeeper: NoNode (-101)")
	require.EqualError(t, jute.Code(-999), "zookeeper: unknown code (-999)")
}

// FuzzDecoder checks that no input panics and that what was decoded survives
// being encoded and decoded again.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{})
	f.Add(new(jute.Encoder).ConnectRequest(jute.ConnectRequest{TimeoutMs: 1, Passwd: make([]byte, 16), HasReadOnly: true}).Bytes())
	f.Add(new(jute.Encoder).Stat(jute.Stat{Version: 1}).Bytes())
	f.Add(new(jute.Encoder).ACLs([]jute.ACL{{Perms: 1, ID: jute.ID{Scheme: "world", ID: "anyone"}}}).Bytes())
	f.Add(new(jute.Encoder).ReplyHeader(jute.ReplyHeader{Xid: -1}).Event(jute.Event{Type: 1, State: 3, Path: "/a"}).Bytes())
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b, (*jute.Decoder).Strings, (*jute.Encoder).Strings)
		check(t, b, (*jute.Decoder).ACLs, (*jute.Encoder).ACLs)
		check(t, b, (*jute.Decoder).Buffer, (*jute.Encoder).Buffer)
		check(t, b, (*jute.Decoder).Stat, (*jute.Encoder).Stat)
		check(t, b, (*jute.Decoder).ReplyHeader, (*jute.Encoder).ReplyHeader)
		check(t, b, (*jute.Decoder).Event, (*jute.Encoder).Event)
		check(t, b, (*jute.Decoder).ConnectRequest, (*jute.Encoder).ConnectRequest)
		check(t, b, (*jute.Decoder).ConnectResponse, (*jute.Encoder).ConnectResponse)
	})
}

func check[T any](t *testing.T, b []byte, decode func(*jute.Decoder) T, encode func(*jute.Encoder, T) *jute.Encoder) {
	d := jute.NewDecoder(b)
	v := decode(d)
	if d.Err() != nil {
		return
	}
	again := jute.NewDecoder(encode(new(jute.Encoder), v).Bytes())
	require.Equal(t, v, decode(again))
	require.NoError(t, again.Err())
	require.False(t, again.More())
}
