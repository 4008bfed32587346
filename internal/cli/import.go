package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-zookeeper/zk"
	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/imports"
	"github.com/turnout-mq/turnout/admin/manifest"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func newImportCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make a document for turnout apply of what there is",
		Long: `Read what others have, and print a document for turnout apply. It only reads. Look at the document, edit it, and apply it: everything
goes through requests, as if it had been written by hand.

What is not in the document is said in comments at its begin and on standard error: notes, which need no action, and problems.
Exit codes: 0 the document is complete, 7 there are problems and the rest is in the document.`,
	}
	cmd.AddCommand(newImportZMS(a), newImportCluster(a))
	return cmd
}

func newImportZMS(a *app) *cobra.Command {
	var from string
	o := imports.ZMSOptions{}
	cmd := &cobra.Command{
		Use: "zms", Short: "Of the metadata of ZMS in its ZooKeeper", Args: cobra.NoArgs,
		Long: `Read the metadata of ZMS (/zms/cluster, /zms/topic, /zms/consumergroup), ask its clusters for partitions and settings of the topics, and print
a document for turnout apply. Groups keep their names, and so their positions.

Clusters that are registered with the platform at --zookeeper, under their name or the one of --cluster-map, are reached as they are registered,
with login and TLS; others at the addresses that ZMS has, without.`,
		Example: `  turnout import zms --from 10.0.0.5:2181 --app order_service > zms.yaml
  turnout import zms --from 10.0.0.5:2181/prod --cluster-map kafka1=kafka-a,kafka2=kafka-b > zms.yaml`,
	}
	cmd.Flags().StringVar(&from, "from", "", "ZooKeeper of ZMS, host:port[,host:port][/chroot]")
	cmd.Flags().StringVar(&o.App, "app", "", "application that topics and groups belong to (default: none, to be edited)")
	cmd.Flags().StringToStringVar(&o.Clusters, "cluster-map", nil, "other names for clusters: NAME_IN_ZMS=NAME, several with commas")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" {
			return usagef("--from is missing: name the ZooKeeper of ZMS, host:port[/chroot]")
		}
		return a.long(cmd, func(ctx context.Context) error {
			conn, err := a.dialTree(ctx, "--from", from, "", "", nil)
			if err != nil {
				return err
			}
			defer conn.close()
			conn.once()
			defer context.AfterFunc(ctx, conn.interrupt)()
			read := func(s *metadata.Store) error {
				o.Open = func(ctx context.Context, c requests.ClusterSpec) (broker.Cluster, bool, error) {
					return openFor(ctx, s, c)
				}
				r, err := imports.ZMS(ctx, foreign{ctx, conn}, o)
				if err != nil {
					return fmt.Errorf("ZMS at %s: %w", from, err)
				}
				return a.imported("turnout import zms --from "+from, r)
			}
			if a.settings.zookeeper == "" {
				return read(nil)
			}
			return a.withOpenStore(ctx, read)
		})
	}
	return cmd
}

// long runs what may take long, for at most as long as --timeout says, or an hour.
func (a *app) long(cmd *cobra.Command, do func(context.Context) error) error {
	limit := longRun
	if cmd.Flags().Changed("timeout") {
		limit = a.settings.timeout
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	return do(ctx)
}

// openFor opens a cluster as it is registered, else as it is said. s is nil where there is no platform.
func openFor(ctx context.Context, s *metadata.Store, c requests.ClusterSpec) (opened broker.Cluster, registered bool, err error) {
	doc := metadata.Cluster{Name: c.Name, Kind: c.Kind, Addresses: c.Addresses}
	if s != nil {
		known, _, err := s.GetCluster(ctx, c.Name)
		switch {
		case err == nil:
			doc, registered = known, true
		case !errors.Is(err, errs.ErrNotFound):
			return nil, false, err
		}
	}
	if doc.Kind != c.Kind {
		return nil, true, fmt.Errorf("%w: it is registered as %s, and ZMS has it as %s", errs.ErrConflict, doc.Kind, c.Kind)
	}
	cfg, err := doc.Config(fmt.Sprintf("turnout-cli-%d", os.Getpid()), nil)
	if err != nil {
		return nil, registered, err
	}
	opening, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	opened, err = drivers.Open(opening, cfg)
	return opened, registered, err
}

// foreign is a ZooKeeper of somebody else.
type foreign struct {
	ctx  context.Context //nolint:containedctx // that the connection ends with
	conn *zkConn
}

// Children implements imports.Tree.
func (f foreign) Children(_ context.Context, path string) ([]string, error) {
	names, _, err := f.conn.conn.Children(f.conn.server(path))
	return names, f.wrap(path, err)
}

// Data implements imports.Tree.
func (f foreign) Data(_ context.Context, path string) ([]byte, error) {
	data, _, err := f.conn.conn.Get(f.conn.server(path))
	return data, f.wrap(path, err)
}

func (f foreign) wrap(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case f.ctx.Err() != nil:
		return f.ctx.Err()
	case errors.Is(err, zk.ErrNoNode):
		return fmt.Errorf("%s: %w", path, errs.ErrNotFound)
	}
	return fmt.Errorf("%s: %w", path, err)
}

