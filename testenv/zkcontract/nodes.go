package zkcontract

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var nodeCases = []testCase{
	{"create, read, change, delete", crud},
	{"errors name what is wrong", nodeErrors},
	{"stat tells every change", stats},
	{"a version guards set and delete", versions},
	{"sequential names count all children", sequential},
	{"create2, container and TTL answer with the stat", createKinds},
	{"paths are checked", badPaths},
	{"a request of 1 MiB is refused, the session lives", sizeLimit},
	{"requests beside the common ones", otherRequests},
	{"four-letter words", fourLetterWords},
}

func crud(s *suite) {
	l, p := s.lib(), s.path("a")
	require.Equal(s, p, l.create(p, "1", zk.FlagPersistent))
	data, _, err := l.Get(p)
	require.NoError(s, err)
	require.Equal(s, "1", string(data))
	l.set(p, "22")
	data, stat, err := l.Get(p)
	require.NoError(s, err)
	require.Equal(s, "22", string(data))
	require.EqualValues(s, 2, stat.DataLength)
	l.create(p+"/x", "", zk.FlagPersistent)
	l.create(p+"/y", "", zk.FlagPersistent)
	kids, stat, err := l.Children(p)
	require.NoError(s, err)
	require.ElementsMatch(s, []string{"x", "y"}, kids)
	require.EqualValues(s, 2, stat.NumChildren)
	require.NoError(s, l.Delete(p+"/x", -1))
	ok, _, err := l.Exists(p + "/x")
	require.NoError(s, err)
	require.False(s, ok)
	_, err = l.Sync(p)
	require.NoError(s, err)

	// A node without data is not a node with empty data.
	r := s.raw(rawzk.Options{})
	r.do(jute.OpCreate, new(jute.Encoder).Ustring(s.path("null")).Buffer(nil).ACLs(openACL).Int32(0))
	require.Nil(s, r.do(jute.OpGetData, pathAndBool(s.path("null"), false)).Buffer())
	r.create(s.path("empty"), "", jute.FlagPersistent)
	require.NotNil(s, r.do(jute.OpGetData, pathAndBool(s.path("empty"), false)).Buffer())
}

func nodeErrors(s *suite) {
	l, p := s.lib(), s.path("a")
	l.create(p, "", zk.FlagPersistent)
	_, err := l.Create(p, nil, 0, everybody)
	require.ErrorIs(s, err, zk.ErrNodeExists)
	_, err = l.Create(s.path("none/x"), nil, 0, everybody)
	require.ErrorIs(s, err, zk.ErrNoNode)
	_, _, err = l.Get(s.path("none"))
	require.ErrorIs(s, err, zk.ErrNoNode)
	_, _, err = l.Children(s.path("none"))
	require.ErrorIs(s, err, zk.ErrNoNode)
	_, err = l.Set(s.path("none"), nil, -1)
	require.ErrorIs(s, err, zk.ErrNoNode)
	require.ErrorIs(s, l.Delete(s.path("none"), -1), zk.ErrNoNode)
	require.ErrorIs(s, l.Delete(s.root, -1), zk.ErrNotEmpty)
	e := l.create(s.path("e"), "", zk.FlagEphemeral)
	_, err = l.Create(e+"/x", nil, 0, everybody)
	require.ErrorIs(s, err, zk.ErrNoChildrenForEphemerals)
}

func stats(s *suite) {
	r, p := s.raw(rawzk.Options{}), s.path("a")
	r.create(p, "abc", jute.FlagPersistent)
	created := r.LastZxid
	_, st := r.get(p, false)
	now := time.Now().UnixMilli()
	require.InDelta(s, now, st.Ctime, float64(time.Hour.Milliseconds()))
	require.Equal(s, jute.Stat{Czxid: created, Mzxid: created, Pzxid: created, Ctime: st.Ctime, Mtime: st.Ctime, DataLength: 3}, st)

	r.set(p, "abcd")
	set := r.LastZxid
	require.Greater(s, set, created)
	r.create(p+"/x", "", jute.FlagPersistent)
	r.create(p+"/y", "", jute.FlagPersistent)
	_, st = r.get(p, false)
	require.Equal(s, jute.Stat{
		Czxid: created, Mzxid: set, Pzxid: r.LastZxid, Ctime: st.Ctime, Mtime: st.Mtime,
		Version: 1, Cversion: 2, DataLength: 4, NumChildren: 2,
	}, st)

	r.delete(p + "/x")
	deleted := r.LastZxid
	r.set(p+"/y", "grandchildren's and children's data do not count")
	_, st = r.get(p, false)
	require.Equal(s, jute.Stat{
		Czxid: created, Mzxid: set, Pzxid: deleted, Ctime: st.Ctime, Mtime: st.Mtime,
		Version: 1, Cversion: 3, DataLength: 4, NumChildren: 1,
	}, st)
}

