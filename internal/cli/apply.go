package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/admin/manifest"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

// applying is how turnout apply was called.
type applying struct {
	*platform
	file, batch, reason      string
	dryRun, yes, prune, wait bool
	differs                  bool // --exit-code
}

func newApplyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Ask for what a document has and the platform has not",
		Long: `Compare a document with what the platform has, show the difference, ask, and file a request for each thing that differs, all under
the name of one batch. Somebody else approves them: turnout request approve --batch NAME.

The document is YAML, one or several, with lists of clusters, topics and groups; its fields are those of the requests (docs/openapi.yaml,
schemas ClusterSpec, TopicSpec, GroupSpec). turnout import writes such documents. What it leaves out is not compared and stays as it is.

  clusters: [{name: kafka-a, kind: kafka, addresses: ["10.0.0.1:9092"]}]
  topics:   [{name: order_topic, app: order_service, cluster: kafka-a, partitions: 4}]
  groups:   [{name: billing, app: billing_service, topics: [order_topic]}]

Applying again files nothing twice: what a request asks for already is shown as pending. Nothing is deleted without --prune, which asks
for the deletion of topics and groups that the document does not list, of the applications that it names; messages stay on the clusters.

Exit codes: 0 nothing differs, or what differs was filed (with --wait: done), or was shown by --dry-run. 7 something can not be changed by
apply, was refused, or (--wait) was not done; with --exit-code also when --dry-run shows a difference.`,
		Example: `  turnout apply -f shop.yaml --dry-run
  turnout apply -f shop.yaml --batch shop --yes
  turnout import zms --from 10.0.0.5:2181 --app order_service | turnout apply -f - --yes --wait`,
		Args: cobra.NoArgs,
	}
	p := &applying{platform: newPlatform(a, cmd)}
	f := cmd.Flags()
	f.StringVarP(&p.file, "file", "f", "", "file with the document, or - for standard input")
	f.StringVar(&p.batch, "batch", "", "name of the batch (default: one that belongs to the content of the document)")
	f.StringVar(&p.reason, "reason", "", "why; for whoever decides (default: the name of the file)")
	f.BoolVar(&p.dryRun, "dry-run", false, "end after the difference was shown")
	f.BoolVar(&p.differs, "exit-code", false, "with --dry-run: 7 when something differs")
	f.BoolVar(&p.yes, "yes", false, "do not ask")
	f.BoolVar(&p.prune, "prune", false, "ask for the deletion of what the document does not list, of its applications")
	f.BoolVar(&p.wait, "wait", false, "wait until all was approved and carried out, for as long as --timeout says (default then: 1 hour)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return p.run(cmd) }
	return cmd
}

// applied is what apply has done, as JSON.
type applied struct {
	Batch   string            `json:"batch"`
	Steps   []manifest.Step   `json:"steps"`
	Filed   map[string]string `json:"filed,omitempty"`   // request by "kind name"
	Refused map[string]string `json:"refused,omitempty"` // why, by "kind name"
	Ended   map[string]int    `json:"ended,omitempty"`   // requests by state, with --wait
}

func (p *applying) run(cmd *cobra.Command) error {
	switch {
	case p.file == "":
		return usagef("--file is missing: name a file, or - for standard input")
	case p.file == "-" && !p.yes && !p.dryRun:
		return usagef("--file -: standard input is the document, so nobody can be asked: add --yes or --dry-run")
	case p.differs && !p.dryRun:
		return usagef("--exit-code is for --dry-run")
	}
	data, err := p.read()
	if err != nil {
		return err
	}
	doc, err := manifest.Read(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", p.file, err)
	}
	if p.batch == "" {
		p.batch = fmt.Sprintf("apply-%.8x", sha256.Sum256(data))
	}
	if p.reason == "" {
		p.reason = "turnout apply -f " + p.file
	}
	return p.with(cmd, longRun, func(ctx context.Context, c *api.Client) error {
		now, err := platformNow(ctx, c)
		if err != nil {
			return err
		}
		plan, err := doc.Compare(now, p.prune)
		if err != nil {
			return err
		}
		return p.apply(ctx, c, plan)
	})
}

