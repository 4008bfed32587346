package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/metadata"
)

// shadowLag tells how far the shadow groups of a topic are.
type shadowLag struct {
	store       *metadata.Store
	clusters    []string // names of all
	shadowTopic string
	readers     map[string]metadata.ShadowGroup // by the group that each is of
	on          map[string][]string             // group → application/task that enables its shadow group, as readFlags found it
}

// readFlags reads which groups are on. Not while look is called.
func (l *shadowLag) readFlags(ctx context.Context) error {
	flags, err := l.store.ListShadowFlags(ctx, "")
	if err != nil {
		return err
	}
	l.on = map[string][]string{}
	for _, f := range flags {
		if f.Enabled {
			l.on[f.Group] = append(l.on[f.Group], f.App+"/"+f.Task)
		}
	}
	return nil
}

// stressGroup is how far the shadow group of a group is.
type stressGroup struct {
	Group       string   `json:"group"`
	App         string   `json:"app"`       // of the group
	EnabledBy   []string `json:"enabledBy"` // application/task
	Unread      int64    `json:"unread"`
	Delayed     int64    `json:"delayed"`
	Retries     int64    `json:"retries"`
	DeadLetters int64    `json:"deadLetters"` // since the begin of the run
	DrainedMS   float64  `json:"drainedMs"`   // from the last send until nothing was left; -1: something is
	Error       string   `json:"error,omitempty"`
}

func (g stressGroup) left() int64 { return g.Unread + g.Delayed + g.Retries }

// subtract takes off the dead letters that were there before.
func (g *stressGroup) subtract(before []stressGroup) {
	for _, b := range before {
		if b.Group == g.Group {
			g.DeadLetters -= b.DeadLetters
		}
	}
}

const unknownText = "?"

// leftText is like "12" or, of several groups, "order_bil_group 12, audit 0".
func leftText(groups []stressGroup) string {
	var parts []string
	for _, g := range groups {
		text := fmt.Sprint(g.left())
		if g.Error != "" {
			text = unknownText
		}
		if len(groups) > 1 {
			text = g.Group + " " + text
		}
		parts = append(parts, text)
	}
	return defaultText(strings.Join(parts, ", "), "-")
}

// look asks the clusters, wherever the shadow topic is by now.
func (l *shadowLag) look(ctx context.Context, fleet *fleet) ([]stressGroup, error) {
	t, err := readTopic(ctx, l.store, l.shadowTopic, l.clusters)
	if err != nil {
		return nil, err
	}
	return forEach(ctx, slices.Sorted(maps.Keys(l.readers)), func(ctx context.Context, group string) (stressGroup, error) {
		g := stressGroup{Group: group, App: l.readers[group].App, EnabledBy: append([]string{}, l.on[group]...), DrainedMS: -1}
		p, err := fleet.askGroup(ctx, l.readers[group].Group, t)
		for _, on := range p.Clusters {
			g.Unread, g.Delayed, g.Retries, g.DeadLetters = g.Unread+on.Unread, g.Delayed+on.Delayed, g.Retries+on.Retries, g.DeadLetters+on.DeadLetters
			if on.Error != "" {
				g.Error = on.Error
			}
		}
		return g, err
	})
}

// doubts is why what is sent will not be read, or not at once.
func (l *shadowLag) doubts(ctx context.Context, groups []stressGroup) ([]string, error) {
	if len(groups) == 0 {
		return []string{"no group reads the topic, so nobody will read what is sent"}, nil
	}
	instances, err := l.store.ListInstances(ctx, "")
	if err != nil {
		return nil, err
	}
	var doubts []string
	for _, g := range groups {
		started := slices.ContainsFunc(instances, func(i metadata.InstanceEntry) bool { return i.Shadow[g.Group].State == metadata.ShadowStarted })
		app := defaultText(g.App, "APP")
		switch {
		case len(g.EnabledBy) == 0:
			doubts = append(doubts, fmt.Sprintf("the shadow group of %s is off, so it will not read what is sent; turnout shadow enable %s TASK %s", g.Group, app, g.Group))
		case !started:
			doubts = append(doubts, fmt.Sprintf("the shadow group of %s is on and no instance has started it; turnout shadow status %s %s says why", g.Group, app, g.Group))
		}
		if g.left() > 0 {
			doubts = append(doubts, fmt.Sprintf("the shadow group of %s has %s of an earlier run to read", g.Group, count.Of(g.left(), "message", "messages")))
		}
	}
	return doubts, nil
}