func versions(s *suite) {
	l, p := s.lib(), s.path("a")
	l.create(p, "", zk.FlagPersistent)
	stat, err := l.Set(p, []byte("1"), 0)
	require.NoError(s, err)
	require.EqualValues(s, 1, stat.Version)
	_, err = l.Set(p, []byte("2"), 0)
	require.ErrorIs(s, err, zk.ErrBadVersion)
	_, err = l.Set(p, []byte("2"), -2) // only -1 means any
	require.ErrorIs(s, err, zk.ErrBadVersion)
	require.ErrorIs(s, l.Delete(p, 0), zk.ErrBadVersion)
	data, stat, err := l.Get(p)
	require.NoError(s, err)
	require.Equal(s, "1", string(data))
	require.EqualValues(s, 1, stat.Version)
	require.NoError(s, l.Delete(p, 1))
}

func sequential(s *suite) {
	l, p := s.lib(), s.path("q")
	l.create(p, "", zk.FlagPersistent)
	require.Equal(s, p+"/n-0000000000", l.create(p+"/n-", "", zk.FlagSequence))
	require.Equal(s, p+"/n-0000000001", l.create(p+"/n-", "", zk.FlagEphemeralSequential))
	l.create(p+"/plain", "", zk.FlagPersistent)
	require.Equal(s, p+"/m-0000000003", l.create(p+"/m-", "", zk.FlagSequence))
	require.NoError(s, l.Delete(p+"/m-0000000003", -1))
	require.Equal(s, p+"/m-0000000004", l.create(p+"/m-", "", zk.FlagSequence))
	require.Equal(s, p+"/0000000005", l.create(p+"/", "", zk.FlagSequence))
	// Creations that fail use up no number.
	_, err := l.Create(p+"/plain", nil, 0, everybody)
	require.ErrorIs(s, err, zk.ErrNodeExists)
	require.Equal(s, p+"/m-0000000006", l.create(p+"/m-", "", zk.FlagSequence))
}

func createKinds(s *suite) {
	l := s.lib()
	_, err := l.CreateContainer(s.path("c"), nil, zk.FlagContainer, everybody)
	require.NoError(s, err)
	_, err = l.CreateTTL(s.path("t"), nil, zk.FlagTTL, everybody, time.Hour)
	require.NoError(s, err)
	name, err := l.CreateTTL(s.path("t-"), nil, zk.FlagPersistentSequentialWithTTL, everybody, time.Hour)
	require.NoError(s, err)
	require.Equal(s, s.path("t-0000000002"), name)
	_, err = l.CreateTTL(s.path("bad"), nil, zk.FlagTTL, everybody, 0)
	require.ErrorIs(s, err, zk.ErrBadArguments)

	r := s.raw(rawzk.Options{})
	_, stat := r.get(s.path("c"), false)
	require.Zero(s, stat.EphemeralOwner)
	_, stat = r.get(s.path("t"), false)
	require.Zero(s, stat.EphemeralOwner)
	d := r.do(jute.OpCreate2, createRequest(s.path("two"), "abc", jute.FlagEphemeral, openACL))
	require.Equal(s, s.path("two"), d.Ustring())
	stat = d.Stat()
	require.Equal(s, jute.Stat{
		Czxid: r.LastZxid, Mzxid: r.LastZxid, Pzxid: r.LastZxid, Ctime: stat.Ctime, Mtime: stat.Ctime,
		EphemeralOwner: r.SessionID, DataLength: 3,
	}, stat)
	d = r.do(jute.OpCreateContainer, createRequest(s.path("c2"), "", jute.FlagContainer, openACL))
	require.Equal(s, s.path("c2"), d.Ustring())
	require.Zero(s, d.Stat().EphemeralOwner)
	r.fails(jute.BadArguments, jute.OpCreate, createRequest(s.path("bad"), "", 7, openACL))
	r.fails(jute.BadArguments, jute.OpCreate, createRequest(s.path("bad"), "", jute.FlagPersistentWithTTL, openACL))

	// Container and TTL nodes may have children.
	l.create(s.path("c/x"), "", zk.FlagPersistent)
	l.create(s.path("t/x"), "", zk.FlagPersistent)
}

