package zkcontract

import (
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var persistentCases = []testCase{
	{"a persistent watch goes on firing", persistentStays},
	{"a recursive watch tells of the whole subtree", recursiveSubtree},
	{"it can be set before the node is there", persistentMissing},
	{"it lives beside one-shot watches", persistentBesideOneShot},
	{"setWatches2 sets it again and replays nothing", setWatches2},
	{"it is removed by its kind", persistentRemoved},
	{"it tells nothing of what one may not read", persistentACL},
	{"an unknown mode is refused", persistentMode},
}

func persistentStays(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	w.addWatch(p, jute.AddWatchPersistent)
	r.set(p, "1")
	r.set(p, "2")
	r.create(p+"/x", "", jute.FlagPersistent)
	r.set(p+"/x", "1")
	r.create(p+"/x/y", "", jute.FlagPersistent)
	r.delete(p + "/x/y")
	r.delete(p + "/x")
	r.delete(p)
	r.create(p, "", jute.FlagPersistent)
	require.Equal(s, []string{
		"data /a", "data /a", "children /a", "children /a", "deleted /a", "created /a",
	}, w.told())
}

func recursiveSubtree(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	r.create(s.path("ab"), "", jute.FlagPersistent)
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	r.create(p+"/x", "", jute.FlagPersistent)
	first := r.LastZxid
	r.create(p+"/x/y", "", jute.FlagEphemeral)
	r.set(p+"/x/y", "1")
	r.set(p+"/x/y", "1")
	r.set(p, "1")
	r.set(s.path("ab"), "not below a")
	require.NoError(s, r.Close()) // and with it goes the ephemeral node
	r = s.raw(rawzk.Options{})
	r.delete(p + "/x")
	r.delete(p)
	w.do(jute.OpSync, new(jute.Encoder).Ustring(p))
	events := w.Events()
	require.Equal(s, []string{
		"created /a/x", "created /a/x/y", "data /a/x/y", "data /a/x/y", "data /a", "deleted /a/x/y", "deleted /a/x", "deleted /a",
	}, w.names(events))
	require.Equal(s, first, events[0].Zxid)
	for i := 1; i < len(events); i++ {
		require.Greater(s, events[i].Zxid, events[i-1].Zxid)
	}

	// On the root of all nodes.
	all := s.raw(rawzk.Options{})
	all.addWatch("/", jute.AddWatchPersistentRecursive)
	r.create(p, "", jute.FlagPersistent)
	require.Contains(s, all.told(), "created /a")
}

func persistentMissing(s *suite) {
	r := s.raw(rawzk.Options{})
	for kind, want := range map[int32][]string{
		jute.AddWatchPersistent:          {"created /a/b", "children /a/b", "data /a/b", "children /a/b", "deleted /a/b"},
		jute.AddWatchPersistentRecursive: {"created /a/b", "created /a/b/c", "data /a/b", "deleted /a/b/c", "deleted /a/b"},
	} {
		w := s.raw(rawzk.Options{})
		w.addWatch(s.path("a/b"), kind)
		r.create(s.path("a"), "", jute.FlagPersistent)
		r.create(s.path("a/b"), "", jute.FlagPersistent)
		r.create(s.path("a/b/c"), "", jute.FlagPersistent)
		r.set(s.path("a/b"), "1")
		r.delete(s.path("a/b/c"))
		r.delete(s.path("a/b"))
		r.delete(s.path("a"))
		require.Equal(s, want, w.told())
	}
}

func persistentBesideOneShot(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	w.addWatch(p, jute.AddWatchPersistent)
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	w.get(p, true)
	w.children(p, true)
	r.set(p, "1")
	r.set(p, "2")
	r.create(p+"/x", "", jute.FlagPersistent)
	require.Equal(s, []string{"data /a", "data /a", "created /a/x", "children /a"}, w.told())

}

func setWatches2(s *suite) {
	r, w := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	for _, n := range []string{"a", "one", "rec"} {
		r.create(s.path(n), "", jute.FlagPersistent)
	}
	w.get(s.path("a"), false)
	seen := w.LastZxid
	w.Abandon()
	r.set(s.path("a"), "1")
	r.set(s.path("one"), "1")
	r.create(s.path("rec/x"), "", jute.FlagPersistent)
	w = s.raw(rawzk.Options{SessionID: w.SessionID, Passwd: w.Passwd, LastZxid: seen})
	w.do(jute.OpSetWatches2, new(jute.Encoder).Int64(seen).
		Strings([]string{s.path("a")}).Strings(nil).Strings(nil).
		Strings([]string{s.path("one")}).Strings([]string{s.path("rec")}))
	require.Equal(s, []string{"data /a"}, w.told(), "only the one-shot watch is replayed")
	r.set(s.path("a"), "2")
	r.set(s.path("one"), "2")
	r.create(s.path("one/x"), "", jute.FlagPersistent)
	r.set(s.path("rec/x"), "2")
	require.Equal(s, []string{"data /one", "children /one", "data /rec/x"}, w.told())
}

func persistentRemoved(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	w.addWatch(p, jute.AddWatchPersistent)
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	w.fails(jute.NoWatcher, jute.OpRemoveWatches, pathAndInt(p, jute.WatcherData))
	w.do(jute.OpCheckWatches, pathAndInt(p, jute.WatcherPersistent))
	w.do(jute.OpCheckWatches, pathAndInt(p, jute.WatcherPersistentRecursive))
	w.do(jute.OpRemoveWatches, pathAndInt(p, jute.WatcherPersistent))
	w.fails(jute.NoWatcher, jute.OpCheckWatches, pathAndInt(p, jute.WatcherPersistent))
	r.create(p+"/x", "", jute.FlagPersistent)
	require.Equal(s, []string{"created /a/x"}, w.told())
	w.do(jute.OpRemoveWatches, pathAndInt(p, jute.WatcherPersistentRecursive))
	r.delete(p + "/x")
	r.set(p, "1")
	require.Empty(s, w.told())
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	w.addWatch(p, jute.AddWatchPersistent)
	w.do(jute.OpRemoveWatches, pathAndInt(p, jute.WatcherAny))
	r.set(p, "2")
	require.Empty(s, w.told())
}

func persistentACL(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	auth := new(jute.Encoder).Int32(0).Ustring("digest").Buffer([]byte(alice))
	r.do(jute.OpAuth, auth)
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	w.addWatch(p, jute.AddWatchPersistentRecursive)
	mine := []jute.ACL{{Perms: jute.PermAll, ID: jute.ID{Scheme: "auth"}}}
	secret := r.do(jute.OpCreate, createRequest(p+"/secret", "", jute.FlagPersistent, mine)).Ustring()
	r.set(secret, "1")
	require.Empty(s, w.told())
	r.set(p, "1")
	require.Equal(s, []string{"data /a"}, w.told())
	w.do(jute.OpAuth, auth)
	r.set(secret, "2")
	r.delete(secret)
	require.Equal(s, []string{"data /a/secret", "deleted /a/secret"}, w.told())
}

func persistentMode(s *suite) {
	r := s.raw(rawzk.Options{})
	r.fails(jute.MarshallingError, jute.OpAddWatch, pathAndInt(s.root, 2))
	r.fails(jute.MarshallingError, jute.OpAddWatch, pathAndInt(s.root, -1))
	r.set(s.root, "1")
	require.Empty(s, r.told())
}
