package metadata_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/metadata"
)

// The values are in docs/protocol.md: programs that are not written in Go count by them.
func TestKeyHash(t *testing.T) {
	for key, want := range map[string]int{"": 7385, "a": 52512, "order-1": 58898, "order-42": 4560, "2026-11-22": 64687, "schlüssel": 8028, "\x00\xff": 5591} {
		got := metadata.KeyHash([]byte(key))
		require.Equal(t, want, got, "%q", key)
	}
	var in int
	for i := range 10_000 {
		if metadata.InRange([]int{0, 6553}, fmt.Appendf(nil, "key-%d", i)) {
			in++
		}
	}
	require.InDelta(t, 1000, in, 100, "a tenth of the hashes is a tenth of the keys")
	require.False(t, metadata.InRange([]int{0, 65535}, nil), "without a key")
	require.False(t, metadata.InRange(nil, []byte("a")))
}

func TestCanaryOfARoute(t *testing.T) {
	r := metadata.Route{V: 1, Write: "a", Order: metadata.OrderNone, Stays: []metadata.Stay{{Cluster: "a"}, {Cluster: "b"}},
		Canary: &metadata.Canary{Write: "b", Instances: []string{"i-1"}}, Hold: &metadata.Hold{MS: 1, Keys: []int{0, 65535}}}
	require.NoError(t, r.Validate())
	require.Equal(t, "b", r.WriteOf("i-1"))
	require.Equal(t, "a", r.WriteOf("i-2"))
	require.True(t, r.Writes("a") && r.Writes("b"))
	require.False(t, r.Writes("c"))
	require.True(t, r.Hold.Pauses([]byte("k")))
	require.False(t, r.Hold.Pauses(nil), "it has no key")
	r.Hold.Keys = nil
	require.True(t, r.Hold.Pauses(nil))

	same := r.Clone()
	same.Canary.Instances[0], same.Hold.MS = "i-9", 7
	require.Equal(t, []string{"i-1"}, r.Canary.Instances)
	require.EqualValues(t, 1, r.Hold.MS)
	for _, write := range []string{"a", "c"} {
		r.Canary.Write = write
		require.ErrorContains(t, r.Validate(), `canary.write "`+write+`"`)
	}
}
