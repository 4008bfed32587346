package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

const requestLook = 200 * time.Millisecond // between two looks at a request that is waited for

func newRequestCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "request",
		Short: "Apply for topics, groups, clusters, moves and more, and decide",
		Long: `Apply for topics, groups, clusters, settings, moves, stress tasks, deletions, other positions and ownership, and decide upon what
others apply for. Nobody approves the own request. What is approved the platform carries out: on the cluster first, then in its
store, then in ZooKeeper.`,
		Example: `  turnout request new -f topic.json
  turnout request list --state submitted --others
  turnout request approve r-12 --cluster kafka-a --wait`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newRequestNew(p), newRequestEdit(p), newRequestList(p), newRequestGet(p), newRequestApprove(p), newRequestDecline(p), newRequestComment(p),
		newRequestStep(p, "submit", "Let a draft be decided"), newRequestStep(p, "withdraw", "Withdraw a request that is not decided"),
		newRequestStep(p, "retry", "Carry out a request again that has failed"))
	return cmd
}

// readRequest reads what is applied for.
func (p *platform) readRequest(file string) (n requests.New, err error) {
	var data []byte
	if file == "-" {
		data, err = io.ReadAll(p.stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return n, usagef("--file: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return n, fmt.Errorf("%w: --file %s: must be JSON like {\"reason\":\"…\",\"topic\":{\"name\":\"order_topic\",\"app\":\"order_service\",\"partitions\":4}}: %w", errs.ErrInvalid, file, err)
	}
	return n, nil
}

// waited is a flag with which a command waits until a request was carried out.
func waited(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("wait", false, "wait until it was carried out, for as long as --timeout says (default then: 10 minutes)")
}

// finish shows a request, after it was carried out if that is waited for.
func (p *platform) finish(cmd *cobra.Command, r *store.ChangeRequest, wait bool) error {
	if wait {
		limit := 10 * time.Minute
		if err := p.with(cmd, limit, func(ctx context.Context, c *api.Client) error { return p.await(ctx, c, r) }); err != nil {
			return err
		}
	}
	if err := p.showRequest(r, nil); err != nil {
		return err
	}
	if wait && r.State != store.RequestOK {
		return fmt.Errorf("%s is %s: %s", r.ID, r.State, r.Error)
	}
	return nil
}

// await reads a request until there is nothing more to come, and says how far it is.
func (p *platform) await(ctx context.Context, c *api.Client, r *store.ChangeRequest) error {
	said := ""
	for {
		now := fmt.Sprint(r.State, " ", r.Step, " ", r.Error)
		if now != said {
			fmt.Fprintf(p.stderr, "%s %s\n", r.ID, strings.Join(strings.Fields(now), " "))
			said = now
		}
		if r.EndedAt != nil || r.State == store.RequestBad {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not done yet and goes on: %w", r.ID, ctx.Err())
		case <-time.After(requestLook):
		}
		next := store.ChangeRequest{}
		if err := c.Read(ctx, "/requests/"+url.PathEscape(r.ID), nil, &next); err != nil {
			return err
		}
		*r = next
	}
}

func newRequestNew(p *platform) *cobra.Command {
	var file string
	var draft bool
	cmd := &cobra.Command{
		Use: "new", Short: "File a request", Args: cobra.NoArgs,
		Long: `File a request: a JSON document with one of topic, group, cluster, settings, migration, stress, deletion, claim and offsets, and a reason.
docs/openapi.yaml (schema New) has all fields. What is wrong with it is said at once. What the preflight of a
migration finds withdraws the request again; warnings are accepted in the document: {"migration":{…,"accept":["sleeping-groups"]}}.`,
		Example: `  turnout request new -f topic.json
  echo '{"reason":"orders","topic":{"name":"order_topic","app":"order_service","partitions":4}}' | turnout request new -f -
  echo '{"migration":{"topic":"order_topic","to":"kafka-b"}}' | turnout request new -f - --wait
  echo '{"claim":{"app":"order_service"}}' | turnout request new -f -`,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the document, or - for standard input")
	cmd.Flags().BoolVar(&draft, "draft", false, "it is not to be decided yet")
	wait := waited(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return usagef("--file is missing: name a file, or - for standard input")
		}
		n, err := p.readRequest(file)
		if err != nil {
			return err
		}
		r := &store.ChangeRequest{}
		path := "/requests"
		if draft {
			path += "?draft=true"
		}
		err = p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
			return c.Change(ctx, http.MethodPost, path, 0, n, r)
		})
		if err != nil {
			return err
		}
		return p.finish(cmd, r, *wait && !draft)
	}
	return cmd
}

func newRequestEdit(p *platform) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "edit ID", Short: "Replace what a request asks for, until it is decided", Args: cobra.ExactArgs(1),
		Example: "  turnout request edit r-12 -f topic.json",
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the document, or - for standard input")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := p.readRequest(file)
		if err != nil {
			return err
		}
		return p.step(cmd, args[0], http.MethodPut, "", n, false)
	}
	return cmd
}

// step changes a request as it is now.
func (p *platform) step(cmd *cobra.Command, id, method, what string, in any, wait bool) error {
	r := &store.ChangeRequest{} // what it was must not show through what it has become
	err := p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
		path := "/requests/" + url.PathEscape(id)
		var now store.ChangeRequest
		if err := c.Read(ctx, path, nil, &now); err != nil {
			return err
		}
		return c.Change(ctx, method, path+what, now.Version, in, r)
	})
	if err != nil {
		return err
	}
	return p.finish(cmd, r, wait)
}

func newRequestStep(p *platform, what, short string) *cobra.Command {
	cmd := &cobra.Command{Use: what + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  turnout request " + what + " r-12"}
	wait := new(bool)
	if what != "withdraw" {
		wait = waited(cmd)
	}
	if what == "submit" {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return p.step(cmd, args[0], http.MethodPost, "/submit", nil, *wait)
		}
		return cmd
	}
	b := batched{state: store.Submitted, what: what, done: "withdrawn", own: true}
	if what == "retry" {
		b.state, b.done = store.RequestBad, "retried"
	}
	batch, yes := batchFlags(cmd)
	cmd.Example += "\n  turnout request " + what + " --batch shop"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *batch != "" {
			b.wait = *wait
			return p.batch(cmd, *batch, *yes, b)
		}
		return p.step(cmd, args[0], http.MethodPost, "/"+what, nil, *wait)
	}
	return cmd
}

func newRequestApprove(p *platform) *cobra.Command {
	var a requests.Approval
	cmd := &cobra.Command{
		Use: "approve ID", Short: "Approve a request of somebody else", Args: cobra.ExactArgs(1),
		Example: "  turnout request approve r-12\n  turnout request approve r-12 --cluster kafka-a --note 'until the split' --wait\n  turnout request approve --batch shop",
		Long:    "Approve a request of somebody else, or with --batch all that others have filed under that name: they are shown, and what was shown\nis what is approved. Those that can not be approved are named, and the others are. With --wait those of the batch\nthat needed no approval are waited for, too.",
	}
	cmd.Flags().StringVar(&a.Cluster, "cluster", "", "of a topic: the cluster that it gets (default: the one wished for, else by the allotment rules)")
	cmd.Flags().StringVar(&a.Note, "note", "", "for the applicant")
	wait := waited(cmd)
	batch, yes := batchFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *batch == "" {
			return p.step(cmd, args[0], http.MethodPost, "/approve", a, *wait)
		}
		if a.Cluster != "" {
			return usagef("--cluster is for one topic: with --batch each gets the one that it asks for, else one by the allotment rules")
		}
		return p.batch(cmd, *batch, *yes, batched{state: store.Submitted, what: "approve", done: "approved", body: a, wait: *wait})
	}
	return cmd
}

func newRequestDecline(p *platform) *cobra.Command {
	var note string
	cmd := &cobra.Command{Use: "decline ID", Short: "Decline a request", Args: cobra.ExactArgs(1), Example: "  turnout request decline r-12 --note 'use order_topic'"}
	cmd.Flags().StringVar(&note, "note", "", "for the applicant")
	batch, yes := batchFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]string{"note": note}
		if *batch == "" {
			return p.step(cmd, args[0], http.MethodPost, "/decline", body, false)
		}
		return p.batch(cmd, *batch, *yes, batched{state: store.Submitted, what: "decline", done: "declined", body: body})
	}
	return cmd
}

