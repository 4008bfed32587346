package metadata_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func withSnapshot(dir string) func(*metadata.Config) {
	return func(c *metadata.Config) { c.SnapshotDir, c.App = dir, "shop" }
}

// fill makes a snapshot in dir with /t on cluster a and the children of /p, and returns its file.
func fill(t *testing.T, connect, dir string) string {
	t.Helper()
	s, _ := open(t, connect, withSnapshot(dir))
	require.False(t, s.HasSnapshot())
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	require.NoError(t, s.Create(short(t), "/p/kid", nil))
	got, _ := follow(t, s, "/t")
	got.until(t, on("a"))
	var lists seenNames
	f := metadata.FollowChildren(s, "/p", lists.add)
	lists.until(t, "kid")
	f.Close()
	closeStore(t, s)
	return filepath.Join(dir, "turnout-shop.snapshot")
}

func TestStartFromTheSnapshot(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	file := fill(t, srv.ConnectString(), dir)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	srv.Stop()

	s, _ := open(t, srv.ConnectString(), withSnapshot(dir))
	require.True(t, s.HasSnapshot())
	got, _ := follow(t, s, "/t")
	u := got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Known })
	require.True(t, u.Stale)
	require.NoError(t, u.Err)
	require.Equal(t, "a", u.Value.Cluster)
	require.Zero(t, u.Node.Session)
	require.NotZero(t, u.Node.Mzxid)
	var lists seenNames
	f := metadata.FollowChildren(s, "/p", lists.add)
	defer f.Close()
	lists.until(t, "kid")
	none, _ := follow(t, s, "/none")

	require.NoError(t, srv.Restart())
	v := got.until(t, on("a"))
	require.Equal(t, u.Node.Mzxid, v.Node.Mzxid)
	require.Equal(t, s.Session().ID, v.Node.Session)
	none.until(t, failing(errs.ErrNotFound))
	require.NoError(t, s.Set(short(t), "/t", wish("b"), 0))
	got.until(t, on("b"))
	require.Eventually(t, func() bool { return holds(file, "/t", "/p") }, patience, moment)
}

// holds says whether the snapshot file has all these paths.
func holds(file string, paths ...string) bool {
	raw, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for _, p := range paths {
		if !bytes.Contains(raw, []byte(`"`+p+`"`)) {
			return false
		}
	}
	return true
}

func TestADamagedSnapshotIsSetAside(t *testing.T) {
	srv := serve(t)
	for name, damage := range map[string]func([]byte) []byte{
		"empty":             func([]byte) []byte { return nil },
		"cut":               func(b []byte) []byte { return b[:len(b)-7] },
		"one bit":           func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"something else":    func([]byte) []byte { return []byte("{}") },
		"a later version":   func(b []byte) []byte { return bytes.Replace(b, []byte("snapshot 1 "), []byte("snapshot 2 "), 1) },
		"checksum missing":  func(b []byte) []byte { return bytes.Replace(b, []byte("snapshot 1 "), []byte("snapshot "), 1) },
		"line without rest": func(b []byte) []byte { return b[:bytes.IndexByte(b, '\n')] },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := fill(t, srv.ConnectString()+"/"+strings.ReplaceAll(name, " ", ""), dir)
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			raw = damage(raw)
			require.NoError(t, os.WriteFile(file, raw, 0o600))

			s, logged := open(t, "127.0.0.1:1", withSnapshot(dir))
			require.False(t, s.HasSnapshot())
			require.Equal(t, 1, logged.FilterMessageSnippet("snapshot").Len())
			aside, err := filepath.Glob(file + ".damaged-*")
			require.NoError(t, err)
			require.Len(t, aside, 1)
			kept, err := os.ReadFile(aside[0])
			require.NoError(t, err)
			require.True(t, bytes.Equal(raw, kept))
			closeStore(t, s)

			s, logged = open(t, srv.ConnectString()+"/"+strings.ReplaceAll(name, " ", ""), withSnapshot(dir))
			got, _ := follow(t, s, "/t")
			got.until(t, on("a"))
			closeStore(t, s)
			require.True(t, holds(file, "/t"))
			require.Zero(t, logged.FilterMessageSnippet("snapshot").Len())
		})
	}
}

