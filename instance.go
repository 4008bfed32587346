package turnout

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/metadata"
)

// instance keeps apps/{app}/instances/{id} registered over sessions.
type instance struct {
	reg    *metadata.Registration
	log    *zap.Logger
	stop   func()
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{}

	mu  sync.Mutex
	doc metadata.Instance
}

func register(store *metadata.Store, app, id string, log *zap.Logger) *instance {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	doc := metadata.Instance{V: 1, Host: host, PID: os.Getpid(), Started: time.Now().UTC().Truncate(time.Second), SDK: Version}
	i := &instance{reg: store.Register(store.InstancePath(app, id)), doc: doc, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	i.stop = store.OnSession(func(s metadata.Session) {
		if s.Connected {
			i.kick()
		}
	})
	i.kick()
	go i.run(store)
	return i
}

func (i *instance) kick() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// sayShadow has the node say how far the shadow groups are.
func (i *instance) sayShadow(reports map[string]metadata.ShadowReport) {
	i.mu.Lock()
	i.doc.Shadow = reports
	if len(reports) == 0 {
		i.doc.Shadow = nil
	}
	i.mu.Unlock()
	i.kick()
}

// document is what the node says. What would make it too long is left out: first the reasons, then the shadow groups.
func (i *instance) document() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	doc := i.doc
	for cut := 0; ; cut++ {
		data, err := json.Marshal(doc)
		if err != nil {
			panic("an instance is always JSON: " + err.Error())
		}
		if len(data) <= metadata.MaxDocument {
			return data
		}
		i.log.Warn("the instance node can not say all of the shadow groups", zap.Int("bytes", len(data)))
		switch cut {
		case 0:
			doc.Shadow = maps.Clone(doc.Shadow)
			for group, r := range doc.Shadow {
				r.Reason = ""
				doc.Shadow[group] = r
			}
		default:
			doc.Shadow = nil
		}
	}
}

func (i *instance) run(store *metadata.Store) {
	defer close(i.done)
	for {
		var again <-chan time.Time
		if store.Session().Connected {
			ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
			if _, err := i.reg.Ensure(ctx, i.document()); err != nil && i.ctx.Err() == nil {
				i.log.Debug("instance not registered yet", zap.Error(err))
				again = time.After(200 * time.Millisecond)
			}
			cancel()
		}
		select {
		case <-i.ctx.Done():
			return
		case <-i.wake:
		case <-again:
		}
	}
}

// close ends it. The node goes with the session, which is closed next.
func (i *instance) close(ctx context.Context) error {
	i.stop()
	i.cancel()
	select {
	case <-i.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
