package zkcontract

import (
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var accessCases = []testCase{
	{"digest is enforced for every permission", digestEnforced},
	{"auth stands for the creator", authScheme},
	{"an ACL that nobody could use is refused", invalidACLs},
	{"setACL has a version and fires no watch", setACL},
	{"digests are hidden from those who may not administer", aclMasked},
	{"ip addresses and networks", ipScheme},
	{"a wrong scheme of authentication costs the connection", authFails},
	{"the library authenticates again after a reconnect", authSurvivesReconnect},
}

const alice = "alice:secret"

func digest(perms int32, user, password string) []zk.ACL { return zk.DigestACL(perms, user, password) }

func digestEnforced(s *suite) {
	owner, other := s.lib(), s.lib()
	p := s.path("a")
	_, err := owner.Create(p, []byte("1"), 0, digest(zk.PermAll, "alice", "secret"))
	require.NoError(s, err)

	// Not even the creator, as long as it has not said who it is.
	denied := func(l *lib) {
		_, _, err := l.Get(p)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, _, err = l.Exists(p)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, _, err = l.Children(p)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, err = l.Set(p, nil, -1)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, err = l.Create(p+"/x", nil, 0, everybody)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, err = l.SetACL(p, everybody, -1)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, _, err = l.GetACL(p)
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, err = l.Multi(&zk.SetDataRequest{Path: p, Version: -1})
		require.ErrorIs(s, err, zk.ErrNoAuth)
		_, err = l.Multi(&zk.CheckVersionRequest{Path: p, Version: -1})
		require.ErrorIs(s, err, zk.ErrNoAuth)
	}
	denied(owner)
	require.NoError(s, other.AddAuth("digest", []byte("alice:wrong")))
	require.NoError(s, other.AddAuth("digest", []byte("bob:secret")))
	denied(other)

	require.NoError(s, owner.AddAuth("digest", []byte(alice)))
	data, _, err := owner.Get(p)
	require.NoError(s, err)
	require.Equal(s, "1", string(data))
	owner.set(p, "2")
	owner.create(p+"/x", "", zk.FlagPersistent)

	// To delete is a permission on the parent, which alone matters.
	require.ErrorIs(s, other.Delete(p+"/x", -1), zk.ErrNoAuth)
	require.NoError(s, owner.Delete(p+"/x", -1))
	require.NoError(s, other.Delete(p, -1))

	// Each permission is for itself.
	_, err = owner.Create(p, nil, 0, append(digest(zk.PermAll, "alice", "secret"), zk.WorldACL(zk.PermRead)...))
	require.NoError(s, err)
	_, _, err = other.Get(p)
	require.NoError(s, err)
	_, err = other.Set(p, nil, -1)
	require.ErrorIs(s, err, zk.ErrNoAuth)
	// A missing node is told apart from a forbidden one.
	_, _, err = other.Get(p + "/none")
	require.ErrorIs(s, err, zk.ErrNoNode)
}

func authScheme(s *suite) {
	l := s.lib()
	_, err := l.Create(s.path("a"), nil, 0, zk.AuthACL(zk.PermAll))
	require.ErrorIs(s, err, zk.ErrInvalidACL)
	require.NoError(s, l.AddAuth("digest", []byte(alice)))
	_, err = l.Create(s.path("a"), nil, 0, zk.AuthACL(zk.PermAll))
	require.NoError(s, err)
	acl, _, err := l.GetACL(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, digest(zk.PermAll, "alice", "secret"), acl)
	_, _, err = s.lib().Get(s.path("a"))
	require.ErrorIs(s, err, zk.ErrNoAuth)
}

func invalidACLs(s *suite) {
	l := s.lib()
	for _, acl := range [][]zk.ACL{
		{},
		{{Perms: zk.PermAll, Scheme: "world", ID: "me"}},
		{{Perms: zk.PermAll, Scheme: "digest", ID: "no colon"}},
		{{Perms: zk.PermAll, Scheme: "digest", ID: "nothing:"}},
		{{Perms: zk.PermAll, Scheme: "ip", ID: "not an address"}},
		{{Perms: zk.PermAll, Scheme: "unheard-of", ID: "x"}},
		append(zk.WorldACL(zk.PermAll), zk.ACL{Perms: zk.PermAll, Scheme: "unheard-of", ID: "x"}),
	} {
		_, err := l.Create(s.path("a"), nil, 0, acl)
		require.ErrorIs(s, err, zk.ErrInvalidACL, "%v", acl)
		_, err = l.SetACL(s.root, acl, -1)
		require.ErrorIs(s, err, zk.ErrInvalidACL, "%v", acl)
	}
	_, err := l.Multi(&zk.CreateRequest{Path: s.path("a")})
	require.ErrorIs(s, err, zk.ErrInvalidACL)
	// An entry given twice is kept once.
	_, err = l.Create(s.path("a"), nil, 0, append(zk.WorldACL(zk.PermAll), zk.WorldACL(zk.PermAll)...))
	require.NoError(s, err)
	acl, _, err := l.GetACL(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, everybody, acl)
}

func setACL(s *suite) {
	l, p := s.lib(), s.path("a")
	l.create(p, "", zk.FlagPersistent)
	w := s.raw(rawzk.Options{})
	w.get(p, true)
	w.children(p, true)
	w.addWatch(s.root, jute.AddWatchPersistentRecursive)
	stat, err := l.SetACL(p, zk.WorldACL(zk.PermRead|zk.PermAdmin), 0)
	require.NoError(s, err)
	require.EqualValues(s, 1, stat.Aversion)
	require.EqualValues(s, 0, stat.Version)
	_, err = l.SetACL(p, everybody, 0)
	require.ErrorIs(s, err, zk.ErrBadVersion)
	_, err = l.Set(p, nil, -1)
	require.ErrorIs(s, err, zk.ErrNoAuth)
	_, err = l.SetACL(s.path("none"), everybody, -1)
	require.ErrorIs(s, err, zk.ErrNoNode)
	acl, stat, err := l.GetACL(p)
	require.NoError(s, err)
	require.Equal(s, zk.WorldACL(zk.PermRead|zk.PermAdmin), acl)
	require.EqualValues(s, 1, stat.Aversion)
	require.Empty(s, w.told())
}

func aclMasked(s *suite) {
	l, other := s.lib(), s.lib()
	full := append(digest(zk.PermAll, "alice", "secret"), zk.WorldACL(zk.PermRead)...)
	_, err := l.Create(s.path("a"), nil, 0, full)
	require.NoError(s, err)
	acl, _, err := other.GetACL(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: "alice:x"}, {Perms: zk.PermRead, Scheme: "world", ID: "anyone"}}, acl)
	require.NoError(s, other.AddAuth("digest", []byte(alice)))
	acl, _, err = other.GetACL(s.path("a"))
	require.NoError(s, err)
	require.Equal(s, full, acl)
}

