// Package lag tells what a consumer group has not finished of a topic on a cluster. Members that leave a cluster and whoever
// moves a topic decide by the same count.
package lag

import (
	"context"
	"errors"
	"maps"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Lag is what a group has not finished.
type Lag struct {
	// Positions are where the group is: what it has committed, else where it begins; not before the first message that is
	// still there, and past what no member is ever given, if that was looked for.
	Positions broker.Offsets `json:"positions"`
	Ends      broker.Offsets `json:"ends"`
	Unread    int64          `json:"unread"` // offsets between the two
	// Expired are offsets that the cluster has deleted before the group has read them; they do not count as unread.
	Expired int64          `json:"expired,omitempty"`
	Pending broker.Pending `json:"pending"`
	// NoTopic: the cluster does not have the topic, so there is nothing to read.
	NoTopic bool `json:"noTopic,omitempty"`

	committed broker.Offsets
}

// peek is how many messages are asked for to see whether there is one.
const peek = 1

// Of counts in the order in which messages move (R14), with the end offsets last (R10). start is where the group begins in
// partitions without a position (R12). before is an earlier Lag of the same group, or nil: if the group has not moved since
// then and is not at the end, the tail is read, because a partition may end in what is no message (markers of
// transactions, offsets that compaction has emptied).
func Of(ctx context.Context, c broker.Cluster, topic, group string, start broker.Offsets, before *Lag) (*Lag, error) {
	positions, err := c.Positions(ctx, group, topic)
	if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
		return nil, err
	}
	l := &Lag{committed: positions}
	if l.Pending, err = c.Pending(ctx, group, topic); err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
		return nil, err
	}
	first, err := c.StartOffsets(ctx, topic)
	if err == nil {
		l.Ends, err = c.EndOffsets(ctx, topic)
	}
	l.NoTopic = errors.Is(err, errs.ErrUnknownTopic)
	if err != nil && !l.NoTopic {
		return nil, err
	}
	if l.Positions = start.Clone(); l.Positions == nil {
		l.Positions = broker.Offsets{}
	}
	maps.Copy(l.Positions, positions)
	for name, offset := range first {
		if at, known := l.Positions[name]; known && at < offset {
			l.Expired += offset - at
		}
		l.Positions[name] = max(l.Positions[name], offset)
	}
	l.Unread = l.Positions.Missing(l.Ends)
	if l.Unread > 0 && before != nil && maps.Equal(before.committed, l.committed) {
		if err := l.skipEmpty(ctx, c, topic); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// skipEmpty moves positions past what is no message.
func (l *Lag) skipEmpty(ctx context.Context, c broker.Cluster, topic string) error {
	for _, name := range l.Ends.Names() {
		for l.Positions[name] < l.Ends[name] {
			messages, next, err := c.Peek(ctx, topic, name, l.Positions[name], peek)
			if errors.Is(err, errs.ErrUnsupported) || errors.Is(err, errs.ErrNotAllowed) {
				return nil // what can not be looked at counts
			}
			if err != nil {
				return err
			}
			if len(messages) > 0 {
				next = messages[0].Offset
			}
			moved := next > l.Positions[name]
			l.Positions[name] = max(l.Positions[name], next)
			if len(messages) > 0 || !moved {
				break
			}
		}
	}
	l.Unread = l.Positions.Missing(l.Ends)
	return nil
}

// Beside counts what is not finished and not in the topic itself.
func (l *Lag) Beside() int64 { return l.Pending.Delayed + l.Pending.Retries }

// Finished says whether everything before seal is finished; with a nil seal, everything that there was.
func (l *Lag) Finished(seal broker.Offsets) bool {
	if l.NoTopic {
		return true
	}
	if seal == nil {
		return l.Unread == 0 && l.Beside() == 0
	}
	return l.Beside() == 0 && l.Positions.Reached(seal)
}
