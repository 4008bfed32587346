package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// A call that changes something may be repeated with the same key (draft-ietf-httpapi-idempotency-key-header): whoever sends it again,
// to whatever server, gets the answer of the first one, and it is carried out once. That is noted in the transaction of the change,
// see store.WithKeyedCall, so also a server that dies before it answers does it once.

const (
	keyLife    = 24 * time.Hour
	keyShort   = 8 // characters
	keyLong    = 255
	keyPoll    = 50 * time.Millisecond // how often it is looked whether the first one has ended
	keySweep   = time.Hour
	lateAnswer = 5 * time.Second // to store an answer when the client has gone
)

// The properties of operations, in their Metadata.
const (
	harmlessCall = "harmless"  // changes nothing
	secretCall   = "shownOnce" // its answer has a secret, which is not kept
)

// harmless is for calls that change nothing, whatever their method.
func harmless(op *huma.Operation) { mark(op, harmlessCall) }

// shownOnce is for calls whose answer has a secret.
func shownOnce(op *huma.Operation) { mark(op, secretCall) }

func mark(op *huma.Operation, what string) {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[what] = true
}

// repeatable lets an operation take a key. What the operation needs is asked before: nobody sees an answer that the call itself would
// not have given.
func (s *server) repeatable(op *huma.Operation) {
	shortest, most := keyShort, keyLong
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: api.KeyHeader, In: "header", Example: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		Description: "Chosen by the client, such as a UUID. Whoever repeats the call with it within 24 hours, at any server, gets the first answer, and it is carried out once.",
		Schema:      &huma.Schema{Type: huma.TypeString, MinLength: &shortest, MaxLength: &most},
	})
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if len(r.Header.Values(api.KeyHeader)) == 0 {
			next(ctx)
			return
		}
		call, mine, err := s.turn(r)
		switch {
		case err != nil:
			s.fail(w, r, err)
		case mine:
			s.carryOut(ctx, call, next)
		default:
			s.repeat(w, r, op, call)
		}
	})
}

// turn waits until it is this request's turn, or the first one with its key has ended.
func (s *server) turn(r *http.Request) (call *store.KeyedCall, mine bool, err error) {
	key, err := keyOf(r.Header.Values(api.KeyHeader))
	if err != nil {
		return nil, false, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, false, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	who := sha256.Sum256([]byte(people.From(ctx).Name + "\x00" + key))
	// Of a body with a password no more is stored than can be tried out by who knows the key, which is not stored.
	seal := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(seal, "%s %s\n%s\n", r.Method, r.URL.RequestURI(), r.Header.Get("If-Match"))
	seal.Write(body)
	wanted := store.KeyedCall{Hash: hex.EncodeToString(who[:]), Fingerprint: hex.EncodeToString(seal.Sum(nil)), Server: s.id}
	for {
		wanted.Since = time.Now()
		wanted.Expires = wanted.Since.Add(keyLife)
		call, mine, err = s.db.BeginKeyed(ctx, wanted)
		switch {
		case errors.Is(err, errs.ErrConflict):
			continue
		case err != nil || mine:
			return call, mine, err
		case call.Fingerprint != wanted.Fingerprint:
			return nil, false, api.KeyReused()
		case call.Answer.Status != 0:
			return call, false, nil
		}
		ended, err := s.abandoned(ctx, call)
		if err != nil {
			return nil, false, err
		}
		if ended && call.Subject != "" {
			return call, false, nil
		}
		if ended {
			if mine, err = s.db.TakeKeyed(ctx, call, s.id, time.Now()); mine || err != nil {
				return call, mine, err
			}
		}
		select {
		case <-time.After(keyPoll):
		case <-s.stopping.Done():
			return nil, false, fmt.Errorf("%w: it is stopping", api.ErrUnavailable)
		case <-ctx.Done():
			return nil, false, fmt.Errorf("%w: the first request with this %s is still under way: repeat it later", errs.ErrConflict, api.KeyHeader)
		}
	}
}

// abandoned says whether nobody works on a call any more.
func (s *server) abandoned(ctx context.Context, c *store.KeyedCall) (bool, error) {
	if c.Server == "" || time.Since(c.Since) > longest+lateAnswer {
		return true, nil
	}
	if c.Server == s.id {
		return false, nil
	}
	node, err := s.meta.Read(ctx, api.ServersPath(s.meta.Layout)+"/"+c.Server)
	return err == nil && !node.Exists, err
}

// keyOf reads the header: a string of RFC 8941, or the text alone.
func keyOf(values []string) (string, error) {
	key := values[0]
	if len(key) > 1 && key[0] == '"' {
		if text, err := strconv.Unquote(key); err == nil {
			key = text
		}
	}
	if len(values) > 1 || len(key) < keyShort || len(key) > keyLong || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", fmt.Errorf("%w: %s: must be one text of %d to %d printable ASCII characters, such as a UUID", errs.ErrInvalid, api.KeyHeader, keyShort, keyLong)
	}
	return key, nil
}

