package kafka_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv/pki"
)

func TestSASL(t *testing.T) {
	t.Parallel()
	const user, password = "order,service=1", "päss word"
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for _, version := range []string{"2.1.0", "2.2.0", "2.8.0"} { // each has another SaslAuthenticate request
			t.Run(mechanism+" "+version, func(t *testing.T) {
				k, cfg := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, user, password))
				cfg.Properties["version"] = version
				c := open(t, as(cfg, mechanism, user, password))
				name := topic(t, c, broker.TopicSpec{Partitions: 1})
				_, err := send(c, name, message("", "x"))
				require.NoError(t, err)
				join(t, c, broker.Membership{Group: "g", Topic: name}).wait(t, 1)

				wrong := as(cfg, mechanism, user, "wrong secret")
				_, err = kafka.Open(t.Context(), wrong)
				require.ErrorContains(t, err, "auth.secret")
				require.NotContains(t, err.Error(), "wrong secret")

				k.ControlKey(int16(kmsg.SASLAuthenticate), func(kreq kmsg.Request) (kmsg.Response, error, bool) { // as Kafka does it
					resp := kreq.ResponseKind().(*kmsg.SASLAuthenticateResponse)
					resp.ErrorCode = 58
					return resp, nil, true
				})
				_, err = kafka.Open(t.Context(), wrong)
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				require.ErrorContains(t, err, "auth.secret")
				require.NotContains(t, err.Error(), "wrong secret")
			})
		}
	}
}

// The login is asked at each connection: a new password needs no new Cluster, and one that can not be read for a moment
// ends nothing.
func TestLoginChanges(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			port := 0
			serve := func(password string) (*kfake.Cluster, broker.Config) {
				opts := []kfake.Opt{kfake.EnableSASL(), kfake.Superuser(mechanism, "app", password), kfake.SeedTopics(1, "t")}
				if port != 0 {
					opts = append(opts, kfake.Ports(port))
				}
				return fake(t, opts...)
			}
			first, cfg := serve("one")
			_, number, err := net.SplitHostPort(cfg.Addresses[0])
			require.NoError(t, err)
			port, err = strconv.Atoi(number)
			require.NoError(t, err)

			var password atomic.Pointer[string]
			set := func(to string) { password.Store(&to) }
			set("one")
			cfg = as(cfg, mechanism, "", "")
			cfg.Properties["send.timeout"] = "5s"
			cfg.Login = func() (string, string, error) {
				if p := *password.Load(); p != "" {
					return "app", p, nil
				}
				return "", "", fmt.Errorf("%w: the file is being replaced", errs.ErrInvalid)
			}
			c := open(t, cfg)
			_, err = send(c, "t", message("", "1"))
			require.NoError(t, err)
			r := join(t, c, broker.Membership{Group: "g", Topic: "t"})
			r.wait(t, 1)

			set("")
			first.Close()
			second, _ := serve("two")
			require.Equal(t, cfg.Addresses, second.ListenAddrs())
			_, err = send(c, "t", message("", "2"))
			require.Error(t, err)
			require.Equal(t, broker.Retry, c.Classify(err), err)
			set("two")
			require.Eventually(t, func() bool {
				_, err := send(c, "t", message("", "2"))
				return err == nil
			}, patience, 10*time.Millisecond)
			require.Eventually(t, func() bool {
				all := r.all()
				return string(all[len(all)-1].Body) == "2"
			}, patience, 10*time.Millisecond)
			_, err = c.DescribeTopic(t.Context(), "t")
			require.NoError(t, err)
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority, err := pki.NewAuthority("ours")
	require.NoError(t, err)
	other, err := pki.NewAuthority("another")
	require.NoError(t, err)
	issue := func(a *pki.Authority, r pki.Request) tls.Certificate {
		pair, err := a.Issue(r)
		require.NoError(t, err)
		cert, err := pair.Certificate()
		require.NoError(t, err)
		return cert
	}
	here := []string{"127.0.0.1"}
	server := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{Certificates: []tls.Certificate{issue(authority, pki.Request{Hosts: here})}, MinVersion: tls.VersionTLS12}
		change(c)
		return c
	}
	mutual := server(func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, authority.Pool() })
	good := issue(authority, pki.Request{Name: "app"})
	for name, test := range map[string]struct {
		server *tls.Config // nil: no TLS
		client func(*tls.Config)
		says   string // "": it works
	}{
		"trusted":      {server: server(func(*tls.Config) {})},
		"client":       {server: mutual, client: func(c *tls.Config) { c.Certificates = []tls.Certificate{good} }},
		"old versions": {server: server(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })},
		"another name": {server: server(func(c *tls.Config) { c.Certificates[0] = issue(authority, pki.Request{Hosts: []string{"kafka"}}) }), client: func(c *tls.Config) { c.ServerName = "kafka" }},
		"insecure":     {server: server(func(c *tls.Config) { c.Certificates[0] = issue(other, pki.Request{}) }), client: func(c *tls.Config) { c.InsecureSkipVerify = true }},
		"unknown":      {server: server(func(c *tls.Config) { c.Certificates[0] = issue(other, pki.Request{Hosts: here}) }), says: "authority as ca"},
		"expired": {server: server(func(c *tls.Config) {
			c.Certificates[0] = issue(authority, pki.Request{Hosts: here, Until: time.Now().Add(-time.Hour)})
		}), says: "renew"},
		"wrong name":     {server: server(func(c *tls.Config) { c.Certificates[0] = issue(authority, pki.Request{Hosts: []string{"kafka"}}) }), says: "serverName"},
		"no TLS":         {says: "speaks TLS"},
		"no client":      {server: mutual, says: "cert and key"},
		"foreign client": {server: mutual, client: func(c *tls.Config) { c.Certificates = []tls.Certificate{issue(other, pki.Request{})} }, says: "cert and key"},
		"expired client": {server: mutual, client: func(c *tls.Config) {
			c.Certificates = []tls.Certificate{issue(authority, pki.Request{Until: time.Now().Add(-time.Hour)})}
		}, says: "cert and key"},
		"old foreign one": {server: server(func(c *tls.Config) { *c = *mutual.Clone(); c.MaxVersion = tls.VersionTLS12 }), says: "cert and key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts []kfake.Opt
			if test.server != nil {
				opts = append(opts, kfake.TLS(test.server))
			}
			_, cfg := fake(t, opts...)
			logged, logs := observer.New(zap.WarnLevel)
			cfg.Logger = zap.New(logged)
			cfg.TLS = func() (*tls.Config, error) {
				c := &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}
				if test.client != nil {
					test.client(c)
				}
				return c, nil
			}
			if test.says != "" {
				ctx, cancel := within(patience)
				defer cancel()
				_, err := kafka.Open(ctx, cfg)
				require.ErrorContains(t, err, test.says)
				require.ErrorContains(t, err, cfg.Addresses[0])
				require.NoError(t, ctx.Err())
				return
			}
			c := open(t, cfg)
			queue := topic(t, c, broker.TopicSpec{Partitions: 1})
			_, err := send(c, queue, message("", "x"))
			require.NoError(t, err)
			join(t, c, broker.Membership{Group: "g", Topic: queue}).wait(t, 1)
			warned := 0
			if name == "insecure" {
				warned = 1
			}
			require.Equal(t, warned, logs.FilterMessageSnippet("tls.insecure").Len())
		})
	}
}