func newImportCluster(a *app) *cobra.Command {
	o := imports.ClusterOptions{}
	cmd := &cobra.Command{
		Use: "cluster NAME", Short: "Of the topics and groups of a cluster", Args: cobra.ExactArgs(1),
		Long: `Read the topics of a registered cluster, and the groups that have positions on them, and print a document for turnout apply. What the
platform knows already is left out, and so are topics and groups that belong to the cluster itself. Groups keep their names, and so their positions.`,
		Example: `  turnout import cluster kafka-a --app order_service > kafka-a.yaml
  turnout import cluster kafka-a --match 'order_*' --app order_service > order.yaml`,
	}
	cmd.Flags().StringVar(&o.App, "app", "", "application that topics and groups belong to (default: none, to be edited)")
	cmd.Flags().StringVar(&o.Match, "match", "", "only topics with names like this: * any, ? one character, [a-z] one of these")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.long(cmd, func(ctx context.Context) error {
			return a.withOpenStore(ctx, func(s *metadata.Store) error {
				doc, _, err := s.GetCluster(ctx, args[0])
				if err != nil {
					return remedy(err, errs.ErrNotFound, "register it first: turnout request new with a cluster")
				}
				o.Name, o.Kind = args[0], doc.Kind
				if o.Topics, o.Groups, err = known(ctx, s, args[0]); err != nil {
					return err
				}
				c, _, err := openFor(ctx, s, requests.ClusterSpec{Name: args[0], Kind: doc.Kind})
				if err != nil {
					return fmt.Errorf("cluster %s: %w", args[0], err)
				}
				defer func() {
					closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), openLimit)
					defer cancel()
					_ = c.Close(closing) // nothing was sent
				}()
				r, err := imports.Cluster(ctx, c, o)
				if err != nil {
					return fmt.Errorf("cluster %s: %w", args[0], err)
				}
				return a.imported("turnout import cluster "+args[0], r)
			})
		})
	}
	return cmd
}

// known are the topics and groups that there are, by their names on a cluster.
func known(ctx context.Context, s *metadata.Store, cluster string) (topics, groups map[string]string, err error) {
	topics, groups = map[string]string{}, map[string]string{}
	names, err := s.ListTopics(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		n, err := s.Read(ctx, s.SettingsPath(name))
		if err != nil {
			return nil, nil, err
		}
		settings := metadata.DefaultTopicSettings()
		if n.Exists {
			if settings, err = metadata.ParseTopicSettings(n.Data); err != nil {
				return nil, nil, fmt.Errorf("topic %s: %w", name, err)
			}
		}
		topics[settings.Physical(name, cluster)] = name
	}
	if names, err = s.ListGroups(ctx); err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		g, _, err := s.GetGroup(ctx, name)
		switch {
		case errors.Is(err, errs.ErrNotFound): // just deleted
			continue
		case err != nil:
			return nil, nil, err
		}
		for _, topic := range g.Topics {
			groups[g.Physical(topic)] = name
		}
	}
	return topics, groups, nil
}

// imported prints the document, and what is not in it.
func (a *app) imported(command string, r *imports.Result) error {
	if a.json() {
		err := a.show(map[string]any{"clusters": specs(r.Document.Clusters), "topics": specs(r.Document.Topics), "groups": specs(r.Document.Groups),
			"notes": nonNil(r.Notes), "problems": nonNil(r.Problems)}, func(io.Writer) {})
		return errors.Join(err, problems(r))
	}
	head := []string{command, "Look at it, edit it, then: turnout apply -f FILE"}
	for _, p := range r.Problems {
		head = append(head, "PROBLEM: "+comment(p))
		fmt.Fprintf(a.stderr, "problem: %s\n", flat(errors.New(p)))
	}
	for _, n := range r.Notes {
		head = append(head, "note: "+comment(n))
		fmt.Fprintf(a.stderr, "note: %s\n", flat(errors.New(n)))
	}
	return errors.Join(r.Document.Write(a.stdout, head), problems(r))
}

// comment is text that can not end a comment.
func comment(text string) string { return oneLine([]byte(flat(errors.New(text)))) }

func problems(r *imports.Result) error {
	if len(r.Problems) == 0 {
		return nil
	}
	return markedError{fmt.Errorf("%s, see above; the rest is in the document", count.Of(len(r.Problems), "problem", "problems")), errVerdict}
}

func specs[T any](items []manifest.Item[T]) []T {
	all := make([]T, len(items))
	for i, item := range items {
		all[i] = item.Spec
	}
	return all
}

func nonNil(list []string) []string { return append([]string{}, list...) }
