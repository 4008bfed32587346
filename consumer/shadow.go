package consumer

import (
	"context"
	"errors"
	"sync"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// derivation tells a shadow subscription of the group that is derived from a production group and the settings of its
// topics, at each change of one of them.
type derivation struct {
	s    *Subscription
	base *metadata.Follower

	mu       sync.Mutex
	group    metadata.Update[metadata.Group]
	settings map[string]*topicSettings // topics that the group has had
	closed   bool
}

type topicSettings struct {
	follower *metadata.Follower
	heard    bool
	value    metadata.TopicSettings
	err      error // there are settings, and no good ones are known
}

func deriveShadow(s *Subscription) *derivation {
	d := &derivation{s: s, settings: map[string]*topicSettings{}}
	d.base = metadata.Follow(s.c.store, s.c.store.GroupPath(s.shown), metadata.ParseGroup, func(u metadata.Update[metadata.Group]) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.group = u
		d.follow()
		d.tell()
	})
	return d
}

// follow follows the settings of every topic of the group. d.mu is held.
func (d *derivation) follow() {
	for _, topic := range d.group.Value.Topics {
		if d.settings[topic] != nil || d.closed {
			continue
		}
		t := &topicSettings{}
		d.settings[topic] = t
		t.follower = metadata.Follow(d.s.c.store, d.s.c.store.SettingsPath(topic), metadata.ParseTopicSettings, func(u metadata.Update[metadata.TopicSettings]) {
			d.mu.Lock()
			defer d.mu.Unlock()
			t.heard, t.value, t.err = true, u.Value, nil
			if !u.Known {
				t.value = metadata.DefaultTopicSettings()
				if !errors.Is(u.Err, errs.ErrNotFound) {
					t.err = u.Err
				}
			}
			d.tell()
		})
	}
}

// tell gives the subscription what is known. Where there is nothing to read it is given a group without topics, for the last
// good one must not be read on. d.mu is held.
func (d *derivation) tell() {
	if d.closed { // the settings of a topic may not be followed any more
		return
	}
	u := d.group
	if !u.Known {
		d.s.learn(u)
		return
	}
	var problems []error
	for _, topic := range u.Value.Topics {
		t := d.settings[topic]
		if !t.heard {
			return // soon
		}
		problems = append(problems, t.err)
	}
	derived, err := u.Value.ShadowGroup(func(topic string) metadata.TopicSettings { return d.settings[topic].value })
	if err := errors.Join(append(problems, err)...); err != nil {
		u.Err, derived.Topics = errors.Join(u.Err, err), nil
	}
	u.Value = derived.Group
	d.s.of.Store(&derived.Of)
	d.s.learn(u)
}

// Refresh reads the group's settings now.
func (d *derivation) Refresh(ctx context.Context) (int64, error) { return d.base.Refresh(ctx) }

// Close ends it.
func (d *derivation) Close() {
	d.mu.Lock()
	d.closed = true
	all := []*metadata.Follower{d.base}
	for _, t := range d.settings {
		all = append(all, t.follower)
	}
	d.mu.Unlock()
	for _, f := range all {
		f.Close()
	}
}

// shownTopic is what a Delivery says of the topic that is read.
func (s *Subscription) shownTopic(topic string) string {
	if of := s.of.Load(); of != nil && (*of)[topic] != "" {
		return (*of)[topic]
	}
	return topic
}
