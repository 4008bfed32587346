package requests

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// namesKept is how long the names that a topic has on clusters are taken for what they were when they were read.
const namesKept = 10 * time.Second

// names remembers what topics are called on clusters, so that the import of ten thousand topics does not read each of them ten thousand
// times.
type names struct {
	mu    sync.Mutex
	since time.Time
	known map[string]metadata.TopicSettings
}

// nameFree is final when a topic has the name of another one on its cluster. Topics that were made since are seen at once, another
// name of a topic that was there before within namesKept.
func (s *Service) nameFree(ctx context.Context, name, cluster, physical string) error {
	topics, err := s.meta.ListTopics(ctx)
	if err != nil {
		return err
	}
	known, err := s.settingsOf(ctx, topics)
	if err != nil {
		return err
	}
	for other, settings := range known {
		if other != name && settings.Physical(other, cluster) == physical {
			return Final(fmt.Errorf("%w: physical %q on cluster %s is topic %s: choose another name there", errs.ErrConflict, physical, cluster, other))
		}
	}
	return nil
}

// settingsOf reads the settings of topics that are not known yet; what nobody can read names nothing. The result must not be changed.
func (s *Service) settingsOf(ctx context.Context, topics []string) (map[string]metadata.TopicSettings, error) {
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	if time.Since(s.names.since) > namesKept {
		s.names.since, s.names.known = time.Now(), nil
	}
	all := make(map[string]metadata.TopicSettings, len(topics))
	var mu sync.Mutex
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(32)
	for _, topic := range topics {
		if known, ok := s.names.known[topic]; ok {
			mu.Lock()
			all[topic] = known
			mu.Unlock()
			continue
		}
		read.Go(func() error {
			n, err := s.meta.Read(ctx, s.meta.SettingsPath(topic))
			if err != nil {
				return err
			}
			settings := metadata.DefaultTopicSettings()
			if n.Exists {
				settings, _ = metadata.ParseTopicSettings(n.Data)
			}
			mu.Lock()
			defer mu.Unlock()
			all[topic] = settings
			return nil
		})
	}
	if err := read.Wait(); err != nil {
		return nil, err
	}
	s.names.known = all
	return all, nil
}
