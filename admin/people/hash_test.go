package people

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
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
