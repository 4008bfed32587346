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

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Webhook is told of every change of a request's state by the server that made it: a POST of a Notice as JSON, tried up to 5 times within
// about a minute. It is a convenience and never waited for: what is not delivered when the server ends is lost, and the API
// has it all.
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
	maxNotices  = 1000 // that wait
	noticeTries = 5
	noticeLimit = 10 * time.Second
)

func (w *Webhook) check() error {
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

// tell puts a notice in the line. It never waits.
func (s *Service) tell(r *store.ChangeRequest, who, event string) {
	if s.cfg.Webhook == nil {
		return
	}
	text := r.Decision
	if r.State == store.RequestBad {
		text = r.Error
	}
	n := Notice{Event: event, Request: r.ID, Kind: r.Kind, State: r.State, Version: r.Version, App: r.App, Subject: r.Subject, Applicant: r.Applicant, Who: who, At: r.UpdatedAt, Text: text}
	select {
	case s.hooks <- n:
	default:
		s.log.Warn("a notice is dropped: the webhook does not keep up", zap.String("request", r.ID), zap.String("event", event))
	}
}

// notify sends notices, in order, until ctx ends.
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
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-s.hooks:
			pauses := backoff.NewExponentialBackOff()
			pauses.InitialInterval, pauses.MaxInterval = s.cfg.pause(1), time.Minute
			_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, w.send(ctx, client, n) },
				backoff.WithBackOff(pauses), backoff.WithMaxTries(noticeTries))
			if err != nil && ctx.Err() == nil {
				s.log.Warn("the webhook did not take a notice", zap.String("request", n.Request), zap.String("event", n.Event), zap.Error(err))
			}
		}
	}
}

func (w *Webhook) send(ctx context.Context, client *http.Client, n Notice) error {
	body, err := json.Marshal(n)
	if err != nil {
		return backoff.Permanent(err)
	}
	ctx, cancel := context.WithTimeout(ctx, noticeLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
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
		return backoff.Permanent(fmt.Errorf("status %d", code))
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