func (p *applying) read() ([]byte, error) {
	if p.file == "-" {
		return io.ReadAll(p.stdin)
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	return data, nil
}

// platformNow reads the catalog, and which requests there are about it.
func platformNow(ctx context.Context, c *api.Client) (now manifest.Now, err error) {
	// The requests first: what one of them has made when the catalog is read is equal.
	if now.Requests, err = pages[*store.ChangeRequest](ctx, c, "/requests", url.Values{"state": {stateList(manifest.Relevant)}}, everything); err != nil {
		return now, err
	}
	for _, kind := range []string{store.CatalogCluster, store.CatalogTopic, store.CatalogGroup} {
		items, err := pages[listed](ctx, c, "/"+kind+"s", url.Values{}, everything)
		if err != nil {
			return now, err
		}
		for _, i := range items {
			now.Catalog = append(now.Catalog, i.item(kind))
		}
	}
	return now, nil
}

// listed is what the lists of topics, groups and clusters have in common.
type listed struct {
	Name     string             `json:"name"`
	App      string             `json:"app"`
	State    inventory.State    `json:"state"`
	Document json.RawMessage    `json:"document"`
	Catalog  *inventory.Managed `json:"catalog"`
}

func (l listed) item(kind string) *store.CatalogItem {
	i := &store.CatalogItem{Kind: kind, Name: l.Name, App: l.App, Doc: l.Document, State: manifest.Unmanaged}
	if l.Catalog == nil {
		return i
	}
	i.Cluster, i.Partitions, i.Labels, i.Doc, i.State = l.Catalog.Cluster, l.Catalog.Partitions, l.Catalog.Labels, l.Catalog.Doc, store.Active
	switch l.State { //nolint:exhaustive // the others are those of ZooKeeper
	case inventory.Creating:
		i.State = store.Creating
	case inventory.Deleting:
		i.State = store.Deleting
	}
	return i
}

func stateList(list []store.RequestState) string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = string(s)
	}
	return strings.Join(names, ",")
}

func (p *applying) apply(ctx context.Context, c *api.Client, plan manifest.Plan) error {
	done := applied{Batch: p.batch, Steps: plan.Steps}
	toFile := plan.ToFile()
	ask := !p.dryRun && len(toFile) > 0
	if !p.json() {
		if err := p.show(nil, func(w io.Writer) { showDifference(w, plan) }); err != nil {
			return err
		}
	}
	if ask && !p.yes {
		sure, err := p.confirm(fmt.Sprintf("File %s as batch %s?", count.Of(len(toFile), "request", "requests"), p.batch))
		if err != nil {
			return err
		}
		ask = sure
	}
	var refused []error
	if ask {
		var err error
		if done.Filed, done.Refused, refused, err = p.fileAll(ctx, c, toFile); err != nil {
			return err
		}
	}
	var waiting error
	if p.wait && !p.dryRun && (ask || len(toFile) == 0) {
		var ids []string
		for _, id := range done.Filed {
			ids = append(ids, id)
		}
		for _, s := range plan.Steps {
			if s.Action == manifest.Pending {
				ids = append(ids, s.Waiting)
			}
		}
		done.Ended, waiting = p.follow(ctx, c, p.batch, ids)
	}
	if p.json() {
		if err := p.show(done, nil); err != nil {
			return err
		}
	} else if len(done.Filed) > 0 {
		fmt.Fprintf(p.stdout, "%s filed as batch %s", count.Of(len(done.Filed), "request", "requests"), p.batch)
		if !p.wait {
			fmt.Fprintf(p.stdout, "; somebody else approves them: turnout request approve --batch %s", p.batch)
		}
		fmt.Fprintln(p.stdout)
	}
	return errors.Join(p.verdict(plan, refused, len(done.Filed)), waiting)
}

// verdict is the error of what is not as the document wants it, and is not going to be.
func (p *applying) verdict(plan manifest.Plan, refused []error, filed int) error {
	var all []error
	if n := plan.Blocked(); n > 0 {
		all = append(all, markedError{fmt.Errorf("%d can not be changed by apply, see above", n), errVerdict})
	}
	if len(refused) > 0 {
		err := fmt.Errorf("%d were refused: %w", len(refused), errors.Join(refused[:min(len(refused), mostShown)]...))
		if filed > 0 || len(all) > 0 {
			err = markedError{err, errVerdict}
		}
		all = append(all, err)
	}
	if p.dryRun && p.differs && plan.Differs() && len(all) == 0 {
		all = append(all, markedError{errors.New("something differs"), errVerdict})
	}
	return errors.Join(all...)
}

