package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports come from below the ranges that systems take the ports of outgoing connections from (Linux from
// 32768, others from 49152), so a server that is down keeps its port: nobody is given it by chance.
const (
	firstPort = 16000
	blockSize = 128
	blocks    = 120
)

// ports hands out free loopback ports. A block of ports belongs to one environment at a time, also between
// processes: its lock file is locked while the environment lives, and the kernel unlocks it when the process
// dies in whatever way.
type ports struct {
	mu    sync.Mutex
	locks []*os.File
	next  int // next port of the newest block
	end   int
}

// take returns the first of n neighbouring ports that nobody listens on.
func (p *ports) take(n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for ; p.next+n <= p.end; p.next++ {
			if free(p.next, n) {
				first := p.next
				p.next += n
				return first, nil
			}
		}
		if err := p.lockBlock(); err != nil {
			return 0, err
		}
	}
}

func (p *ports) lockBlock() error {
	dir := filepath.Join(os.TempDir(), "turnout-testenv-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("testenv: folder of the port locks: %w", err)
	}
	for b := range blocks {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("ports-%03d", b)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("testenv: lock of a block of ports: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			continue
		}
		p.locks = append(p.locks, f)
		p.next = firstPort + b*blockSize
		p.end = p.next + blockSize
		return nil
	}
	return fmt.Errorf("testenv: all %d blocks of ports from %d on are in use by other environments; end some test runs", blocks, firstPort)
}

func (p *ports) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, f := range p.locks {
		errs = append(errs, f.Close())
	}
	p.locks, p.next, p.end = nil, 0, 0
	return errors.Join(errs...)
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := listen(loopback(port))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// errPortTaken is wrapped by the error of a server that could not bind its port.
var errPortTaken = errors.New("port is in use")

// listen listens on a port that take returned. Its error wraps errPortTaken if somebody else was faster.
func listen(addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return l, err
}

func loopback(port int) string { return address("127.0.0.1", port) }

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
