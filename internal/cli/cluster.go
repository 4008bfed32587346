package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func newClusterCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Look at and change clusters: what they are and how to reach them",
	}
	cmd.AddCommand(newClusterGet(a), newClusterList(a), newClusterPut(a), newClusterDelete(a))
	return cmd
}

func newClusterGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "get CLUSTER",
		Short:   "Show one cluster",
		Example: `  turnout cluster get kafka-a --output json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				c, n, err := s.GetCluster(ctx, args[0])
				if err != nil {
					return remedy(err, errs.ErrNotFound, `"turnout cluster list" shows what there is`)
				}
				return a.show(inventory.NewEntry(args[0], c, n), func(w io.Writer) {
					field(w, "cluster", c.Name)
					field(w, "version", fmt.Sprintf("%d (zxid %s)", n.Version, n.Mzxid))
					field(w, "kind", c.Kind)
					field(w, "addresses", strings.Join(c.Addresses, ", "))
					field(w, "cluster id", c.ClusterID)
					if c.Auth != nil {
						field(w, "auth", c.Auth.Mechanism+", login in "+c.Auth.Secret)
					}
					if c.TLS != nil {
						field(w, "tls", compact(c.TLS))
					}
					if len(c.Properties) > 0 {
						field(w, "properties", compact(c.Properties))
					}
					if len(c.Extra) > 0 {
						field(w, "unknown fields", compact(c.Extra))
					}
				})
			})
		},
	}
}

func newClusterList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the clusters",
		Long:  "List the clusters.\n\n" + whichIsAsked,
		Example: `  turnout cluster list
  turnout cluster list --kind rocketmq`,
		Args: cobra.NoArgs,
	}
	l := newListing(a, cmd)
	kind := cmd.Flags().String("kind", "", "only those of this kind: kafka or rocketmq")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if l.filter.Kind = broker.Kind(*kind); *kind != "" && l.filter.Kind != broker.Kafka && l.filter.Kind != broker.RocketMQ {
			return usagef("--kind %q: must be kafka or rocketmq", *kind)
		}
		clusters, err := list(cmd, l, "/clusters", (*inventory.Inventory).Clusters)
		if err != nil {
			return err
		}
		return a.show(clusters, func(w io.Writer) {
			row(w, "CLUSTER", "KIND", "ADDRESSES", "CLUSTER ID", "VERSION", "TOPICS", "NOTE")
			for _, e := range clusters {
				allotted := ""
				if e.Load != nil {
					allotted = fmt.Sprint(e.Load.Topics)
				}
				if c := e.Document; c != nil {
					row(w, e.Name, c.Kind, strings.Join(c.Addresses, ","), c.ClusterID, e.Version, allotted, stateNote(e.State))
				} else {
					row(w, e.Name, unreadable(e.State, e.Error), "", "", e.Version, allotted)
				}
			}
		})
	}
	return cmd
}

func readClusters(ctx context.Context, s *metadata.Store) ([]*entry[metadata.Cluster], error) {
	names, err := s.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	return listEntries(ctx, names, s.GetCluster)
}

func newClusterPut(a *app) *cobra.Command {
	var (
		file, kind string
		doc        metadata.Cluster
		auth       metadata.Auth
		tls        metadata.TLS
		useTLS     bool
		properties map[string]string
	)
	cmd := &cobra.Command{
		Use:   "put CLUSTER",
		Short: "Create a cluster or change it",
		Long: `Create a cluster or change it. Flags that are not given leave what is there. What would not be valid is refused with all
reasons (exit code 3). Running applications take over a change at once: they open new connections and close the old ones.`,
		Example: `  turnout cluster put kafka-a --kind kafka --address 10.0.0.1:9092,10.0.0.2:9092 --cluster-id MkU3OEVBNTcwNTJENDM2Qk
  turnout cluster put kafka-a --auth-mechanism SCRAM-SHA-512 --auth-secret env:KAFKA_A_LOGIN --tls
  turnout cluster get kafka-a -o json > c.json; vi c.json; turnout cluster put kafka-a --file c.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				docs := documents[metadata.Cluster]{
					kind: "cluster", get: s.GetCluster, update: s.UpdateCluster, put: s.PutCluster,
					fresh: func() metadata.Cluster { return metadata.Cluster{V: 1} },
				}
				return put(ctx, a, docs, args[0], file, func(c *metadata.Cluster) {
					set(given("kind"), &c.Kind, broker.Kind(kind))
					set(given("address"), &c.Addresses, doc.Addresses)
					set(given("cluster-id"), &c.ClusterID, doc.ClusterID)
					set(given("property"), &c.Properties, properties)
					if given("auth-mechanism") || given("auth-secret") {
						merged := or(c.Auth)
						set(given("auth-mechanism"), &merged.Mechanism, auth.Mechanism)
						set(given("auth-secret"), &merged.Secret, auth.Secret)
						c.Auth = &merged
						if merged.Mechanism == "" && merged.Secret == "" {
							c.Auth = nil
						}
					}
					if given("tls") && !useTLS {
						c.TLS = nil
					} else if given("tls") || given("tls-ca") || given("tls-cert") || given("tls-key") || given("tls-server-name") || given("tls-insecure") {
						merged := or(c.TLS)
						set(given("tls-ca"), &merged.CA, tls.CA)
						set(given("tls-cert"), &merged.Cert, tls.Cert)
						set(given("tls-key"), &merged.Key, tls.Key)
						set(given("tls-server-name"), &merged.ServerName, tls.ServerName)
						set(given("tls-insecure"), &merged.Insecure, tls.Insecure)
						c.TLS = &merged
					}
				}, nil)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", fileUsage)
	f.StringVar(&kind, "kind", "", "kafka or rocketmq")
	f.StringSliceVar(&doc.Addresses, "address", nil, "host:port of brokers (kafka) or name servers (rocketmq); several with commas or by repeating")
	f.StringVar(&doc.ClusterID, "cluster-id", "", "refuse any other cluster: Kafka's cluster.id, RocketMQ's brokerClusterName")
	f.StringVar(&auth.Mechanism, "auth-mechanism", "", `Kafka: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; RocketMQ: ACL; "" with --auth-secret "": none`)
	f.StringVar(&auth.Secret, "auth-secret", "", "where applications find user:password: env:NAME or file:PATH; never the secret itself")
	f.BoolVar(&useTLS, "tls", false, "TLS to the brokers; --tls=false turns it off")
	f.StringVar(&tls.CA, "tls-ca", "", "file with the certificates to trust; default: the system's")
	f.StringVar(&tls.Cert, "tls-cert", "", "file with the applications' certificate")
	f.StringVar(&tls.Key, "tls-key", "", "file with its key")
	f.StringVar(&tls.ServerName, "tls-server-name", "", "name that the brokers' certificates must have")
	f.BoolVar(&tls.Insecure, "tls-insecure", false, "do not verify the brokers; for tests")
	f.StringToStringVar(&properties, "property", nil, "driver settings name=value, all of them")
	return cmd
}

func newClusterDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "delete CLUSTER",
		Short:   "Delete a cluster that no topic uses",
		Long:    `Delete a cluster from the metadata. While a topic's wish or route names it that is refused (exit code 5). The brokers are left alone.`,
		Example: `  turnout cluster delete kafka-old`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				if err := s.DeleteCluster(ctx, args[0]); err != nil {
					return remedy(err, errs.ErrNotFound, `"turnout cluster list" shows what there is`)
				}
				return a.showDeleted("cluster", args[0])
			})
		},
	}
}

// or is what p points to, or the zero value.
func or[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
