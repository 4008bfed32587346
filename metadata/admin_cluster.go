package metadata

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/turnout-mq/turnout/internal/errs"
)

// GetCluster reads a cluster. ErrNotFound; ErrInvalid when what is there is not acceptable.
func (s *Store) GetCluster(ctx context.Context, name string) (Cluster, Node, error) {
	if err := CheckName("cluster", name); err != nil {
		return Cluster{}, Node{}, err
	}
	c, n, err := readDocument(ctx, s, s.ClusterPath(name), ParseCluster)
	if errors.Is(err, errs.ErrNotFound) {
		err = fmt.Errorf("cluster %s: %w", name, errs.ErrNotFound)
	}
	return c, n, err
}

// ListClusters are the names of all clusters.
func (s *Store) ListClusters(ctx context.Context) ([]string, error) {
	return s.list(ctx, s.ClustersPath())
}

// PutCluster creates or replaces a cluster; fields that this version does not know are kept. V may be left 0.
func (s *Store) PutCluster(ctx context.Context, name string, c Cluster) error {
	return s.updateCluster(ctx, name, func(old *Cluster, _ Node, _ error) error {
		c := c
		c.Extra = c.Extra.over(old.Extra)
		if c.Auth != nil && old.Auth != nil {
			auth := *c.Auth
			auth.Extra = auth.Extra.over(old.Auth.Extra)
			c.Auth = &auth
		}
		if c.TLS != nil && old.TLS != nil {
			tls := *c.TLS
			tls.Extra = tls.Extra.over(old.TLS.Extra)
			c.TLS = &tls
		}
		*old = c
		return nil
	})
}

// UpdateCluster changes a cluster that exists (ErrNotFound) and can be read (ErrInvalid) by compare-and-set; change may be
// called several times.
func (s *Store) UpdateCluster(ctx context.Context, name string, change func(*Cluster) error) error {
	return s.updateCluster(ctx, name, func(c *Cluster, n Node, invalid error) error {
		switch {
		case !n.Exists:
			return fmt.Errorf("cluster %s: %w", name, errs.ErrNotFound)
		case invalid != nil:
			return invalid
		}
		return change(c)
	})
}

func (s *Store) updateCluster(ctx context.Context, name string, change func(old *Cluster, n Node, invalid error) error) error {
	if err := CheckName("cluster", name); err != nil {
		return err
	}
	if err := s.makeParent(ctx, s.ClustersPath()); err != nil {
		return err
	}
	return edit(ctx, s, s.ClusterPath(name), ParseCluster, func(c Cluster, n Node, invalid error) (Cluster, []Op, error) {
		if err := change(&c, n, invalid); err != nil {
			return c, nil, err
		}
		if c.V == 0 {
			c.V = version
		}
		return c, nil, nil
	})
}

// DeleteCluster removes a cluster. ErrNotFound; ErrConflict while the wish or the route of a topic names it anywhere.
func (s *Store) DeleteCluster(ctx context.Context, name string) error {
	if err := CheckName("cluster", name); err != nil {
		return err
	}
	n, err := s.fresh(ctx, s.ClusterPath(name))
	if err != nil {
		return err
	}
	if !n.Exists {
		return fmt.Errorf("cluster %s: %w", name, errs.ErrNotFound)
	}
	topics, err := s.ListTopics(ctx)
	if err != nil {
		return err
	}
	var users []string
	for _, topic := range topics {
		t, err := s.GetTopic(ctx, topic)
		if errors.Is(err, errs.ErrUnknownTopic) { // just deleted
			continue
		}
		if err != nil {
			return err
		}
		if t.Err != nil {
			return fmt.Errorf("cluster %s: %w: it can not be told whether topic %s uses it: %w", name, errs.ErrConflict, topic, t.Err)
		}
		if t.Wish.Cluster == name || t.Route != nil && slices.Contains(t.Route.Clusters(), name) {
			users = append(users, topic)
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("cluster %s: %w: wish or route of topics %q names it; move them and wait until their routes have left it", name, errs.ErrConflict, users)
	}
	return s.Delete(ctx, n.Path, n.Version)
}
