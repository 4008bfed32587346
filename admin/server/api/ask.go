package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Read asks for a document. path is below /api/v1 and begins with a slash.
func (c *Client) Read(ctx context.Context, path string, query url.Values, into any) error {
	return c.ask(ctx, question{method: http.MethodGet, path: path, query: query, harmless: true}, into)
}

// Change asks for a change; version is that of what was read before, 0 where none is needed; in and into may be nil. It is sent with a
// key, so that it happens once when another server has to be asked.
func (c *Client) Change(ctx context.Context, method, path string, version int64, in, into any) error {
	return c.ask(ctx, question{method: method, path: path, in: in, version: version, key: uuid.NewString()}, into)
}

// Once asks for a change for which one need not be logged in, such as a claim. There are no keys for these: it is sent to another server
// only when it certainly did not arrive.
func (c *Client) Once(ctx context.Context, method, path string, in, into any) error {
	return c.ask(ctx, question{method: method, path: path, in: in}, into)
}

// LogIn makes a token for a user with name and password, on one server; without scopes it has all that the user may. The session that it takes for that is ended.
// people.ErrUnauthenticated: name or password is wrong.
func LogIn(ctx context.Context, server, name, password string, t people.NewToken) (token *people.Token, secret string, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, "", err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	client := &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	csrf := ""
	ask := func(ctx context.Context, method, path string, in, into any) error {
		var body []byte
		if in != nil {
			if body, err = json.Marshal(in); err != nil {
				return err
			}
		}
		req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(server, "/")+"/api/v1"+path, bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("%w: server %s: %w", errs.ErrInvalid, server, err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-CSRF-Token", csrf)
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		defer resp.Body.Close()
		return read(server, resp, into)
	}
	var session people.Session
	if err := ask(ctx, http.MethodPost, "/session", map[string]string{"name": name, "password": password}, &session); err != nil {
		return nil, "", err
	}
	csrf = session.CSRF
	if len(t.Scopes) == 0 {
		var me struct {
			Permissions []people.Permission `json:"permissions"`
		}
		if err := ask(ctx, http.MethodGet, "/session", nil, &me); err != nil {
			return nil, "", err
		}
		t.Scopes = me.Permissions
	}
	var made struct {
		people.Token
		Secret string `json:"secret"`
	}
	err = ask(ctx, http.MethodPost, "/tokens", t, &made)
	return &made.Token, made.Secret, errors.Join(err, ask(ctx, http.MethodDelete, "/session", nil, nil))
}

// read reads an answer; an error that the server has described becomes *Error.
func read(server string, resp *http.Response, into any) error {
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMost))
	if err != nil {
		return lost{err}
	}
	if resp.StatusCode < 300 {
		if into == nil || resp.StatusCode == http.StatusNoContent {
			return nil
		}
		if err := json.Unmarshal(answer, into); err != nil {
			return fmt.Errorf("server %s: its answer can not be read: %w; is that a server of Turnout?", server, err)
		}
		return nil
	}
	e := &Error{}
	if json.Unmarshal(answer, e) != nil || e.Code == "" {
		err := fmt.Errorf("server %s answers %s; is that a server of Turnout?", server, resp.Status)
		if resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	return e
}

// lost: the connection ended within the answer.
type lost struct{ error }

// ifMatch is the header of a version.
func ifMatch(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }
