package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/metadata"
)

// whichIsAsked is part of the help of the commands that list.
const whichIsAsked = `A platform is asked when --server names one, or when one is registered in ZooKeeper and turnout login has been here (or its servers
have no login): what it shows of topics, groups and clusters has also what its catalog has. Its servers take turns, and when one
fails the next is asked. Without a platform, when none of its servers answers, and with --direct, ZooKeeper itself is read.`

// listing is what the commands have that list what there is.
type listing struct {
	*platform
	direct bool
	filter inventory.Filter
}

// newListing gives a command its flags.
func newListing(a *app, cmd *cobra.Command) *listing {
	l := &listing{platform: newPlatform(a, cmd)}
	f := cmd.Flags()
	f.BoolVar(&l.direct, "direct", false, "read ZooKeeper, also where there is a platform")
	f.StringVar(&l.filter.Text, "text", "", "only those with this in their name")
	return l
}

// query is the filter for the platform.
func (l *listing) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"text": l.filter.Text, "app": l.filter.App, "cluster": l.filter.Cluster, "topic": l.filter.Topic, "kind": string(l.filter.Kind)} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// list reads all that fits: from the platform at path, or with read from ZooKeeper.
func list[T any](cmd *cobra.Command, l *listing, path string, read func(*inventory.Inventory, context.Context, inventory.Filter) ([]T, error)) ([]T, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), l.settings.timeout)
	defer cancel()
	token, err := l.token()
	if err != nil {
		return nil, err
	}
	ask := func(find func(context.Context) ([]string, error)) ([]T, error) {
		c := api.New(find, api.Options{Token: token})
		defer c.Close()
		return pages[T](ctx, c, path, l.query(), 0)
	}
	if l.server != "" && !l.direct {
		if err := l.named(); err != nil {
			return nil, err
		}
		return ask(l.find)
	}
	var all []T
	err = l.withOpenStore(ctx, func(s *metadata.Store) error {
		find := func(ctx context.Context) ([]string, error) { return api.Find(ctx, s) }
		asked, err := l.asked(ctx, s, token)
		if err != nil {
			return err
		}
		if asked {
			all, err = ask(find)
			if !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, people.ErrUnauthenticated) {
				return err
			}
			fmt.Fprintf(l.stderr, "turnout: %s; what follows was read from ZooKeeper\n", flat(err))
		}
		all, err = read(&inventory.Inventory{Meta: s}, ctx, l.filter)
		return err
	})
	return all, err
}

// asked says whether there is a platform that is asked.
func (l *listing) asked(ctx context.Context, s *metadata.Store, token string) (bool, error) {
	if l.direct {
		return false, nil
	}
	servers, err := api.Servers(ctx, s)
	open := len(servers) > 0
	for _, server := range servers {
		open = open && server.NoLogin
	}
	return open || token != "" && len(servers) > 0, err
}
