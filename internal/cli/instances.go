package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/metadata"
)

// instanceRow is a line of "instances".
type instanceRow struct {
	Instance string          `json:"instance"`
	App      string          `json:"app"`
	Host     string          `json:"host"`
	PID      int             `json:"pid"`
	Started  time.Time       `json:"started,omitzero"`
	SDK      string          `json:"sdk"`
	Topics   []instanceTopic `json:"topics"`
	Error    string          `json:"error,omitempty"` // of the document
}

// instanceTopic is what an instance says of a topic.
type instanceTopic struct {
	Topic   string        `json:"topic"`
	Zxid    metadata.Zxid `json:"zxid"` // of the route that it has applied
	Applied bool          `json:"applied"`
	Write   string        `json:"write"`
	Error   string        `json:"error,omitempty"`
}

func (t instanceTopic) String() string {
	s := fmt.Sprintf("%s %s on %s", t.Topic, t.Zxid, t.Write)
	if !t.Applied {
		s += " (not the newest)"
	}
	if t.Error != "" {
		s += " (" + t.Error + ")"
	}
	return s
}

func newInstancesCommand(a *app) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "List the running instances of applications",
		Long: `List the running instances of applications, and for every topic that one uses the change number of the route that it has
applied, its cluster, and what keeps it from the newest.`,
		Example: `  turnout instances --app order_service`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				rows, err := listInstances(ctx, s, app)
				if err != nil {
					return err
				}
				return a.show(rows, func(w io.Writer) {
					row(w, "APP", "INSTANCE", "HOST", "PID", "STARTED", "SDK", "TOPICS")
					for _, r := range rows {
						if r.Error != "" {
							row(w, r.App, r.Instance, "not valid: "+oneLine([]byte(r.Error)))
							continue
						}
						var topics []string
						for _, t := range r.Topics {
							topics = append(topics, t.String())
						}
						row(w, r.App, r.Instance, r.Host, r.PID, r.Started.Local().Format(time.DateTime), r.SDK, strings.Join(topics, ", "))
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only those of this application")
	return cmd
}

func listInstances(ctx context.Context, s *metadata.Store, app string) ([]instanceRow, error) {
	instances, err := s.ListInstances(ctx, app)
	if err != nil {
		return nil, err
	}
	topics, err := (&inventory.Inventory{Meta: s}).Topics(ctx, inventory.Filter{})
	if err != nil {
		return nil, err
	}
	used := map[string][]instanceTopic{}
	for _, t := range topics {
		for _, p := range t.Parts {
			it := instanceTopic{Topic: t.Name, Applied: p.Applied, Error: p.Error}
			if p.Document != nil {
				it.Zxid, it.Write, it.Error = p.Document.Zxid, p.Document.Write, p.Document.Error
			}
			used[p.Instance] = append(used[p.Instance], it)
		}
	}
	rows := []instanceRow{}
	for _, i := range instances {
		r := instanceRow{Instance: i.ID, App: i.App, Host: i.Host, PID: i.PID, Started: i.Started, SDK: i.SDK, Topics: used[i.ID]}
		if r.Topics == nil {
			r.Topics = []instanceTopic{}
		}
		if i.Err != nil {
			r.Error = i.Err.Error()
		}
		rows = append(rows, r)
	}
	return rows, nil
}
