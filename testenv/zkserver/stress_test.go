package zkserver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver"
	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

// Writers count up a node each while everything goes wrong around them. What was
// acknowledged stays, and a write whose answer was lost was done once or never.
func TestNothingAcknowledgedIsLostUnderFaults(t *testing.T) {
	const writers, counts = 6, 60
	s := start(t, zkserver.Options{Ports: []int{0, 0}})
	addrs := s.Addrs()
	acked := make(chan struct{}, writers*counts)
	errs := make(chan error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { errs <- countUp(addrs[w%2], fmt.Sprint("/n", w), counts, acked) })
	}
	go func() { wg.Wait(); close(acked) }()
	n := 0
	for range acked { // the faults keep pace with the writers
		if n++; n%5 != 0 {
			continue
		}
		switch n / 5 % 7 {
		case 0:
			s.DropConnections()
		case 1:
			s.DropAnswers("/n"+strconv.Itoa(rand.IntN(writers)), 2)
		case 2:
			s.Freeze()
			s.ForgetWatches()
			s.Thaw()
		case 3:
			for _, i := range s.Sessions() {
				_ = s.ExpireSession(i.ID) // it may have ended by itself
			}
		case 4:
			s.Delay(time.Duration(rand.IntN(3)) * time.Millisecond)
		case 5:
			s.RefuseConnections(true)
			s.RefuseConnections(false)
		case 6:
			require.NoError(t, s.Restart())
		}
	}
	require.NoError(t, s.Restart()) // without faults
	for range writers {
		require.NoError(t, <-errs)
	}
	c := dial(t, s, rawzk.Options{})
	for w := range writers {
		require.Equal(t, strconv.Itoa(counts), data(t, c, fmt.Sprint("/n", w)))
	}
}

// countUp sets a node to 1, 2, … n, each with the version it expects, across lost
// connections and sessions. A version that is not as expected is an error unless
// the write before was left without an answer.
func countUp(addr, path string, n int, acked chan<- struct{}) error {
	deadline := time.Now().Add(6 * patience)
	var c *rawzk.Client
	unsure := false
	for v := 0; v < n; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: at %d of %d", path, v, n)
		}
		if c == nil {
			var err error
			if c, err = rawzk.Dial(context.Background(), addr, rawzk.Options{Patience: time.Second}); err != nil {
				c = nil
				continue
			}
		}
		_, err := c.Call(jute.OpCreate, create(path, 0))
		if err == nil || errors.Is(err, jute.NodeExists) {
			_, err = c.Call(jute.OpSetData, new(jute.Encoder).Ustring(path).Buffer([]byte(strconv.Itoa(v+1))).Int32(int32(v)))
			switch {
			case err == nil, unsure && errors.Is(err, jute.BadVersion):
				unsure = false
				v++
				acked <- struct{}{}
				continue
			case errors.Is(err, jute.BadVersion):
				return fmt.Errorf("%s: version %d is not there, though it was acknowledged", path, v)
			}
			unsure = true
		}
		c.Abandon()
		c = nil
	}
	c.Abandon()
	return nil
}
