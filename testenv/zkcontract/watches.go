package zkcontract

import (
	"fmt"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var watchCases = []testCase{
	{"six kinds of change reach those who watch for them", sixKinds},
	{"a watch fires once", oneShot},
	{"the notice comes before the answer that shows the change", noticeBeforeAnswer},
	{"a notice has no content", noContent},
	{"notices come in the order of the changes", order},
	{"exists on a missing node fires at its creation, get leaves no watch", existsMissing},
	{"all who watch are told, each once", everyoneOnce},
	{"a write that fails fires nothing, one that changes nothing fires", failedWrites},
	{"the library's callbacks come in order and before the answer", libraryOrder},
	{"a watch survives a reconnect within the session", survivesReconnect},
	{"a change while away is told at the reconnect", changedWhileAway},
	{"setWatches replays by zxid", setWatchesReplay},
	{"a watch is void after expiry", voidAfterExpiry},
	{"checkWatches and removeWatches", removeOneShot},
}

// kinds are the ways to watch a node; the first four need a node that is there.
var kinds = map[string]func(*raw, string){
	"data":      func(r *raw, p string) { r.get(p, true) },
	"child":     func(r *raw, p string) { r.children(p, true) },
	"exists":    func(r *raw, p string) { _, _ = r.Call(jute.OpExists, pathAndBool(p, true)) },
	"one":       func(r *raw, p string) { r.addWatch(p, jute.AddWatchPersistent) },
	"recursive": func(r *raw, p string) { r.addWatch(p, jute.AddWatchPersistentRecursive) },
}

func sixKinds(s *suite) {
	r := s.raw(rawzk.Options{})
	p := s.path("n")
	for _, step := range []struct {
		change string
		make   func()
		tells  map[string][]string // by kind of watch on n
	}{
		{"node created", func() { r.create(p, "", jute.FlagPersistent) }, map[string][]string{
			"exists": {"created /n"}, "one": {"created /n"}, "recursive": {"created /n"},
		}},
		{"node changed", func() { r.set(p, "1") }, map[string][]string{
			"data": {"data /n"}, "exists": {"data /n"}, "child": {}, "one": {"data /n"}, "recursive": {"data /n"},
		}},
		{"child added", func() { r.create(p+"/c", "", jute.FlagPersistent) }, map[string][]string{
			"data": {}, "exists": {}, "child": {"children /n"}, "one": {"children /n"}, "recursive": {"created /n/c"},
		}},
		{"child's data changed", func() { r.set(p+"/c", "1") }, map[string][]string{
			"data": {}, "exists": {}, "child": {}, "one": {}, "recursive": {"data /n/c"},
		}},
		{"child removed", func() { r.delete(p + "/c") }, map[string][]string{
			"data": {}, "exists": {}, "child": {"children /n"}, "one": {"children /n"}, "recursive": {"deleted /n/c"},
		}},
		{"node deleted", func() { r.delete(p) }, map[string][]string{
			"data": {"deleted /n"}, "exists": {"deleted /n"}, "child": {"deleted /n"}, "one": {"deleted /n"}, "recursive": {"deleted /n"},
		}},
	} {
		watchers := map[string]*raw{}
		for kind := range step.tells {
			w := s.raw(rawzk.Options{})
			kinds[kind](w, p)
			watchers[kind] = w
		}
		step.make()
		for kind, want := range step.tells {
			require.Equal(s, want, watchers[kind].told(), "%s, watch %s", step.change, kind)
		}
	}
}

func oneShot(s *suite) {
	l, w := s.lib(), s.lib()
	p := l.create(s.path("a"), "", zk.FlagPersistent)
	ch := w.watchData(p)
	l.set(p, "1")
	s.fires(ch, zk.EventNodeDataChanged, p)
	_, open := <-ch
	require.False(s, open, "the library closes the channel after the event")
	drain(w)
	l.set(p, "2")
	_, _, err := w.Get(p) // what was under way has come before this answer
	require.NoError(s, err)
	require.Empty(s, drain(w))
	ch = w.watchData(p)
	l.set(p, "3")
	s.fires(ch, zk.EventNodeDataChanged, p)
}

// drain returns the events that the library has been told so far.
func drain(l *lib) []zk.Event {
	var out []zk.Event
	for {
		select {
		case e := <-l.events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func noticeBeforeAnswer(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	for i := range 50 {
		w.get(p, true)
		want := fmt.Sprint(i)
		done := make(chan error, 1)
		go func() {
			_, err := r.Call(jute.OpSetData, setRequest(p, want, -1))
			done <- err
		}()
		s.eventually(func() bool {
			data, stat := w.get(p, false)
			events := w.Events()
			if data != want {
				require.Empty(s, events, "the notice is not early")
				return false
			}
			require.Equal(s, []string{"data /a"}, w.names(events), "the notice has come before the new data")
			require.Equal(s, stat.Mzxid, events[0].Zxid)
			return true
		}, "the change shows")
		require.NoError(s, <-done)
	}
	// A client's own write is no exception.
	w.get(p, true)
	w.set(p, "own")
	require.Equal(s, []string{"data /a"}, w.names(w.Events()))
}

func noContent(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "0", jute.FlagPersistent)
	w.get(p, true)
	r.set(p, "1")
	r.set(p, "2")
	require.Equal(s, []string{"data /a"}, w.told(), "two changes, one notice") // rawzk checks that nothing follows the path
	data, stat := w.get(p, true)
	require.Equal(s, "2", data, "the state is read, not told: a value in between is never seen")
	require.EqualValues(s, 2, stat.Version)
	r.delete(p)
	r.create(p, "3", jute.FlagPersistent)
	require.Equal(s, []string{"deleted /a"}, w.told())
}

func order(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	for _, p := range []string{"a", "b", "c"} {
		r.create(s.path(p), "", jute.FlagPersistent)
		w.get(s.path(p), true)
	}
	w.children(s.root, true)
	w.do(jute.OpGetChildren, pathAndBool(s.path("a"), true))
	kinds["exists"](w, s.path("a/x"))
	var zxids []int64
	for _, change := range []func(){
		func() { r.set(s.path("c"), "1") },
		func() { r.create(s.path("a/x"), "", jute.FlagPersistent) },
		func() { r.set(s.path("a"), "1") },
		func() { r.delete(s.path("b")) },
	} {
		change()
		zxids = append(zxids, r.LastZxid)
	}
	w.do(jute.OpSync, new(jute.Encoder).Ustring(s.root))
	events := w.Events()
	require.Equal(s, []string{
		"data /c",
		"created /a/x", "children /a", // the node before its parent
		"data /a",
		"deleted /b", "children ",
	}, w.names(events))
	var got []int64
	for _, e := range events {
		got = append(got, e.Zxid)
	}
	require.Equal(s, []int64{zxids[0], zxids[1], zxids[1], zxids[2], zxids[3], zxids[3]}, got)
}

func existsMissing(s *suite) {
	l, w := s.lib(), s.lib()
	p := s.path("a")
	_, _, _, err := w.GetW(p)
	require.ErrorIs(s, err, zk.ErrNoNode)
	_, _, _, err = w.ChildrenW(p)
	require.ErrorIs(s, err, zk.ErrNoNode)
	l.create(p, "", zk.FlagPersistent)
	_, _, err = w.Get(p)
	require.NoError(s, err)
	require.Empty(s, drain(w))
	require.NoError(s, l.Delete(p, -1))

	ch := w.watchExists(p, false)
	l.create(p, "", zk.FlagPersistent)
	s.fires(ch, zk.EventNodeCreated, p)
	ch = w.watchExists(p, true)
	l.set(p, "1")
	s.fires(ch, zk.EventNodeDataChanged, p)
	ch = w.watchExists(p, true)
	l.create(p+"/x", "", zk.FlagPersistent)
	require.NoError(s, l.Delete(p+"/x", -1))
	require.NoError(s, l.Delete(p, -1))
	s.fires(ch, zk.EventNodeDeleted, p)
	// Below a parent that is missing too.
	ch = w.watchExists(p+"/x", false)
	l.create(p, "", zk.FlagPersistent)
	l.create(p+"/x", "", zk.FlagPersistent)
	s.fires(ch, zk.EventNodeCreated, p+"/x")
}

func everyoneOnce(s *suite) {
	r := s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	var all []*raw
	for range 5 {
		w := s.raw(rawzk.Options{})
		w.get(p, true)
		w.get(p, true)
		w.children(p, true)
		kinds["exists"](w, p)
		kinds["one"](w, p)
		kinds["recursive"](w, s.root)
		all = append(all, w)
	}
	r.set(p, "1")
	for _, w := range all {
		require.Equal(s, []string{"data /a"}, w.told())
		w.get(p, true)
	}
	r.delete(p)
	for _, w := range all {
		require.Equal(s, []string{"deleted /a"}, w.told())
	}

	// The library gives the one notice to every channel.
	l := s.lib()
	p = l.create(p, "", zk.FlagPersistent)
	data, children, exists := l.watchData(p), l.watchChildren(p), l.watchExists(p, true)
	require.NoError(s, l.Delete(p, -1))
	for _, ch := range []<-chan zk.Event{data, children, exists} {
		s.fires(ch, zk.EventNodeDeleted, p)
	}
}

func failedWrites(s *suite) {
	w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "x", jute.FlagPersistent)
	w.get(p, true)
	w.children(p, true)
	kinds["exists"](w, s.path("none"))
	r.fails(jute.BadVersion, jute.OpSetData, setRequest(p, "y", 7))
	r.fails(jute.BadVersion, jute.OpDelete, pathAndInt(p, 7))
	r.fails(jute.NodeExists, jute.OpCreate, createRequest(p, "", jute.FlagPersistent, openACL))
	r.fails(jute.NoNode, jute.OpSetData, setRequest(s.path("none"), "", -1))
	require.Empty(s, w.told())
	r.set(p, "x")
	require.Equal(s, []string{"data /a"}, w.told())
}

func libraryOrder(s *suite) {
	l := s.lib()
	p := l.create(s.path("a"), "", zk.FlagPersistent)
	l.watchData(p)
	l.watchChildren(p)
	l.watchExists(p+"/x", false)
	l.set(p, "1")
	l.create(p+"/x", "", zk.FlagPersistent)
	// The callback has run before each write returned: nothing to wait for.
	var got []string
	for _, e := range drain(l) {
		got = append(got, fmt.Sprint(e.Type, " ", e.Path))
	}
	require.Equal(s, []string{
		"EventNodeDataChanged " + p, "EventNodeCreated " + p + "/x", "EventNodeChildrenChanged " + p,
	}, got)
}

func survivesReconnect(s *suite) {
	l, w := s.lib(), s.lib()
	p := l.create(s.path("a"), "", zk.FlagPersistent)
	data, children, exists := w.watchData(p), w.watchChildren(p), w.watchExists(s.path("none"), false)
	id := w.SessionID()
	require.NoError(s, s.target.CutConnections())
	require.Empty(s, w.waitState(zk.StateHasSession), "a lost connection is no event of a node")
	l.waitState(zk.StateHasSession)
	require.Equal(s, id, w.SessionID())
	l.again(func() error { _, err := l.Set(p, []byte("1"), -1); return err })
	s.fires(data, zk.EventNodeDataChanged, p)
	l.create(p+"/x", "", zk.FlagPersistent)
	s.fires(children, zk.EventNodeChildrenChanged, p)
	l.create(s.path("none"), "", zk.FlagPersistent)
	s.fires(exists, zk.EventNodeCreated, s.path("none"))
}

func changedWhileAway(s *suite) {
	l := s.lib()
	for _, n := range []string{"changed", "children", "deleted", "deleted-children", "same"} {
		l.create(s.path(n), "", zk.FlagPersistent)
	}
	changed, same := l.watchData(s.path("changed")), l.watchData(s.path("same"))
	children := l.watchChildren(s.path("children"))
	deleted, deletedChildren := l.watchData(s.path("deleted")), l.watchChildren(s.path("deleted-children"))
	created := l.watchExists(s.path("created"), false)

	l.dial.Lock()
	require.NoError(s, s.target.CutConnections())
	require.Empty(s, l.waitState(zk.StateConnecting))
	r := s.raw(rawzk.Options{})
	r.do(jute.OpMulti, multi(
		multiPart{jute.OpSetData, setRequest(s.path("changed"), "1", -1)},
		multiPart{jute.OpCreate, createRequest(s.path("children/x"), "", jute.FlagPersistent, openACL)},
		multiPart{jute.OpDelete, pathAndInt(s.path("deleted"), -1)},
		multiPart{jute.OpDelete, pathAndInt(s.path("deleted-children"), -1)},
		multiPart{jute.OpCreate, createRequest(s.path("created"), "", jute.FlagPersistent, openACL)},
	))
	l.dial.Unlock()
	s.fires(changed, zk.EventNodeDataChanged, s.path("changed"))
	s.fires(children, zk.EventNodeChildrenChanged, s.path("children"))
	s.fires(deleted, zk.EventNodeDeleted, s.path("deleted"))
	s.fires(deletedChildren, zk.EventNodeDeleted, s.path("deleted-children"))
	s.fires(created, zk.EventNodeCreated, s.path("created"))
	l.again(func() error { _, err := l.Set(s.path("same"), nil, -1); return err })
	s.fires(same, zk.EventNodeDataChanged, s.path("same"))
}

func setWatchesReplay(s *suite) {
	r := s.raw(rawzk.Options{})
	for _, n := range []string{"a", "b", "gone"} {
		r.create(s.path(n), "", jute.FlagPersistent)
	}
	r.set(s.path("a"), "1")
	seen := r.LastZxid
	r.delete(s.path("gone"))
	r.set(s.path("b"), "1")
	w := s.raw(rawzk.Options{SessionID: r.SessionID, Passwd: r.Passwd, LastZxid: seen})
	w.do(jute.OpSetWatches, new(jute.Encoder).Int64(seen).
		Strings([]string{s.path("a"), s.path("b"), s.path("gone")}).
		Strings([]string{s.path("none"), s.path("a")}).
		Strings([]string{s.path("a"), s.root, s.path("gone")}))
	events := w.Events()
	require.Equal(s, []string{
		"data /b", "deleted /gone", // data watches; a has not changed since
		"created /a",                 // exist watches
		"children ", "deleted /gone", // child watches
	}, w.names(events))
	for _, e := range events {
		require.Equal(s, jute.NoZxid, e.Zxid, "a replay does not know the zxid")
	}
	// What did not fire is set.
	w.set(s.path("a"), "2")
	w.create(s.path("a/x"), "", jute.FlagPersistent)
	w.create(s.path("none"), "", jute.FlagPersistent)
	require.Equal(s, []string{"data /a", "children /a", "created /none"}, w.told())
}

func voidAfterExpiry(s *suite) {
	l, w := s.lib(), s.lib()
	p := l.create(s.path("a"), "", zk.FlagPersistent)
	data, exists := w.watchData(p), w.watchExists(s.path("none"), false)
	id := w.SessionID()
	require.NoError(s, s.target.ExpireSession(id))
	w.waitState(zk.StateExpired)
	for _, ch := range []<-chan zk.Event{data, exists} {
		select {
		case e := <-ch:
			require.Equal(s, zk.EventNotWatching, e.Type)
			require.ErrorIs(s, e.Err, zk.ErrSessionExpired)
		case <-time.After(patience):
			s.Fatal("the library does not give the watch up")
		}
	}
	w.waitState(zk.StateHasSession)
	require.NotEqual(s, id, w.SessionID())
	l.set(p, "1")
	l.create(s.path("none"), "", zk.FlagPersistent)
	w.again(func() error { _, _, err := w.Get(p); return err })
	require.Empty(s, drain(w))
}

func removeOneShot(s *suite) {
	r := s.raw(rawzk.Options{})
	p := r.create(s.path("a"), "", jute.FlagPersistent)
	for _, kind := range []int32{jute.WatcherChildren, jute.WatcherData, jute.WatcherAny} {
		r.fails(jute.NoWatcher, jute.OpCheckWatches, pathAndInt(p, kind))
		r.fails(jute.NoWatcher, jute.OpRemoveWatches, pathAndInt(p, kind))
	}
	r.get(p, true)
	r.children(p, true)
	r.do(jute.OpCheckWatches, pathAndInt(p, jute.WatcherData))
	r.do(jute.OpRemoveWatches, pathAndInt(p, jute.WatcherData))
	r.set(p, "1")
	require.Empty(s, r.told())
	r.do(jute.OpCheckWatches, pathAndInt(p, jute.WatcherChildren))
	r.create(p+"/x", "", jute.FlagPersistent)
	require.Equal(s, []string{"children /a"}, r.told())
	r.get(p, true)
	r.children(p, true)
	r.do(jute.OpRemoveWatches, pathAndInt(p, jute.WatcherAny))
	r.set(p, "2")
	r.delete(p + "/x")
	require.Empty(s, r.told())
	r.fails(jute.MarshallingError, jute.OpRemoveWatches, pathAndInt(p, 9))
	r.fails(jute.MarshallingError, jute.OpCheckWatches, pathAndInt(p, 0))
}
