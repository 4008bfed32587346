package scene

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Status is what a process uses at one moment.
type Status struct {
	// Goroutines counts them by the function that they began with; of helpers like WaitGroup.Go, by the function that
	// those run.
	Goroutines map[string]int `json:"goroutines"`
	Sockets    int            `json:"sockets"` // open ones
	Heap       uint64         `json:"heap"`    // bytes in use after a garbage collection
}

// statusPrefix begins the line that a process answers SIGUSR1 with.
const statusPrefix = "status "

// Status asks the process, which is Ready, what it uses. An error: ctx ended first, or the process did.
func (p *Process) Status(ctx context.Context) (Status, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	select { // an answer that came too late for the question before
	case <-p.status:
	default:
	}
	if err := p.signal(syscall.SIGUSR1); err != nil {
		return Status{}, err
	}
	select {
	case text := <-p.status:
		var s Status
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return s, fmt.Errorf("scene: %s: status: %w", p.spec.Name, err)
		}
		return s, nil
	case <-p.done:
		return Status{}, fmt.Errorf("scene: %s: status: %w", p.spec.Name, errEnded)
	case <-ctx.Done():
		return Status{}, fmt.Errorf("scene: %s does not answer: %w", p.spec.Name, ctx.Err())
	}
}

// answerStatus writes the Status to out for every SIGUSR1, until ctx ends.
func answerStatus(ctx context.Context, out io.Writer) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		defer signal.Stop(asked)
		for {
			select {
			case <-ctx.Done():
				return
			case <-asked:
				fmt.Fprintf(out, "%s%s\n", statusPrefix, mustJSON(statusNow()))
			}
		}
	}()
}

func statusNow() Status {
	var m runtime.MemStats
	for range 2 { // what pools hold goes with the second one
		runtime.GC() //nolint:revive // what is in use is what is left after it
	}
	runtime.ReadMemStats(&m)
	return Status{Goroutines: goroutines(stacks()), Sockets: sockets(), Heap: m.HeapAlloc}
}

// stacks are those of all goroutines.
func stacks() string {
	for size := 1 << 20; ; size *= 2 {
		b := make([]byte, size)
		if n := runtime.Stack(b, true); n < size {
			return string(b[:n])
		}
	}
}

// helpers run a function that is given to them in a goroutine.
var helpers = []string{
	"sync.(*WaitGroup).Go.", "golang.org/x/sync/errgroup.(*Group).Go.",
	"github.com/IBM/sarama.withRecover(", "github.com/apache/rocketmq-client-go/v2/primitive.WithRecover(",
}

func goroutines(stacks string) map[string]int {
	count := map[string]int{}
	for one := range strings.SplitSeq(strings.TrimSpace(stacks), "\n\n") {
		first := ""
		for line := range strings.Lines(one) {
			line = strings.TrimSpace(line)
			i := strings.LastIndexByte(line, '(')
			if i <= 0 || strings.HasPrefix(line, "goroutine ") || strings.HasPrefix(line, "created by ") || isHelper(line) {
				continue
			}
			if _, _, place := strings.Cut(line, ".go:"); !place {
				first = line[:i] // the stack's bottom comes last
			}
		}
		count[first]++
	}
	return count
}

func isHelper(function string) bool {
	for _, h := range helpers {
		if strings.HasPrefix(function, h) {
			return true
		}
	}
	return false
}

// sockets counts the open sockets of this process.
func sockets() int {
	files, err := os.ReadDir("/dev/fd")
	if err != nil {
		return -1
	}
	n := 0
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		var stat syscall.Stat_t
		if syscall.Fstat(fd, &stat) == nil && stat.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			n++
		}
	}
	return n
}
