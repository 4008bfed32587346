package zkcontract

import (
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var multiCases = []testCase{
	{"all writes take effect at one zxid", multiCommits},
	{"a write sees those before it", multiSeesItself},
	{"one failure undoes all", multiFails},
	{"a failure leaves sequence numbers as they were", multiFailsSequence},
	{"watches fire in the order of the writes, none on failure", multiWatches},
	{"empty and foreign requests", multiOddities},
}

func multiCommits(s *suite) {
	l := s.lib()
	l.create(s.path("a"), "1", zk.FlagPersistent)
	l.create(s.path("old"), "", zk.FlagPersistent)
	res, err := l.Multi(
		&zk.CreateRequest{Path: s.path("n"), Data: []byte("x"), Acl: everybody},
		&zk.SetDataRequest{Path: s.path("a"), Data: []byte("2"), Version: 0},
		&zk.CheckVersionRequest{Path: s.path("a"), Version: 1},
		&zk.DeleteRequest{Path: s.path("old"), Version: 0},
		&zk.CreateRequest{Path: s.path("s-"), Acl: everybody, Flags: zk.FlagEphemeralSequential},
	)
	require.NoError(s, err)
	require.Len(s, res, 5)
	require.Equal(s, s.path("n"), res[0].String)
	require.EqualValues(s, 1, res[1].Stat.Version)
	require.Equal(s, s.path("s-0000000003"), res[4].String)
	_, a, err := l.Get(s.path("a"))
	require.NoError(s, err)
	_, n, err := l.Get(s.path("n"))
	require.NoError(s, err)
	require.Equal(s, a.Mzxid, n.Czxid)
	kids, root, err := l.Children(s.root)
	require.NoError(s, err)
	require.ElementsMatch(s, []string{"a", "n", "s-0000000003"}, kids)
	require.Equal(s, a.Mzxid, root.Pzxid)
}

func multiSeesItself(s *suite) {
	l := s.lib()
	l.create(s.path("a"), "", zk.FlagPersistent)
	_, err := l.Multi(
		&zk.CreateRequest{Path: s.path("p"), Acl: everybody},
		&zk.CreateRequest{Path: s.path("p/x"), Data: []byte("1"), Acl: everybody},
		&zk.CreateRequest{Path: s.path("p/s-"), Acl: everybody, Flags: zk.FlagSequence},
		&zk.SetDataRequest{Path: s.path("p/x"), Data: []byte("2"), Version: 0},
		&zk.SetDataRequest{Path: s.path("p/x"), Data: []byte("3"), Version: 1},
		&zk.DeleteRequest{Path: s.path("a"), Version: -1},
		&zk.CreateRequest{Path: s.path("a"), Data: []byte("again"), Acl: everybody},
		&zk.CheckVersionRequest{Path: s.path("a"), Version: 0},
	)
	require.NoError(s, err)
	data, stat, err := l.Get(s.path("p/x"))
	require.NoError(s, err)
	require.Equal(s, "3", string(data))
	require.EqualValues(s, 2, stat.Version)
	ok, _, err := l.Exists(s.path("p/s-0000000001"))
	require.NoError(s, err)
	require.True(s, ok)
	data, _, err = l.Get(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, "again", string(data))
	_, err = l.Multi(
		&zk.DeleteRequest{Path: s.path("p/x"), Version: 2},
		&zk.DeleteRequest{Path: s.path("p/s-0000000001"), Version: -1},
		&zk.DeleteRequest{Path: s.path("p"), Version: -1},
	)
	require.NoError(s, err, "a parent whose children go first")

	for name, ops := range map[string][]any{
		"parent not empty any more": {
			&zk.CreateRequest{Path: s.path("a/kid"), Acl: everybody}, &zk.DeleteRequest{Path: s.path("a"), Version: -1},
		},
		"parent is ephemeral": {
			&zk.CreateRequest{Path: s.path("e"), Acl: everybody, Flags: zk.FlagEphemeral}, &zk.CreateRequest{Path: s.path("e/x"), Acl: everybody},
		},
		"deleted before": {
			&zk.DeleteRequest{Path: s.path("a"), Version: -1}, &zk.SetDataRequest{Path: s.path("a"), Version: -1},
		},
		"created before": {
			&zk.CreateRequest{Path: s.path("n"), Acl: everybody}, &zk.CreateRequest{Path: s.path("n"), Acl: everybody},
		},
	} {
		res, err := l.Multi(ops...)
		require.Error(s, err, name)
		require.NoError(s, res[0].Error, name)
		require.Error(s, res[1].Error, name)
	}
}

func multiFails(s *suite) {
	l := s.lib()
	l.create(s.path("a"), "1", zk.FlagPersistent)
	_, before, err := l.Get(s.root)
	require.NoError(s, err)
	res, err := l.Multi(
		&zk.CreateRequest{Path: s.path("n"), Acl: everybody},
		&zk.SetDataRequest{Path: s.path("a"), Data: []byte("2"), Version: -1},
		&zk.CheckVersionRequest{Path: s.path("a"), Version: 77},
		&zk.DeleteRequest{Path: s.path("a"), Version: -1},
	)
	require.ErrorIs(s, err, zk.ErrBadVersion)
	require.Len(s, res, 4)
	require.NoError(s, res[0].Error)
	require.NoError(s, res[1].Error)
	require.ErrorIs(s, res[2].Error, zk.ErrBadVersion)
	require.Error(s, res[3].Error) // runtime inconsistency: not tried
	data, stat, err := l.Get(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, "1", string(data))
	require.EqualValues(s, 0, stat.Version)
	_, after, err := l.Get(s.root)
	require.NoError(s, err)
	require.Equal(s, before, after)

	r := s.raw(rawzk.Options{})
	d := r.do(jute.OpMulti, multi(
		multiPart{jute.OpCreate, createRequest(s.path("n"), "", jute.FlagPersistent, openACL)},
		multiPart{jute.OpDelete, pathAndInt(s.path("none"), -1)},
		multiPart{jute.OpDelete, pathAndInt(s.path("a"), -1)},
	))
	for _, want := range []jute.Code{jute.OK, jute.NoNode, jute.RuntimeInconsistency} {
		require.Equal(s, jute.OpError, jute.Op(d.Int32()))
		require.False(s, d.Bool())
		require.Equal(s, want, jute.Code(d.Int32()))
		require.Equal(s, want, jute.Code(d.Int32()))
	}
	require.EqualValues(s, -1, d.Int32())
	require.True(s, d.Bool())
}

func multiFailsSequence(s *suite) {
	l := s.lib()
	_, err := l.Multi(
		&zk.CreateRequest{Path: s.path("s-"), Acl: everybody, Flags: zk.FlagSequence},
		&zk.CreateRequest{Path: s.path("s-"), Acl: everybody, Flags: zk.FlagSequence},
		&zk.DeleteRequest{Path: s.path("none"), Version: -1},
	)
	require.ErrorIs(s, err, zk.ErrNoNode)
	require.Equal(s, s.path("s-0000000000"), l.create(s.path("s-"), "", zk.FlagSequence))
}

func multiWatches(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	r.create(s.path("a"), "", jute.FlagPersistent)
	w.addWatch(s.root, jute.AddWatchPersistentRecursive)
	r.do(jute.OpMulti, multi(
		multiPart{jute.OpSetData, setRequest(s.path("a"), "1", -1)},
		multiPart{jute.OpDelete, pathAndInt(s.path("none"), -1)},
	))
	require.Empty(s, w.told())
	r.do(jute.OpMulti, multi(
		multiPart{jute.OpCreate, createRequest(s.path("b"), "", jute.FlagPersistent, openACL)},
		multiPart{jute.OpSetData, setRequest(s.path("a"), "1", -1)},
		multiPart{jute.OpDelete, pathAndInt(s.path("a"), -1)},
		multiPart{jute.OpCreate, createRequest(s.path("b/x"), "", jute.FlagPersistent, openACL)},
	))
	require.Equal(s, []string{"created /b", "data /a", "deleted /a", "created /b/x"}, w.told())
}

func multiOddities(s *suite) {
	r := s.raw(rawzk.Options{})
	d := r.do(jute.OpMulti, multi())
	require.EqualValues(s, -1, d.Int32())
	require.True(s, d.Bool())
	r.fails(jute.MarshallingError, jute.OpMulti, multi(
		multiPart{jute.OpCreate, createRequest(s.path("n"), "", jute.FlagPersistent, openACL)},
		multiPart{jute.OpSetACL, new(jute.Encoder).Ustring(s.root).ACLs(openACL).Int32(-1)},
	))
	require.Equal(s, s.path("n"), r.create(s.path("n"), "", jute.FlagPersistent))
}

type multiPart struct {
	op   jute.Op
	body *jute.Encoder
}

func multi(parts ...multiPart) *jute.Encoder {
	e := new(jute.Encoder)
	for _, p := range parts {
		e.Int32(int32(p.op)).Bool(false).Int32(-1).Raw(p.body.Bytes())
	}
	return e.Int32(-1).Bool(true).Int32(-1)
}
