package people

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
)

func TestHashes(t *testing.T) {
	h := newHasher(Hashing{Memory: 8, Passes: 1, Threads: 1, AtOnce: 1})
	one, err := h.hash(t.Context(), "correct horse battery")
	require.NoError(t, err)
	other, err := h.hash(t.Context(), "correct horse battery")
	require.NoError(t, err)
	require.NotEqual(t, one, other, "each has its salt")
	same, old, err := h.compare(t.Context(), "correct horse battery", one)
	require.NoError(t, err)
	require.True(t, same)
	require.False(t, old)

	same, old, err = h.compare(t.Context(), "password", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4")
	require.NoError(t, err)
	require.True(t, same, "a test vector of the reference implementation")
	require.True(t, old)

	const key = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	for _, stored := range []string{
		"", "correct horse battery", "$argon2i" + one[len("$argon2id"):], "$argon2id$v=16" + one[len("$argon2id$v=19"):], one + "$", one[:len(one)-1] + "!",
		"$argon2id$v=19$m=8,t=0,p=1$c2FsdHNhbHQ$" + key, "$argon2id$v=19$m=8,t=1,p=0$c2FsdHNhbHQ$" + key,
		"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$", "$argon2id$v=19$m=8,t=1,p=1$$" + key,
	} {
		same, _, err := h.compare(t.Context(), "correct horse battery", stored)
		require.NoError(t, err)
		require.False(t, same, stored)
	}

	// The number at once is bounded, and the waiting for it by ctx.
	require.True(t, h.slots.TryAcquire(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = h.hash(ctx, "correct horse battery")
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = h.compare(ctx, "correct horse battery", one)
	require.ErrorIs(t, err, context.Canceled)
	h.slots.Release(1)
	_, err = h.hash(t.Context(), "correct horse battery")
	require.NoError(t, err)
}

// Who does not exist, has no password or can not be a user's name is looked at as long as who does: each login waits for
// its turn to compute a hash.
func TestLoginOfNobodyTakesTheSameWork(t *testing.T) {
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "turnout.db"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s := New(db, Options{Hashing: Hashing{Memory: 8, Passes: 1, Threads: 1, AtOnce: 1}, PerAddress: store.Rate{Burst: 1000, Every: time.Second}, PerName: store.Rate{Burst: 1000, Every: time.Second}})
	root := Principal{Name: "root", Role: Administrator, Scopes: Permissions(), Via: viaSession}
	for _, n := range []NewUser{{Name: "alice", Role: Viewer, Password: "correct horse battery"}, {Name: "invited", Role: Viewer}, {Name: "gone", Role: Viewer, Password: "correct horse battery"}} {
		_, _, err := s.CreateUser(t.Context(), root, n)
		require.NoError(t, err)
	}
	_, err = s.Disable(t.Context(), root, "gone", 0)
	require.NoError(t, err)
	require.True(t, s.hasher.slots.TryAcquire(1))
	defer s.hasher.slots.Release(1)
	for _, name := range []string{"alice", "invited", "gone", "nobody", "No Name"} {
		for limit := 20 * time.Millisecond; ; limit *= 2 { // what comes before the hash may take its time, too
			require.Less(t, limit, time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := s.Login(ctx, name, "wrong horse battery", "203.0.113.7", "")
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			if strings.Contains(err.Error(), "waiting for other passwords") {
				break
			}
		}
	}
}

func TestSecrets(t *testing.T) {
	seen := map[rune]int{}
	for range 200 {
		s := newSecret(tokenPrefix)
		require.True(t, wellFormed(tokenPrefix, s))
		require.False(t, wellFormed(oneTimePrefix, s))
		for i := range s[len(tokenPrefix):] {
			changed := []byte(s)
			at := len(tokenPrefix) + i
			changed[at] = map[bool]byte{true: 'b', false: 'a'}[changed[at] == 'a']
			require.False(t, wellFormed(tokenPrefix, string(changed)), "one letter is another one")
		}
		for _, r := range random(43) {
			seen[r]++
		}
	}
	require.Len(t, seen, 62, "all letters and digits")
}