// fileAll files the requests, kind by kind, as what comes later may need what comes before. What the platform refuses is noted, and the
// rest goes on; err: it can not go on.
func (p *applying) fileAll(ctx context.Context, c *api.Client, steps []manifest.Step) (filed, why map[string]string, refused []error, err error) {
	filed, why = map[string]string{}, map[string]string{}
	var mu sync.Mutex
	err = inOrder(steps, func(s manifest.Step) string { return string(s.Action) + s.Kind }, func(s manifest.Step) error {
		n := *s.Request
		n.Batch, n.Reason = p.batch, p.reason
		var r store.ChangeRequest
		err := c.Change(ctx, http.MethodPost, "/requests", 0, n, &r)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			filed[s.Kind+" "+s.Name] = r.ID
		case passing(err):
			return fmt.Errorf("%s %s: %w; %s filed, say the command again to go on", s.Kind, s.Name, err, count.Of(len(filed), "request was", "requests were"))
		default:
			why[s.Kind+" "+s.Name] = flat(err)
			refused = append(refused, fmt.Errorf("%s %s: %w", s.Kind, s.Name, err))
			return hopeless(len(filed), refused)
		}
		return nil
	})
	return filed, why, refused, err
}

// passing says that an error is not about what was asked for: it would be the same for the next one.
func passing(err error) bool {
	return errors.Is(err, api.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, people.ErrUnauthenticated)
}

// hopeless is the error of a command whose first calls were all refused: so would be the others.
func hopeless(done int, refused []error) error {
	if done > 0 || len(refused) < mostShown {
		return nil
	}
	return fmt.Errorf("the first %d were all refused, and the others were not tried: %w", len(refused), errors.Join(refused...))
}

// atOnce is how many calls a command makes at a time.
const atOnce = 4

// inOrder does something with all, one group of neighbours with the same key after the other, and within a group some at a time.
func inOrder[T any](all []T, key func(T) string, do func(T) error) error {
	for len(all) > 0 {
		n := 1
		for n < len(all) && key(all[n]) == key(all[0]) {
			n++
		}
		var g errgroup.Group
		g.SetLimit(atOnce)
		var mu sync.Mutex
		var failed error
		for _, one := range all[:n] {
			g.Go(func() error {
				mu.Lock()
				stop := failed != nil
				mu.Unlock()
				if stop {
					return nil
				}
				err := do(one)
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// confirm asks for a yes.
func (a *app) confirm(question string) (bool, error) {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	if answer == "" { // nobody was there to answer
		return false, usagef("nobody answers on standard input, and nothing was done: give --yes")
	}
	fmt.Fprintln(a.stderr, "nothing was done")
	return false, nil
}

// describe is what a step creates, in a few words.
func describe(r *requests.New) string {
	switch {
	case r == nil:
		return ""
	case r.Cluster != nil:
		return fmt.Sprintf("%s %s", r.Cluster.Kind, strings.Join(r.Cluster.Addresses, ","))
	case r.Topic != nil:
		on := r.Topic.Cluster
		if on == "" {
			on = "a cluster that is allotted"
		}
		return fmt.Sprintf("app %s, %s on %s", r.Topic.App, count.Of(r.Topic.Partitions, "partition", "partitions"), on)
	case r.Group != nil:
		return fmt.Sprintf("app %s, reads %s", r.Group.App, strings.Join(r.Group.Topics, ","))
	}
	return ""
}

// showDifference shows all but what is equal.
func showDifference(w io.Writer, plan manifest.Plan) {
	counts := map[manifest.Action]int{}
	for _, s := range plan.Steps {
		counts[s.Action]++
		if s.Action == manifest.Equal {
			continue
		}
		text := s.Note
		if s.Action == manifest.Create {
			text = describe(s.Request)
		}
		row(w, s.Action, s.Kind, s.Name, oneLineOrNone(text))
		for _, f := range s.Fields {
			change := fmt.Sprintf("%s: %s → %s", f.Name, orNone(f.From), orNone(f.To))
			if f.Why != "" {
				change += " can not be changed this way: " + f.Why
			}
			row(w, " ", " ", " ", change)
		}
	}
	var sum []string
	for _, a := range []manifest.Action{manifest.Create, manifest.Change, manifest.Delete, manifest.Pending, manifest.Failed, manifest.Impossible, manifest.Kept, manifest.Equal} {
		if counts[a] > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", counts[a], a))
		}
	}
	fmt.Fprintln(w, strings.Join(sum, ", "))
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}
