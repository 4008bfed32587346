package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	lib "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq"
)

// Each consumer runs in a process of its own, this test binary again: what it leaves behind and its races are its own, and
// it can be killed.

const consumptionChild = "TURNOUT_CONSUMPTION_CHILD"

// The two consumers.
const (
	theLibrary = "library"
	ours       = "ours"
)

// consumption is what such a process does.
type consumption struct {
	Kind         string
	NameServers  []string
	Cluster      string
	Group, Topic string
	Start        map[string]int64 // by queue; the library can not be told
	Since        string           // the library's nearest to it: a second
	End          map[string]int64 // by queue
	Ordered      bool
	Gate         bool // listeners wait for the command "open"
	Cycles       int  // begin, handle one message and stop, so often, each time as another group
}

// said is one line of what it says.
type said struct {
	What       string // ready, begun, done, beyond, stopped, count
	At         time.Time
	Queue      string
	Offset     int64
	Goroutines int
	Files      int
	Error      string
}

// teller writes lines, which several goroutines do.
type teller struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (t *teller) tell(s said) {
	s.At = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.out.Encode(s); err != nil {
		panic(err)
	}
}

// consumeAsChild follows commands until its input ends.
func consumeAsChild(text string) {
	var c consumption
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	say := &teller{out: json.NewEncoder(os.Stdout)}
	count := func() {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			panic(err)
		}
		say.tell(said{What: "count", Goroutines: runtime.NumGoroutine(), Files: len(files)})
	}
	gate := make(chan struct{})
	if !c.Gate {
		close(gate)
	}
	commands := make(chan string)
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	if c.Cycles > 0 {
		count()
		for i := range c.Cycles {
			one := c
			one.Group = fmt.Sprintf("%s_%d", c.Group, i)
			handled := make(chan struct{}, 1)
			stop := one.begin(func(s said) {
				if s.What == "done" {
					select {
					case handled <- struct{}{}:
					default:
					}
				}
			}, gate)
			<-handled
			stop()
		}
	} else {
		stop := c.begin(say.tell, gate)
		defer stop()
		for command := range commands {
			switch command {
			case "open":
				close(gate)
			case "stop":
				go func() {
					stop()
					say.tell(said{What: "stopped"})
				}()
			}
		}
		return
	}
	for range commands { // each asks to count
		count()
	}
}

// begin starts the consumer. tell is told of each message, and when the consumer says that it is ready.
func (c consumption) begin(tell func(said), gate <-chan struct{}) (stop func()) {
	if c.Kind == theLibrary {
		return c.beginLibrary(tell, gate)
	}
	return c.beginOurs(tell, gate)
}

func (c consumption) beginLibrary(tell func(said), gate <-chan struct{}) (stop func()) {
	options := []consumer.Option{consumer.WithNameServer(c.NameServers), consumer.WithGroupName(c.Group), consumer.WithInstance(fmt.Sprintf("%s-%d", c.Group, os.Getpid())),
		consumer.WithConsumerOrder(c.Ordered), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset)}
	if c.Since != "" {
		options = append(options, consumer.WithConsumeFromWhere(consumer.ConsumeFromTimestamp), consumer.WithConsumeTimestamp(c.Since))
	}
	p, err := lib.NewPushConsumer(options...)
	if err != nil {
		panic(err)
	}
	err = p.Subscribe(c.Topic, consumer.MessageSelector{}, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range messages { // one, by the library's default
			s := said{Queue: fmt.Sprintf("%s:%d", m.Queue.BrokerName, m.Queue.QueueId), Offset: m.QueueOffset}
			if end, bounded := c.End[s.Queue]; bounded && s.Offset >= end {
				s.What = "beyond"
				tell(s)
				return consumer.SuspendCurrentQueueAMoment, nil
			}
			s.What = "begun"
			tell(s)
			<-gate
			s.What = "done"
			tell(s)
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		panic(err)
	}
	started := said{What: "ready"}
	if err := p.Start(); err != nil {
		started = said{What: "failed", Error: err.Error()}
	}
	tell(started)
	return func() { _ = p.Shutdown() } // always nil
}

func (c consumption) beginOurs(tell func(said), gate <-chan struct{}) (stop func()) {
	ctx := context.Background()
	cluster, err := rocketmq.Open(ctx, broker.Config{Name: c.Cluster, Kind: broker.RocketMQ, Addresses: c.NameServers, ClientID: fmt.Sprintf("%s-%d", c.Group, os.Getpid())})
	if err != nil {
		panic(err)
	}
	changed := make(chan struct{}, 1)
	member, err := cluster.Join(ctx, broker.Membership{Group: c.Group, Topic: c.Topic, Retries: true, Exclusive: c.Ordered,
		Start: func() broker.Offsets { return c.Start },
		Claim: func(ctx context.Context, claim broker.Claim) { c.handle(claim, tell, gate) },
		Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}})
	if err != nil {
		panic(err)
	}
	var watching sync.WaitGroup
	over := make(chan struct{})
	watching.Go(func() {
		for !member.State().Attached {
			select {
			case <-changed:
			case <-over:
				return
			}
		}
		tell(said{What: "ready"})
	})
	return sync.OnceFunc(func() {
		if err := member.Leave(ctx); err != nil {
			panic(err)
		}
		close(over)
		watching.Wait()
		if err := cluster.Close(ctx); err != nil {
			panic(err)
		}
	})
}

// handle is the listener of one queue.
func (c consumption) handle(claim broker.Claim, tell func(said), gate <-chan struct{}) {
	end, bounded := c.End[claim.Partition()]
	bounded = bounded && !claim.Retry()
	if bounded && end <= c.Start[claim.Partition()] {
		return
	}
	one := make([]broker.Delivery, 1)
	for claim.Take(one) > 0 {
		s := said{Queue: one[0].Partition, Offset: one[0].Offset}
		if bounded && s.Offset >= end {
			return
		}
		s.What = "begun"
		tell(s)
		<-gate
		s.What = "done"
		tell(s)
		claim.Commit(s.Offset + 1)
		if bounded && s.Offset+1 >= end {
			return
		}
	}
}