func badPaths(s *suite) {
	r := s.raw(rawzk.Options{})
	r.create(s.path("a"), "", jute.FlagPersistent)
	for p, want := range map[string]jute.Code{
		"a":               jute.BadArguments,
		s.path("a/"):      jute.BadArguments,
		s.path("."):       jute.BadArguments,
		s.path(".."):      jute.BadArguments,
		s.path("a\x01"):   jute.BadArguments,
		s.path("a\u0085"): jute.BadArguments,
		s.path("a\ufff0"): jute.BadArguments,
		s.root + "//a":    jute.NoNode, // the parent is looked for first
		s.path("../b"):    jute.NoNode,
		s.path("none/a/"): jute.NoNode,
	} {
		_, err := r.Call(jute.OpCreate, createRequest(p, "", jute.FlagPersistent, openACL))
		require.ErrorIs(s, err, want, "%q", p)
	}
	for _, p := range []string{"a", s.path("a/"), s.root + "//a"} {
		r.fails(jute.BadArguments, jute.OpSetData, setRequest(p, "", -1))
	}
	for _, p := range []string{"/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota", "a"} {
		r.fails(jute.BadArguments, jute.OpDelete, pathAndInt(p, -1))
	}
	r.fails(jute.NodeExists, jute.OpCreate, createRequest("/", "", jute.FlagPersistent, openACL))
	r.fails(jute.NoNode, jute.OpGetData, pathAndBool("a", false))
	require.Equal(s, s.path("ö 漢字 -_.~"), r.create(s.path("ö 漢字 -_.~"), "", jute.FlagPersistent))
}

func sizeLimit(s *suite) {
	r, p := s.raw(rawzk.Options{}), s.path("a")
	r.create(p, "small", jute.FlagPersistent)
	overhead := 8 + len(setRequest(p, "", -1).Bytes()) // request header and fields
	r.do(jute.OpSetData, setRequest(p, strings.Repeat("x", jute.MaxBuffer-overhead), -1))
	r.do(jute.OpSetData, setRequest(p, "small", -1))
	_, err := r.Call(jute.OpSetData, setRequest(p, strings.Repeat("x", jute.MaxBuffer-overhead+1), -1))
	require.Error(s, err)
	_, refused := errors.AsType[jute.Code](err)
	require.False(s, refused, "the connection is closed instead of an answer")
	// The session lives and the node is as it was.
	again := s.raw(rawzk.Options{SessionID: r.SessionID, Passwd: r.Passwd})
	data, _ := again.get(p, false)
	require.Equal(s, "small", data)

	l := s.lib()
	id := l.SessionID()
	_, err = l.Set(p, make([]byte, 1<<20), -1)
	require.Error(s, err)
	l.again(func() error { _, _, err := l.Get(p); return err })
	require.Equal(s, id, l.SessionID())
}

func otherRequests(s *suite) {
	r := s.raw(rawzk.Options{})
	for i := range 3 {
		r.create(s.path(fmt.Sprint("e", i)), "", jute.FlagEphemeral)
	}
	r.create(s.path("p"), "", jute.FlagPersistent)
	r.create(s.path("p/x"), "", jute.FlagPersistent)
	own := r.do(jute.OpGetEphemerals, new(jute.Encoder).Ustring(s.root)).Strings()
	slices.Sort(own)
	require.Equal(s, []string{s.path("e0"), s.path("e1"), s.path("e2")}, own)
	require.Empty(s, r.do(jute.OpGetEphemerals, new(jute.Encoder).Ustring(s.path("p"))).Strings())
	require.EqualValues(s, 5, r.do(jute.OpGetAllChildrenNumber, new(jute.Encoder).Ustring(s.root)).Int32())
	require.Equal(s, s.root, r.do(jute.OpSync, new(jute.Encoder).Ustring(s.root)).Ustring())
	d := r.do(jute.OpGetChildren2, pathAndBool(s.root, false))
	require.ElementsMatch(s, []string{"e0", "e1", "e2", "p"}, d.Strings())
	require.EqualValues(s, 4, d.Stat().NumChildren)
	r.fails(jute.ReconfigDisabled, jute.OpReconfig, new(jute.Encoder).Ustring("").Ustring("").Ustring("").Int64(-1))
	r.fails(jute.MarshallingError, jute.OpCreate, new(jute.Encoder).Ustring(s.path("cut short")))

	// An unknown request, and check outside of a multi, cost the connection.
	for _, op := range []jute.Op{99, jute.OpCheck} {
		r := s.raw(rawzk.Options{})
		r.fails(jute.Unimplemented, op, pathAndInt(s.root, -1))
		require.NoError(s, r.WaitClosed())
	}
}

func fourLetterWords(s *suite) {
	require.Equal(s, []bool{true}, zk.FLWRuok([]string{s.addr}, patience))
	text := word(s, "srvr")
	for _, want := range []string{"Zookeeper version: 3.", "\nZxid: 0x", "\nMode: ", "\nNode count: "} {
		require.Contains(s, text, want)
	}
}