func ipScheme(s *suite) {
	l := s.lib()
	for id, allowed := range map[string]bool{"127.0.0.1": true, "127.0.0.0/8": true, "127.9.9.9/8": true, "127.0.0.2": false, "10.0.0.0/8": false} {
		p, err := l.Create(s.path("ip-"), nil, zk.FlagSequence, []zk.ACL{{Perms: zk.PermRead, Scheme: "ip", ID: id}})
		require.NoError(s, err, id)
		if _, _, err = l.Get(p); allowed {
			require.NoError(s, err, id)
		} else {
			require.ErrorIs(s, err, zk.ErrNoAuth, id)
		}
	}
}

func authFails(s *suite) {
	r := s.raw(rawzk.Options{})
	r.fails(jute.AuthFailed, jute.OpAuth, new(jute.Encoder).Int32(0).Ustring("unheard-of").Buffer([]byte("x")))
	require.NoError(s, r.WaitClosed())
	again := s.raw(rawzk.Options{SessionID: r.SessionID, Passwd: r.Passwd})
	again.do(jute.OpAuth, new(jute.Encoder).Int32(0).Ustring("digest").Buffer([]byte(alice)))
	d := again.do(jute.OpWhoAmI, nil)
	var who []jute.ID
	for range d.Int32() {
		who = append(who, jute.ID{Scheme: d.Ustring(), ID: d.Ustring()})
	}
	require.Contains(s, who, jute.ID{Scheme: "digest", ID: "alice"})
}

func authSurvivesReconnect(s *suite) {
	l := s.lib()
	require.NoError(s, l.AddAuth("digest", []byte(alice)))
	_, err := l.Create(s.path("a"), []byte("1"), 0, zk.AuthACL(zk.PermAll))
	require.NoError(s, err)
	require.NoError(s, s.target.CutConnections())
	l.waitState(zk.StateHasSession)
	l.again(func() error { _, _, err := l.Get(s.path("a")); return err })
}