func newRequestComment(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "comment ID TEXT", Short: "Say something about a request", Args: cobra.ExactArgs(2), Example: "  turnout request comment r-12 'why four partitions?'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				err := c.Change(ctx, http.MethodPost, "/requests/"+url.PathEscape(args[0])+"/comments", 0, map[string]string{"text": args[1]}, nil)
				if err != nil {
					return err
				}
				return p.show(map[string]string{"commented": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s: said\n", args[0]) })
			})
		},
	}
}

func newRequestList(p *platform) *cobra.Command {
	var states []string
	var others bool
	cmd := &cobra.Command{
		Use: "list", Short: "List requests, the newest first", Args: cobra.NoArgs,
		Example: "  turnout request list --state submitted --others\n  turnout request list --subject order_topic --output json",
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "draft, submitted, approved, declined, withdrawn, expired, executing, done, failed; several with commas")
	cmd.Flags().BoolVar(&others, "others", false, "only those of others, such as one can decide")
	filters := map[string]*string{}
	for name, usage := range map[string]string{"kind": "of this kind", "applicant": "filed by this user", "app": "of this application", "subject": "about the thing of this name", "batch": "filed together under this name", "text": "about a thing with this in its name"} {
		filters[name] = cmd.Flags().String(name, "", usage)
	}
	limit := limitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		q := url.Values{}
		if len(states) > 0 {
			q.Set("state", strings.Join(states, ","))
		}
		if others {
			q.Set("others", "true")
		}
		for _, name := range slices.Sorted(maps.Keys(filters)) {
			if *filters[name] != "" {
				q.Set(name, *filters[name])
			}
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			all, err := pages[*store.ChangeRequest](ctx, c, "/requests", q, most)
			if err != nil {
				return err
			}
			return p.show(all, func(w io.Writer) {
				row(w, "REQUEST", "KIND", "SUBJECT", "APPLICATION", "STATE", "APPLICANT", "DECIDED BY", "FILED", "NOTE")
				for _, r := range all {
					row(w, r.ID, r.Kind, r.Subject, r.App, r.State, r.Applicant, r.DecidedBy, r.CreatedAt.Local().Format(time.DateTime), oneLineOrNone(firstOf(r.Error, r.Decision)))
				}
			})
		})
	}
	return cmd
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func newRequestGet(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a request with its history", Args: cobra.ExactArgs(1), Example: "  turnout request get r-12",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				var r store.ChangeRequest
				var h struct{ Events []store.RequestEvent }
				path := "/requests/" + url.PathEscape(args[0])
				if err := errors.Join(c.Read(ctx, path, nil, &r), c.Read(ctx, path+"/events", nil, &h)); err != nil {
					return err
				}
				return p.showRequest(&r, h.Events)
			})
		},
	}
}

// requestDoc is a request with its history, as JSON.
type requestDoc struct {
	*store.ChangeRequest
	Events []store.RequestEvent `json:"events,omitempty"`
}

func (p *platform) showRequest(r *store.ChangeRequest, history []store.RequestEvent) error {
	return p.show(requestDoc{r, history}, func(w io.Writer) {
		field(w, "request", r.ID)
		field(w, "kind", r.Kind)
		field(w, "subject", r.Subject)
		field(w, "application", r.App)
		field(w, "state", r.State)
		field(w, "applicant", r.Applicant)
		field(w, "batch", r.Batch)
		field(w, "reason", r.Reason)
		field(w, "asks for", string(r.Spec))
		if r.Cluster != "" {
			field(w, "cluster", r.Cluster+" ("+r.ClusterReason+")")
		}
		field(w, "decided by", r.DecidedBy)
		field(w, "note", r.Decision)
		if r.State == store.Submitted && r.ExpiresAt != nil {
			field(w, "expires", r.ExpiresAt.Local().Format(time.DateTime))
		}
		field(w, "step", r.Step)
		field(w, "error", r.Error)
		if r.NextAt != nil && r.EndedAt == nil {
			field(w, "tried again", r.NextAt.Local().Format(time.DateTime))
		}
		field(w, "result", string(r.Result))
		for _, e := range history {
			row(w, "", e.At.Local().Format(time.DateTime), e.Who, e.Kind, e.Text)
		}
	})
}