// Who may write but not look at settings can send; who may not write is told so.
func TestPermissions(t *testing.T) {
	t.Parallel()
	acl := func(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	_, cfg := fake(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, "open", "readable"),
		kfake.Superuser("PLAIN", "root", "root"),
		kfake.User("PLAIN", "app", "app",
			acl(kmsg.ACLResourceTypeTopic, "open", kmsg.ACLOperationWrite),
			acl(kmsg.ACLResourceTypeTopic, "open", kmsg.ACLOperationRead),
			acl(kmsg.ACLResourceTypeTopic, "readable", kmsg.ACLOperationRead),
			acl(kmsg.ACLResourceTypeGroup, "mine", kmsg.ACLOperationRead)))
	c := open(t, as(cfg, "PLAIN", "app", "app"))
	ctx, cancel := within(patience)
	defer cancel()

	require.NoError(t, c.Warm(ctx, "open"))
	_, err := send(c, "open", message("", "x"))
	require.NoError(t, err)
	info, err := c.DescribeTopic(ctx, "open")
	require.NoError(t, err)
	require.Zero(t, info.MaxMessageBytes)
	require.False(t, info.Fenced)
	join(t, c, broker.Membership{Group: "mine", Topic: "open"}).wait(t, 1)
	_, err = send(c, "readable", message("", "x"))
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.Equal(t, broker.Fatal, c.Classify(err))
	require.ErrorIs(t, c.CreateTopic(ctx, "new", broker.TopicSpec{}), errs.ErrNotAllowed)
	_, err = c.Positions(ctx, "theirs", "open")
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	member, err := c.Join(ctx, broker.Membership{Group: "theirs", Topic: "open", Claim: func(context.Context, broker.Claim) {}})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		st := member.State()
		return st.Err != nil && !st.Attached
	}, patience, 10*time.Millisecond)
	require.ErrorIs(t, member.State().Err, errs.ErrNotAllowed)
}
