package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// scene is what the metadata says of a topic in one moment.
type scene struct {
	metadata.Topic
	participants []metadata.ParticipantEntry
	groups       []metadata.Group // that read the topic, shadow groups too; where they were asked for
	badWish      error            // why the wish can not be read; nil: it can
}

// look reads the topic and its participants, through the leader of the ensemble (R5).
func (c *Controller) look(ctx context.Context, topic string) (*scene, error) {
	if err := c.meta.Sync(ctx, c.meta.TopicPath(topic)); err != nil {
		return nil, err
	}
	s := &scene{}
	var err error
	if s.Topic, err = c.meta.GetTopic(ctx, topic); err != nil {
		return nil, err
	}
	if s.Err != nil {
		_, settings := metadata.ParseTopicSettings(s.SettingsNode.Data)
		if s.RouteNode.Exists && s.Route == nil || s.SettingsNode.Exists && settings != nil {
			return nil, s.Err
		}
		s.badWish = s.Err
	}
	s.participants, err = c.meta.ListParticipants(ctx, topic)
	return s, err
}

// lookAtAll also reads the groups, which are looked for among all that there are.
func (c *Controller) lookAtAll(ctx context.Context, topic string) (*scene, error) {
	s, err := c.look(ctx, topic)
	if err == nil {
		s.groups, err = c.meta.Readers(ctx, topic)
	}
	return s, err
}

// live says whether a group has a process that reads the topic now.
func (s *scene) live(group string) bool {
	return slices.ContainsFunc(s.participants, func(p metadata.ParticipantEntry) bool {
		_, reads := p.Participant.Groups[group]
		return reads
	})
}

// awaited are the participants that have not applied the route that is in force, with what they say (R6).
func (s *scene) awaited() (waiting []string) {
	for _, p := range s.participants {
		if p.Err != nil {
			waiting = append(waiting, fmt.Sprintf("%s (its node can not be read: %v)", p.ID, p.Err))
		} else if p.Participant.Zxid < s.RouteNode.Mzxid {
			text := p.ID
			if p.Participant.Error != "" {
				text += " (" + p.Participant.Error + ")"
			}
			waiting = append(waiting, text)
		}
	}
	return waiting
}

// names joins at most a few names for a text.
func some(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// ends reads the end offsets of a topic; none where the cluster does not have it. known has the partitions that a fence may hide.
func ends(ctx context.Context, c broker.Cluster, topic string, known broker.Offsets) (broker.Offsets, error) {
	o, err := c.EndOffsets(ctx, topic, known.Names()...)
	if errors.Is(err, errs.ErrUnknownTopic) {
		return broker.Offsets{}, nil
	}
	return o, err
}

// steadyEnds reads the end offsets until they are twice the same (R7).
func (c *Controller) steadyEnds(ctx context.Context, conn broker.Cluster, topic string, known broker.Offsets) (broker.Offsets, error) {
	before, err := ends(ctx, conn, topic, known)
	for err == nil {
		if err := pause(ctx, c.apart); err != nil {
			return nil, err
		}
		var now broker.Offsets
		if now, err = ends(ctx, conn, topic, known); err == nil && maps.Equal(before, now) {
			return now, nil
		}
		before = now
	}
	return nil, err
}
