package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	dialLimit  = 5 * time.Second
	tryLimit   = 30 * time.Second // for an answer to what only looks; then another server is asked
	answerMost = 64 << 20         // bytes of an answer
	pauseMost  = time.Second
)

// Options of a client.
type Options struct {
	// Token is sent as a bearer token; "": none.
	Token string
	// Patience is how long a question is asked again while no server answers. What changes something is asked again with the same key
	// (KeyHeader), so that it happens once.
	Patience time.Duration
	// Trouble, if not nil, is told why a question has to be asked again.
	Trouble func(error)
}

// Client asks the servers of a platform. Its methods may be called concurrently and end with ctx. Errors: *Error as the
// server says it; ErrUnavailable; ErrTimeout: a change was sent and its answer was lost, at every server that was asked, so that it may
// have happened or not; errs.ErrNotFound where find finds no server; ctx's.
type Client struct {
	find func(ctx context.Context) ([]string, error)
	opt  Options
	http *http.Client

	mu    sync.Mutex
	known []string // URLs, the one to ask next in front
}

// New makes a client. find says where the servers are; it is called before the first question and when none of those that
// it has named answers.
func New(find func(ctx context.Context) ([]string, error), opt Options) *Client {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout: dialLimit,
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	}
	return &Client{find: find, opt: opt, http: &http.Client{
		Transport: transport,
		// A token goes to whom it was meant for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends the idle connections. The client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// question is one request.
type question struct {
	method, path string // below /api/v1
	query        url.Values
	in           any
	harmless     bool   // it changes nothing, or the same when it arrives twice
	version      int64  // that was read before; 0: none
	key          string // with which it may arrive twice, too; "": none
}

// ask asks one server after the other, and again as long as Patience allows.
func (c *Client) ask(ctx context.Context, q question, into any) error {
	var body []byte
	if q.in != nil {
		var err error
		if body, err = json.Marshal(q.in); err != nil {
			return err
		}
	}
	var lostOnce error
	begin := time.Now()
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 50*time.Millisecond, pauseMost
	for {
		err := c.askAll(ctx, q, body, into, &lostOnce)
		again := errors.Is(err, ErrUnavailable) || errors.Is(err, errNoServer)
		if !again || ctx.Err() != nil || time.Since(begin) >= c.opt.Patience {
			if again && lostOnce != nil {
				return lostOnce
			}
			return err
		}
		if c.opt.Trouble != nil {
			c.opt.Trouble(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// errNoServer: find has named none, or failed.
var errNoServer = errors.New("no server was found")

// askAll asks each server once; those that were found first, then those that are there now. The one that answers is the last to be
// asked the next time: they take turns. lostOnce becomes the error of a change whose answer was lost.
func (c *Client) askAll(ctx context.Context, q question, body []byte, into any, lostOnce *error) error {
	var last error
	asked := map[string]bool{}
	for _, fresh := range []bool{false, true} {
		urls, err := c.servers(ctx, fresh)
		if err != nil {
			if last != nil {
				return last
			}
			return unnamed{err}
		}
		for _, u := range urls {
			if asked[u] {
				continue
			}
			asked[u] = true
			err := c.askOne(ctx, u, q, body, into, len(urls) > 1)
			c.asked(u)
			if errors.Is(err, errLost) {
				*lostOnce = err
				if q.key != "" {
					err = fmt.Errorf("%w: %w", ErrUnavailable, err)
				}
			}
			if !errors.Is(err, ErrUnavailable) {
				return err
			}
			last = err
		}
	}
	return last
}

// unnamed is an error of find: of its own kind, and one that time may mend.
type unnamed struct{ error }

func (e unnamed) Unwrap() []error { return []error{e.error, errNoServer} }

func (c *Client) servers(ctx context.Context, fresh bool) ([]string, error) {
	c.mu.Lock()
	known := c.known
	c.mu.Unlock()
	if len(known) > 0 && !fresh {
		return known, nil
	}
	urls, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = urls
	return urls, nil
}

// asked puts a server behind the others.
func (c *Client) asked(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := slices.Index(c.known, server); at >= 0 {
		c.known = append(slices.Delete(slices.Clone(c.known), at, at+1), server)
	}
}

// patience is how long one server may take to answer what only looks, so that there is time to ask another.
func patience(ctx context.Context, others bool) time.Duration {
	limit := tryLimit
	if end, ends := ctx.Deadline(); ends && others {
		limit = min(limit, time.Until(end)/2)
	}
	return limit
}

// askOne asks one server; others says that there are more. ErrUnavailable: another one may be asked.
func (c *Client) askOne(ctx context.Context, server string, q question, body []byte, into any, others bool) error {
	address := strings.TrimSuffix(server, "/") + "/api/v1" + q.path
	if len(q.query) > 0 {
		address += "?" + q.query.Encode()
	}
	trying, cancel := ctx, context.CancelFunc(func() {})
	if q.method == http.MethodGet {
		trying, cancel = context.WithTimeout(ctx, patience(ctx, others))
	}
	defer cancel()
	req, err := http.NewRequestWithContext(trying, q.method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: server %s: %w", errs.ErrInvalid, server, err)
	}
	req.Header.Set("Accept", "application/json, "+ProblemType)
	if q.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.version > 0 {
		req.Header.Set("If-Match", ifMatch(q.version))
	}
	if q.key != "" {
		req.Header.Set(KeyHeader, strconv.Quote(q.key))
	}
	if c.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(ctx, server, q, err)
	}
	defer resp.Body.Close()
	err = read(server, resp, into)
	var cut lost
	if errors.As(err, &cut) {
		return c.failed(ctx, server, q, cut.error)
	}
	return err
}

// errLost: a change was sent and its answer was lost.
var errLost = fmt.Errorf("%w", errs.ErrTimeout)

// failed is the error of a question without an answer.
func (c *Client) failed(ctx context.Context, server string, q question, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("server %s has not answered in time: %w", server, ended)
	}
	// The URL of a url.Error is the server's; what is of interest is why.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if dialed := errors.As(err, &op) && op.Op == "dial"; !dialed && !q.harmless {
		return fmt.Errorf("%w: server %s: the answer was lost, it may have happened or not: %w; look before it is repeated", errLost, server, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, server, err)
}
