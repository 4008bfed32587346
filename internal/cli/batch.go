package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	longRun    = time.Hour        // for what has ten thousand parts, where --timeout does not say another
	everything = math.MaxInt32    // of a list
	mostShown  = 20               // errors of one command
	followMost = 5 * time.Second  // between two looks at a batch
	openLimit  = 30 * time.Second // for a connection to a cluster
)

// batched is what a command does with each request of a batch.
type batched struct {
	state store.RequestState // of those that it is for
	what  string             // the end of the call's path, and the word for it
	done  string             // the word for what was done
	body  any
	own   bool // for one's own requests, else for those of others
	wait  bool
}

// batchFlags are those of a command that is for one request or for a batch. args is how the command checks its arguments.
func batchFlags(cmd *cobra.Command) (batch *string, yes *bool) {
	batch = cmd.Flags().String("batch", "", "all of this batch in place of one, as turnout apply has filed them; shows them and asks")
	yes = cmd.Flags().Bool("yes", false, "with --batch: do not ask")
	cmd.Use = strings.Replace(cmd.Use, " ID", " [ID]", 1)
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if (len(args) == 1) == (*batch != "") || len(args) > 1 {
			return usagef("give one ID, or --batch NAME")
		}
		return nil
	}
	return batch, yes
}

// batch does something with each request of a batch. Clusters come before topics and these before groups. What the platform refuses is
// noted, and the rest goes on.
func (p *platform) batch(cmd *cobra.Command, name string, yes bool, b batched) error {
	return p.with(cmd, longRun, func(ctx context.Context, c *api.Client) error {
		query := url.Values{"batch": {name}, "state": {string(b.state)}}
		if !b.own {
			query.Set("others", "true")
		}
		all, err := pages[*store.ChangeRequest](ctx, c, "/requests", query, everything)
		if err != nil {
			return err
		}
		var under []string
		if b.wait && b.what == "approve" {
			if under, err = p.underWay(ctx, c, name); err != nil {
				return err
			}
		}
		if len(all) == 0 && len(under) == 0 {
			return p.nothing(ctx, c, name, b)
		}
		slices.SortStableFunc(all, func(x, y *store.ChangeRequest) int { return slices.Index(order, x.Kind) - slices.Index(order, y.Kind) })
		if !yes && len(all) > 0 {
			showBatch(p.stderr, all)
			sure, err := p.confirm(fmt.Sprintf("%s the %s of batch %s?", b.what, count.Of(len(all), "request", "requests"), name))
			if err != nil || !sure {
				return err
			}
		}
		done, refused, err := p.each(ctx, c, all, b)
		if err != nil {
			return err
		}
		var waiting error
		var ended map[string]int
		if b.wait {
			ended, waiting = p.follow(ctx, c, name, append(under, done...))
		}
		why := make([]string, len(refused))
		for i, err := range refused {
			why[i] = flat(err)
		}
		err = p.show(map[string]any{"batch": name, b.done: len(done), "refused": why, "ended": ended}, func(w io.Writer) {
			if len(all) == 0 {
				fmt.Fprintf(w, "batch %s: nothing was left to approve\n", name)
				return
			}
			fmt.Fprintf(w, "%d of %s of batch %s %s\n", len(done), count.Of(len(all), "request", "requests"), name, b.done)
		})
		if len(refused) > 0 {
			first := fmt.Errorf("%s refused: %w", count.Of(len(refused), "was", "were"), errors.Join(refused[:min(len(refused), mostShown)]...))
			if len(done) > 0 {
				first = markedError{first, errVerdict}
			}
			err = errors.Join(err, first)
		}
		return errors.Join(err, waiting)
	})
}

// underWay are the requests of a batch that are approved already: by somebody, or because they needed no approval.
func (p *platform) underWay(ctx context.Context, c *api.Client, name string) (ids []string, err error) {
	approved := stateList([]store.RequestState{store.Approved, store.Executing, store.RequestOK, store.RequestBad})
	all, err := pages[*store.ChangeRequest](ctx, c, "/requests", url.Values{"batch": {name}, "state": {approved}}, everything)
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// order is that in which requests need each other.
var order = []string{requests.KindCluster, requests.KindTopic, requests.KindGroup, requests.KindSettings}

// nothing says why there is nothing to do.
func (p *platform) nothing(ctx context.Context, c *api.Client, name string, b batched) error {
	some, err := pages[*store.ChangeRequest](ctx, c, "/requests", url.Values{"batch": {name}}, everything)
	switch {
	case err != nil:
		return err
	case len(some) == 0:
		return fmt.Errorf("%w: there is no batch %s; turnout request list shows requests", errs.ErrNotFound, name)
	}
	counts := map[string]int{}
	for _, r := range some {
		counts[string(r.State)]++
	}
	whose := ""
	if !b.own {
		whose = " of somebody else"
	}
	return fmt.Errorf("%w: batch %s has no %s request%s: %s", errs.ErrConflict, name, b.state, whose, tally(counts))
}

// tally is "3 approved, 12 done".
func tally(counts map[string]int) string {
	var parts []string
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[word], word))
	}
	return strings.Join(parts, ", ")
}

