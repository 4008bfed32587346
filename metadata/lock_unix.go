//go:build unix && !solaris && !aix

package metadata

import (
	"os"
	"syscall"
	"time"
)

// lockFile keeps other processes of the application from writing the snapshot in the same moment, when the additions of
// one would be lost until its next write. It waits for a second at most: the holder may be a stopped process, and the file
// stays whole without the lock.
func lockFile(name string) (unlock func()) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return func() {}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			break
		}
		<-tick.C
	}
	return func() { _ = f.Close() } // closing unlocks
}
