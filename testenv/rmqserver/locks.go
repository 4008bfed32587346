package rmqserver

// Queue locks of ordered consumers: 41 lock, 42 unlock. They are gone with Stop.

import (
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// lockTime is how long a lock lasts after it was last asked for.
const lockTime = time.Minute

type lockKey struct {
	group string
	queue remoting.Queue
}

type lock struct {
	client string
	at     time.Time
}

func (b *Broker) lockQueues(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var ask remoting.LockRequest
	if err := read(r, &ask); err != nil {
		return nil, err
	}
	got := []remoting.Queue{}
	for _, q := range ask.Queues {
		key := lockKey{ask.Group, q}
		if l, held := b.locks[key]; held && l.client != ask.ClientID && time.Since(l.at) <= lockTime {
			continue
		}
		b.locks[key] = lock{ask.ClientID, time.Now()}
		got = append(got, q)
	}
	return body(r, map[string]any{"lockOKMQSet": got})
}

func (b *Broker) unlockQueues(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var ask remoting.LockRequest
	if err := read(r, &ask); err != nil {
		return nil, err
	}
	for _, q := range ask.Queues {
		if key := (lockKey{ask.Group, q}); b.locks[key].client == ask.ClientID {
			delete(b.locks, key)
		}
	}
	return ok(r)
}

// locked says whether a member of group holds a queue.
func (b *Broker) locked(group string) bool {
	for key, l := range b.locks {
		if key.group == group && time.Since(l.at) <= lockTime {
			return true
		}
	}
	return false
}