func TestProcessesOfAnApplicationShareTheSnapshot(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	file := filepath.Join(dir, "turnout-shop.snapshot")
	admin, _ := open(t, srv.ConnectString())
	paths := []string{"/t0", "/t1", "/t2", "/t3"}
	for _, p := range paths {
		require.NoError(t, admin.Create(short(t), p, wish("a")))
	}
	var stores []*metadata.Store
	for _, p := range paths {
		s, logged := open(t, srv.ConnectString(), withSnapshot(dir))
		stores = append(stores, s)
		got, _ := follow(t, s, p)
		got.until(t, on("a"))
		require.Zero(t, logged.FilterMessageSnippet("snapshot").Len())
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // whoever reads at any moment finds a whole file
		for {
			select {
			case <-stop:
				return
			default:
			}
			reader, logged := open(t, "127.0.0.1:1", withSnapshot(dir))
			if logged.FilterMessageSnippet("snapshot").Len() != 0 {
				t.Error("the snapshot was damaged")
			}
			closeStore(t, reader)
		}
	})
	for i := range 5 {
		for _, p := range paths {
			require.NoError(t, admin.Set(short(t), p, wish("b"+string(rune('0'+i))), metadata.AnyVersion))
		}
	}
	for _, s := range stores {
		wg.Go(func() { closeStore(t, s) })
	}
	require.Eventually(t, func() bool { return holds(file, paths...) }, patience, moment)
	close(stop)
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestASnapshotOfAnotherEnsembleStaysInForce(t *testing.T) {
	one, other, dir := serve(t), serve(t), t.TempDir()
	ensembleAt(t, one, "one")
	ensembleAt(t, other, "other")
	fill(t, one.ConnectString(), dir)
	p := person(t, other.ConnectString())
	_, err := p.Create("/t", wish("b"), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)

	s, logged := open(t, other.ConnectString(), withSnapshot(dir), func(c *metadata.Config) { c.Recheck = 200 * time.Millisecond })
	got, _ := follow(t, s, "/t")
	u := got.until(t, failing(errs.ErrConflict))
	require.Equal(t, "a", u.Value.Cluster)
	require.True(t, u.Stale)
	require.Equal(t, 1, logged.FilterMessageSnippet("another ZooKeeper ensemble").Len())
	ensembleAt(t, other, "other", "one")
	got.until(t, on("b"))
	closeStore(t, s)

	s, _ = open(t, other.ConnectString(), withSnapshot(dir))
	got, _ = follow(t, s, "/t")
	got.until(t, on("b"))
}

func TestAWipedZooKeeperIsNotTakenForTheOldOne(t *testing.T) {
	one, empty, dir := serve(t), serve(t), t.TempDir()
	fill(t, one.ConnectString(), dir)
	s, _ := open(t, empty.ConnectString(), withSnapshot(dir))
	got, _ := follow(t, s, "/t")
	u := got.until(t, failing(errs.ErrConflict))
	require.Equal(t, "a", u.Value.Cluster)
	n, err := s.Read(short(t), s.EnsemblePath())
	require.NoError(t, err)
	require.False(t, n.Exists, "whoever restores decides which ensemble it is")
}

func TestASnapshotThatCanNotBeWrittenIsSaidOnce(t *testing.T) {
	srv := serve(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	s, logged := open(t, srv.ConnectString(), withSnapshot(filepath.Join(file, "dir")))
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	got, _ := follow(t, s, "/t")
	got.until(t, on("a"))
	require.Eventually(t, func() bool { return logged.FilterMessageSnippet("can not be written").Len() == 1 }, patience, moment)
	require.NoError(t, s.Set(short(t), "/t", wish("b"), 0))
	got.until(t, on("b"))
	closeStore(t, s)
	require.Equal(t, 1, logged.FilterMessageSnippet("can not be written").Len())
}