// showBatch says what is asked for: the counts, and the first of each kind.
func showBatch(w io.Writer, all []*store.ChangeRequest) {
	const first = 10
	byKind, byWho, byApp := map[string]int{}, map[string]int{}, map[string]int{}
	for _, r := range all {
		byKind[r.Kind]++
		byWho[r.Applicant]++
		if r.App != "" {
			byApp[r.App]++
		}
		if n := byKind[r.Kind]; n <= first {
			fmt.Fprintf(w, "%s  %s  %s  %s\n", r.ID, r.Kind, r.Subject, oneLine(r.Spec))
		} else if n == first+1 {
			fmt.Fprintf(w, "… more of kind %s: turnout request list --batch %s --kind %s\n", r.Kind, r.Batch, r.Kind)
		}
	}
	fmt.Fprintf(w, "kinds: %s; filed by: %s; applications: %s\n", tally(byKind), tally(byWho), shortTally(byApp, first))
}

// shortTally is a tally of the most frequent words.
func shortTally(counts map[string]int, most int) string {
	if len(counts) <= most {
		return tally(counts)
	}
	words := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return counts[b] - counts[a] })
	short := map[string]int{}
	for _, word := range words[:most] {
		short[word] = counts[word]
	}
	return fmt.Sprintf("%s, and %d more", tally(short), len(counts)-most)
}

// each does it. Every call names the version that was read, so that what was shown is what is decided.
func (p *platform) each(ctx context.Context, c *api.Client, all []*store.ChangeRequest, b batched) (done []string, refused []error, err error) {
	var mu sync.Mutex
	err = inOrder(all, func(r *store.ChangeRequest) string { return r.Kind }, func(r *store.ChangeRequest) error {
		err := c.Change(ctx, http.MethodPost, "/requests/"+url.PathEscape(r.ID)+"/"+b.what, r.Version, b.body, nil)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			done = append(done, r.ID)
		case passing(err):
			return fmt.Errorf("%s: %w; %d were %s, say the command again to go on", r.ID, err, len(done), b.done)
		default:
			refused = append(refused, fmt.Errorf("%s %s %s: %w", r.ID, r.Kind, r.Subject, err))
			return hopeless(len(done), refused)
		}
		return nil
	})
	return done, refused, err
}

// follow waits until requests of a batch, and perhaps some of others, have ended, and says how far they are. It counts them by state. The
// error is a verdict when one is not done.
func (p *platform) follow(ctx context.Context, c *api.Client, batch string, ids []string) (map[string]int, error) {
	of := map[string]bool{}
	for _, id := range ids {
		of[id] = true
	}
	said := ""
	for {
		begin := time.Now()
		open, err := pages[*store.ChangeRequest](ctx, c, "/requests", url.Values{"state": {stateList([]store.RequestState{store.Submitted, store.Approved, store.Executing})}}, everything)
		if err != nil {
			return nil, fmt.Errorf("batch %s goes on: %w", batch, err)
		}
		left := map[string]int{}
		n := len(of)
		for _, r := range open {
			if of[r.ID] {
				left[string(r.State)]++
				n--
			}
		}
		if n > 0 {
			left["ended"] = n
		}
		if now := tally(left); now != said {
			fmt.Fprintf(p.stderr, "batch %s: %s\n", batch, now)
			said = now
		}
		if n == len(of) {
			return p.outcome(ctx, c, batch, of)
		}
		select {
		case <-ctx.Done():
			return left, fmt.Errorf("batch %s is not done yet and goes on: %w", batch, ctx.Err())
		case <-time.After(min(followMost, max(requestLook, 5*time.Since(begin)))):
		}
	}
}

// outcome reads what has become of requests.
func (p *platform) outcome(ctx context.Context, c *api.Client, batch string, of map[string]bool) (map[string]int, error) {
	all, err := pages[*store.ChangeRequest](ctx, c, "/requests", url.Values{"batch": {batch}}, everything)
	if err != nil {
		return nil, err
	}
	known := map[string]*store.ChangeRequest{}
	for _, r := range all {
		known[r.ID] = r
	}
	counts := map[string]int{}
	var bad []error
	for _, id := range slices.Sorted(maps.Keys(of)) {
		r := known[id]
		if r == nil { // of another batch
			r = &store.ChangeRequest{}
			if err := c.Read(ctx, "/requests/"+url.PathEscape(id), nil, r); err != nil {
				return nil, err
			}
		}
		counts[string(r.State)]++
		if r.State != store.RequestOK {
			bad = append(bad, fmt.Errorf("%s %s %s is %s: %s", r.ID, r.Kind, r.Subject, r.State, oneLineOrNone(firstOf(r.Error, r.Decision))))
		}
	}
	if len(bad) == 0 {
		return counts, nil
	}
	return counts, markedError{fmt.Errorf("%s: %w", tally(counts), errors.Join(bad[:min(len(bad), mostShown)]...)), errVerdict}
}
