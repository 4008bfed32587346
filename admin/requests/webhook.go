package requests

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Webhook is told of every change of a request's state, and of guards of migrations: a POST of a Notice, or a migrate.Notice, as
// JSON. A notice is stored together with the change, so it outlives the server, and is told by one server at a time until the receiver takes it (status 2xx), refuses it (4xx, but not
// 408 and 429), or it is a day old. Notices come at least once; those of one request in their order. Nothing waits for them.
// All servers of a store are given the same one.
type Webhook struct {
	URL string // http or https, without user and password
	// Secret refers to the key that notices are signed with: env:NAME or file:PATH, read for each notice. "": not signed.
	Secret  string
	Secrets metadata.Secrets // nil: metadata.ResolveSecret
	Client  *http.Client     // nil: one with a limit of 10 s that follows no redirects
}

// The headers of a notice. The signature is "sha256=" and the HMAC-SHA256, in hex, of the time stamp, a dot and the body: who receives
// it compares in constant time and refuses old time stamps.
const (
	SignatureHeader = "X-Turnout-Signature"
	TimestampHeader = "X-Turnout-Timestamp" // seconds since 1970
)

// Notice tells of a change of a request's state.
type Notice struct {
	Event     string             `json:"event"` // "submitted", "approved", …, as in the history
	Request   string             `json:"request"`
	Kind      string             `json:"kind"`
	State     store.RequestState `json:"state"`
	Version   int64              `json:"version"`
	App       string             `json:"app,omitempty"`
	Subject   string             `json:"subject"`
	Applicant string             `json:"applicant"`
	Who       string             `json:"who"`
	At        time.Time          `json:"at"`
	Text      string             `json:"text,omitempty"` // of a decision or a failure
}

const (
	noticeLimit = 10 * time.Second // for one try
	noticeHeld  = time.Minute      // by a server that died
	noticeAge   = 24 * time.Hour   // then it is given up
	leaveLimit  = 2 * time.Second
)

// Check is ErrInvalid if notices can not be sent like this; it reads the secret.
func (w *Webhook) Check() error {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%w: webhook URL: must be http://… or https://… with a host", errs.ErrInvalid)
	}
	if u.User != nil {
		return fmt.Errorf("%w: webhook URL (not shown): must be without user and password; sign with a secret instead", errs.ErrInvalid)
	}
	if w.Secret == "" {
		return nil
	}
	_, err = w.key()
	return err
}

func (w *Webhook) key() ([]byte, error) {
	resolve := w.Secrets
	if resolve == nil {
		resolve = metadata.ResolveSecret
	}
	text, err := resolve(w.Secret)
	if err != nil {
		return nil, fmt.Errorf("secret of the webhook: %w", err)
	}
	return []byte(text), nil
}

// telling makes the notice of a change that who has made; nil: there is no webhook.
func (s *Service) telling(who, event string) func(*store.ChangeRequest) (json.RawMessage, error) {
	if s.cfg.Webhook == nil {
		return nil
	}
	return func(r *store.ChangeRequest) (json.RawMessage, error) {
		text := r.Decision
		if r.State == store.RequestBad {
			text = r.Error
		}
		return json.Marshal(Notice{Event: event, Request: r.ID, Kind: r.Kind, State: r.State, Version: r.Version, App: r.App, Subject: r.Subject,
			Applicant: r.Applicant, Who: who, At: r.UpdatedAt, Text: text})
	}
}

// notify tells the webhook what waits, the oldest first, until ctx ends.
func (s *Service) notify(ctx context.Context) {
	w := s.cfg.Webhook
	if w == nil {
		return
	}
	client := w.Client
	if client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		defer transport.CloseIdleConnections()
		client = &http.Client{Transport: transport, Timeout: noticeLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	for tries := 0; ; {
		wake := s.kicked()
		told, err := s.notifyOne(ctx, client)
		if err != nil && ctx.Err() == nil {
			tries++
			s.told.failed.Add(1)
			s.log.Warn("the webhook was not told, trying again", zap.Int("tries", tries), zap.Error(err))
			if wait(ctx, s.cfg.pause(tries)) != nil {
				return
			}
			continue
		}
		tries = 0
		if told {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(scan):
		}
	}
}

// Told says what has become of attempts to tell the webhook, at this server since it was made.
type Told struct{ Taken, Failed, GivenUp int64 }

// Told counts.
func (s *Service) Told() Told {
	return Told{s.told.taken.Load(), s.told.failed.Load(), s.told.givenUp.Load()}
}

// notifyOne tells the oldest notice, if there is one that no other server tells.
func (s *Service) notifyOne(ctx context.Context, client *http.Client) (told bool, err error) {
	now := s.cfg.now()
	n, err := s.db.HoldNotice(ctx, s.cfg.Server, now, now.Add(noticeHeld))
	if err != nil || n == nil {
		return false, err
	}
	defer func() {
		if err == nil {
			return
		}
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
		defer cancel()
		err = errors.Join(err, s.db.LeaveNotice(ending, s.cfg.Server, n.N))
	}()
	err = s.cfg.Webhook.send(ctx, client, n.Doc)
	if refused := errors.As(err, new(*refusedError)); refused || err != nil && now.Sub(n.CreatedAt) > noticeAge {
		s.told.givenUp.Add(1)
		s.log.Error("a notice is given up: the webhook did not take it", zap.ByteString("notice", n.Doc), zap.Error(err))
		err = nil
	} else if err == nil {
		s.told.taken.Add(1)
	}
	if err != nil {
		return false, err
	}
	return true, s.db.DropNotice(ctx, n.N)
}

// refusedError is an answer that says that trying again is of no use.
type refusedError struct{ status int }

// Error is that of error.
func (e *refusedError) Error() string { return fmt.Sprintf("status %d", e.status) }

func (w *Webhook) send(ctx context.Context, client *http.Client, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, noticeLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if w.Secret != "" {
		key, err := w.key()
		if err != nil {
			return err
		}
		stamp := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set(TimestampHeader, stamp)
		req.Header.Set(SignatureHeader, sign(key, stamp, body))
	}
	answer, err := client.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) { // without the URL, which may have a token in it
			err = failed.Err
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	switch code := answer.StatusCode; {
	case code < 300:
		return nil
	case code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return &refusedError{code}
	default:
		return fmt.Errorf("status %d", code)
	}
}

// sign is the signature of a notice.
func sign(key []byte, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
