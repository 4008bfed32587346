package rocketmq

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// numbers are the settings of a topic on one broker that a fence takes away and Unfence gives back.
type numbers struct {
	Read  int `json:"read"`
	Write int `json:"write"`
	Perm  int `json:"perm"`
}

// restoreText is TopicInfo.Restore: numbers by broker name, as JSON.
func restoreText(of map[string]numbers) (string, error) {
	if len(of) == 0 {
		return "", nil
	}
	data, err := json.Marshal(of)
	return string(data), err
}

// everyBroker is no broker: each gets its numbers as one that came later.
const everyBroker = "*"

// Restore is what opens a topic that was closed by somebody who did not keep its queue numbers: so many on each broker.
func Restore(queues int) (string, error) {
	return restoreText(map[string]numbers{everyBroker: {Read: queues, Write: queues, Perm: readWrite}})
}

func parseRestore(text string) (map[string]numbers, error) {
	var of map[string]numbers
	if err := json.Unmarshal([]byte(text), &of); err != nil || len(of) == 0 {
		return nil, invalid("restore %q: must be the queue numbers of each broker, as TopicInfo.Restore was before the fence", text)
	}
	for name, n := range of {
		if n.Read < 1 || n.Write < 1 || n.Perm&readWrite != readWrite {
			return nil, invalid("restore %q: broker %q would have no queue to read or to write", text, name)
		}
	}
	return of, nil
}

// Fence implements broker.Mover: both queue numbers become 0 on every master, one after the other. A broker takes a
// message for every queue below the larger of the two, whatever the topic's permission is, so nothing less refuses one; and
// gives none of a topic without queues to read.
func (c *Cluster) Fence(ctx context.Context, topic string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("fence topic "+topic, c.onEach(ctx, topic, func(name, addr string, t *remoting.TopicConfig) error {
		if t.ReadQueues == 0 && t.WriteQueues == 0 {
			return nil
		}
		t.ReadQueues, t.WriteQueues = 0, 0
		return c.update(ctx, addr, *t)
	}))
}

// Fenced implements broker.Mover.
func (c *Cluster) Fenced(ctx context.Context, topic string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("fence of topic "+topic, c.onEach(ctx, topic, func(name, _ string, t *remoting.TopicConfig) error {
		if t.ReadQueues > 0 || t.WriteQueues > 0 {
			return fmt.Errorf("%w: it has %d queues to read and %d to write, and takes messages", errs.ErrConflict, t.ReadQueues, t.WriteQueues)
		}
		return nil
	}))
}

// onEach calls f for the master of every broker that has topic, with what the broker itself says of it.
func (c *Cluster) onEach(ctx context.Context, topic string, f func(name, addr string, t *remoting.TopicConfig) error) error {
	r, err := c.routes.complete(ctx, topic)
	if err != nil {
		return err
	}
	for _, name := range r.brokers() {
		t, err := c.topicConfig(ctx, r.masters[name], topic)
		if err == nil {
			err = f(name, r.masters[name], t)
		}
		if err != nil {
			return fmt.Errorf("broker %q: %w", name, err)
		}
	}
	return nil
}

// Unfence implements broker.Mover. It also waits until the name server shows the queues, and this process's own route with
// them: whoever looks the topic up then can write.
func (c *Cluster) Unfence(ctx context.Context, topic, restore string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("unfence topic "+topic, c.unfence(ctx, topic, restore))
}

// widest are the numbers of the broker that has most queues to write.
func widest(of map[string]numbers) (n numbers) {
	for _, one := range of {
		if one.Write > n.Write {
			n = one
		}
	}
	return n
}

func (c *Cluster) unfence(ctx context.Context, topic, restore string) error {
	if _, err := c.routes.complete(ctx, topic); err != nil {
		return err
	}
	want, err := parseRestore(restore)
	if err != nil {
		return err
	}
	var missing []string // brokers whose queues the name server does not show, though they were told
	tell := func() error {
		return c.onEach(ctx, topic, func(name, addr string, t *remoting.TopicConfig) error {
			n, known := want[name]
			if !known && t.ReadQueues == 0 && t.WriteQueues == 0 { // it came later, and was closed with the others
				n, known = widest(want), true
				want[name] = n
			}
			as := t.ReadQueues == n.Read && t.WriteQueues == n.Write && t.Perm == n.Perm
			if !known || as && !slices.Contains(missing, name) {
				return nil // one that came later and is open has what it was given
			}
			t.ReadQueues, t.WriteQueues, t.Perm = n.Read, n.Write, n.Perm
			if as {
				return c.tellAgain(ctx, addr, *t)
			}
			return c.update(ctx, addr, *t)
		})
	}
	if err := tell(); err != nil {
		return err
	}
	delete(want, everyBroker)
	for polls := 1; ; polls++ {
		r, err := c.routes.get(ctx, topic, 0)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(name string) bool {
			return r.masters[name] == "" || countOf(r.writable, name) >= want[name].Write
		})
		if len(missing) == 0 {
			return nil
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return fmt.Errorf("the name server does not show the queues of broker %q yet: %w", missing[0], err)
		}
		if polls%pollsToTell == 0 {
			if err := tell(); err != nil {
				return err
			}
		}
	}
}
