package testenv

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPortsAreNobodyElses(t *testing.T) {
	var a, b ports
	defer a.close()
	defer b.close()
	seen := map[int]bool{}
	for range 100 {
		for _, p := range []*ports{&a, &b} {
			first, err := p.take(3)
			require.NoError(t, err)
			for port := first; port < first+3; port++ {
				require.False(t, seen[port])
				require.Less(t, port, 32768, "the system gives higher ones to outgoing connections")
				seen[port] = true
			}
		}
	}
}

func TestPortsThatAreInUseAreLeftOut(t *testing.T) {
	var p ports
	defer p.close()
	first, err := p.take(1)
	require.NoError(t, err)
	l, err := listen(loopback(first + 2))
	if err != nil {
		require.ErrorIs(t, err, errPortTaken) // by somebody else: as good
	} else {
		defer l.Close()
	}
	next, err := p.take(3)
	require.NoError(t, err)
	require.Greater(t, next, first+2)
}