// carryOut lets a call happen and stores its answer before it is sent.
func (s *server) carryOut(ctx huma.Context, call *store.KeyedCall, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	answer := &answered{header: http.Header{}}
	ended := false
	// A call that panics has ended too.
	defer func() {
		storing, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), lateAnswer)
		defer cancel()
		var err error
		if ended && answer.status < http.StatusBadRequest {
			keep := store.KeyedAnswer{Status: answer.status, ETag: answer.header.Get("ETag"), ContentType: answer.header.Get("Content-Type")}
			if ctx.Operation().Metadata[secretCall] == nil {
				keep.Body = answer.body.String()
			}
			err = s.db.EndKeyed(storing, call, keep)
		} else {
			// What was refused has changed nothing that matters. What has failed may have.
			err = s.db.DropKeyed(storing, call, !ended || answer.status >= http.StatusInternalServerError)
		}
		if err != nil {
			s.log.Warn("the answer to a request with a key is not kept", zap.String("path", r.URL.Path), zap.Error(err))
		}
		if ended {
			answer.send(w)
		}
	}()
	next(humago.NewContext(ctx.Operation(), r.WithContext(store.WithKeyedCall(r.Context(), call)), answer))
	ended = true
}

// reread says where that is, which a call has made or changed, and which its answer shows.
var reread = map[string]string{"request": "/api/v1/requests/", "migration": "/api/v1/migrations/"}

// repeat answers a call that was carried out before.
func (s *server) repeat(w http.ResponseWriter, r *http.Request, op *huma.Operation, c *store.KeyedCall) {
	w.Header().Set(api.ReplayHeader, "true")
	again := &answered{header: http.Header{}, status: c.Answer.Status}
	switch {
	case op.Metadata[secretCall] != nil:
		s.fail(w, r, fmt.Errorf("%w: the first request with this %s was carried out (%s %s), and its answer alone has shown the secret: if that was lost, end it and make another one, with another key",
			errs.ErrConflict, api.KeyHeader, c.Kind, c.Subject))
		return
	case c.Answer.Status != 0:
		again.keep("ETag", c.Answer.ETag)
		again.keep("Content-Type", c.Answer.ContentType)
		again.body.WriteString(c.Answer.Body)
	case op.DefaultStatus == http.StatusNoContent:
		again.status = http.StatusNoContent
	case reread[c.Kind] != "": // the server that did it has not told what it would have answered
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		get.URL.Path, get.URL.RawPath, get.URL.RawQuery = reread[c.Kind]+c.Subject, "", ""
		if s.calls.ServeHTTP(again, get); again.status == http.StatusOK {
			again.status = op.DefaultStatus
			break
		}
		fallthrough
	default:
		s.fail(w, r, fmt.Errorf("%w: the first request with this %s was carried out (%s %s), and its answer is lost: look what is there", errs.ErrConflict, api.KeyHeader, c.Kind, c.Subject))
		return
	}
	again.send(w)
}

// sweepKeys removes what has expired, until ctx ends.
func (s *server) sweepKeys(ctx context.Context) {
	tick := time.NewTicker(keySweep)
	defer tick.Stop()
	for {
		if err := s.db.SweepKeyed(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("keys that have expired can not be removed", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// answered is an answer that is not sent yet.
type answered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is that of http.ResponseWriter.
func (a *answered) Header() http.Header { return a.header }

// WriteHeader is that of http.ResponseWriter.
func (a *answered) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write is that of http.ResponseWriter.
func (a *answered) Write(data []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(data)
}

func (a *answered) keep(name, value string) {
	if value != "" {
		a.header.Set(name, value)
	}
}

func (a *answered) send(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(a.status, http.StatusOK))
	_, _ = w.Write(a.body.Bytes()) // who asked may have gone
}
