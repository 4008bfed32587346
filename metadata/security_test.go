package metadata_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/pki"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

// papers are an authority and the files of a client.
type papers struct {
	t    *testing.T
	dir  string
	root *pki.Authority
	tls  metadata.TLS
}

func newPapers(t *testing.T) *papers {
	p := &papers{t: t, dir: t.TempDir()}
	p.tls.CA = filepath.Join(p.dir, "ca.crt")
	p.renew()
	return p
}

// renew makes another authority, and files of its own in the place of those before.
func (p *papers) renew() {
	var err error
	p.root, err = pki.NewAuthority("root")
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(p.tls.CA, p.root.PEM(), 0o600))
	p.tls.Cert, p.tls.Key = p.files("client", pki.Request{Name: "app"})
}

func (p *papers) files(name string, r pki.Request) (cert, key string) {
	pair, err := p.root.Issue(r)
	require.NoError(p.t, err)
	cert, key, err = pair.Write(p.dir, name)
	require.NoError(p.t, err)
	return cert, key
}

// server is the TLS of a server on 127.0.0.1 that wants certificates of clients.
func (p *papers) server() *tls.Config {
	pair, err := p.root.Issue(pki.Request{Hosts: []string{"127.0.0.1"}})
	require.NoError(p.t, err)
	cert, err := pair.Certificate()
	require.NoError(p.t, err)
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.root.Pool(), MinVersion: tls.VersionTLS12}
}

func serveTLS(t *testing.T, config *tls.Config) *zkserver.Server {
	t.Helper()
	srv, err := zkserver.Start(t.Context(), zkserver.Options{TLS: config})
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	return srv
}

func with(secured metadata.TLS) func(*metadata.Config) {
	return func(c *metadata.Config) { c.TLS = &secured }
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	var now atomic.Pointer[tls.Config]
	now.Store(p.server())
	srv := serveTLS(t, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil }})
	s, _ := open(t, srv.ConnectString(), with(p.tls))
	require.NoError(t, s.Create(short(t), "/x", []byte("1")))
	got, _ := follow(t, s, "/x")
	got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Node.Exists })

	p.renew() // nobody trusts those before
	now.Store(p.server())
	srv.DropConnections()
	require.NoError(t, s.Set(eventually(t, s), "/x", wish("b"), 0))
	got.until(t, on("b"))
}

func TestTLSThatFails(t *testing.T) {
	t.Parallel()
	p, other := newPapers(t), newPapers(t)
	secured, plain := serveTLS(t, p.server()), serve(t)
	expired := p.server()
	pair, err := p.root.Issue(pki.Request{Hosts: []string{"127.0.0.1"}, Until: time.Now().Add(-time.Hour)})
	require.NoError(t, err)
	expired.Certificates[0], err = pair.Certificate()
	require.NoError(t, err)
	change := func(f func(*metadata.TLS)) *metadata.TLS {
		c := p.tls
		f(&c)
		return &c
	}
	for name, test := range map[string]struct {
		to   *zkserver.Server
		tls  *metadata.TLS
		says string
	}{
		"unknown authority":   {secured, change(func(c *metadata.TLS) { c.CA = other.tls.CA }), "as ca"},
		"no certificate":      {secured, change(func(c *metadata.TLS) { c.Cert, c.Key = "", "" }), "cert and key"},
		"foreign certificate": {secured, change(func(c *metadata.TLS) { c.Cert, c.Key = other.tls.Cert, other.tls.Key }), "cert and key"},
		"expired server":      {serveTLS(t, expired), &p.tls, "renew"},
		"another name":        {secured, change(func(c *metadata.TLS) { c.ServerName = "zookeeper" }), "serverName"},
		"server without":      {plain, &p.tls, "TLS"},
		"client without":      {secured, nil, "the last attempt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, test.to.ConnectString(), func(c *metadata.Config) { c.TLS = test.tls })
			require.Eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := s.WaitConnected(ctx)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				return strings.Contains(err.Error(), test.says) && strings.Contains(err.Error(), "the last attempt")
			}, patience, moment)
		})
	}
	t.Run("insecure", func(t *testing.T) {
		s, logged := open(t, secured.ConnectString(), with(*change(func(c *metadata.TLS) { c.CA, c.Insecure = other.tls.CA, true })))
		_, err := s.WaitConnected(short(t))
		require.NoError(t, err)
		require.Equal(t, 1, logged.FilterMessageSnippet("tls.insecure").Len())
	})
	_, err = metadata.Open(metadata.Config{ZooKeeper: "h:1", TLS: &metadata.TLS{CA: "/nowhere/ca", Cert: p.tls.Key}})
	require.ErrorIs(t, err, errs.ErrInvalid)
	for _, part := range []string{"tls.ca", "/nowhere/ca", "TLS.cert and TLS.key", "together"} {
		require.ErrorContains(t, err, part)
	}
}

// identified is a Store whose login is in a file.
func identified(t *testing.T, srv *zkserver.Server, file string) (*metadata.Store, logs) {
	return open(t, srv.ConnectString(), func(c *metadata.Config) { c.AuthScheme, c.AuthSecret = "digest", "file:"+file })
}

func aclOf(t *testing.T, c *zk.Conn, path string) []zk.ACL {
	acl, _, err := c.GetACL(path)
	require.NoError(t, err)
	return acl
}

// An identity is replaced while everybody works: both, then the new one alone.
func TestAnIdentityIsReplaced(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	file := filepath.Join(t.TempDir(), "secret")
	write := func(lines ...string) {
		require.NoError(t, os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	const older, newer = "app:s3cr3t-1", "app:s3cr3t-2"
	both := append(zk.DigestACL(zk.PermAll, "app", "s3cr3t-1"), zk.DigestACL(zk.PermAll, "app", "s3cr3t-2")...)
	super := person(t, srv.ConnectString())
	require.NoError(t, super.AddAuth("digest", []byte(older)))
	require.NoError(t, super.AddAuth("digest", []byte(newer)))

	write(older)
	s, logged := identified(t, srv, file)
	require.NoError(t, s.Create(short(t), "/turnout/topics/t", wish("a")))
	r := s.Register("/turnout/apps/a/instances/i")
	_, err := r.Ensure(short(t), []byte("{}"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(file)) // in between it is gone for a moment
	srv.DropConnections()
	require.NoError(t, s.Set(eventually(t, s), "/turnout/topics/t", wish("b"), 0))

	write(older, newer)
	srv.DropConnections()
	require.NoError(t, s.Create(eventually(t, s), "/turnout/topics/u", wish("a")))
	require.Equal(t, both, aclOf(t, super, "/turnout/topics/u"))
	require.Equal(t, both[:1], aclOf(t, super, "/turnout/topics/t"))
	differ, err := s.Unprotected(short(t))
	require.NoError(t, err)
	require.Contains(t, differ, "/turnout/topics/t")
	require.Contains(t, differ, "/turnout/apps/a/instances/i")
	require.NotContains(t, differ, "/turnout/topics/u")
	n, err := s.Protect(short(t))
	require.NoError(t, err)
	require.Len(t, differ, n)

	write(newer)
	fresh, _ := identified(t, srv, file)
	require.NoError(t, fresh.Set(short(t), "/turnout/topics/t", wish("c"), 1))
	n, err = fresh.Protect(short(t))
	require.NoError(t, err)
	require.Positive(t, n)
	differ, err = fresh.Unprotected(short(t))
	require.NoError(t, err)
	require.Empty(t, differ)
	require.Equal(t, both[1:], aclOf(t, super, "/turnout/topics/t"))
	require.NoError(t, s.Set(short(t), "/turnout/topics/t", wish("d"), 2), "it has both")

	write(older)
	stale, staleLogs := identified(t, srv, file)
	_, err = stale.Read(short(t), "/turnout/topics/t")
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorContains(t, err, "AuthSecret")
	_, err = stale.Unprotected(short(t))
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.NotZero(t, logged.FilterMessageSnippet("can not be read").Len())
	for _, entry := range append(logged.All(), staleLogs.All()...) {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), "s3cr3t")
	}
}

// The secret is looked at beside connections, too.
func TestAnIdentityIsAddedWithoutAConnection(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("a:1"), 0o600))
	s, _ := open(t, srv.ConnectString(), func(c *metadata.Config) {
		c.AuthScheme, c.AuthSecret, c.Recheck = "digest", "file:"+file, 20*time.Millisecond
	})
	require.NoError(t, s.Create(short(t), "/n", nil))
	session := s.Session()
	require.NoError(t, os.WriteFile(file, []byte("a:1\nb:2"), 0o600))
	n := 0
	require.Eventually(t, func() bool {
		n++
		path := fmt.Sprintf("/n/%d", n)
		require.NoError(t, s.Create(short(t), path, nil))
		b := person(t, srv.ConnectString())
		defer b.Close()
		require.NoError(t, b.AddAuth("digest", []byte("b:2")))
		_, _, err := b.Get(path)
		return err == nil
	}, patience, 20*time.Millisecond)
	require.Equal(t, session, s.Session())
}

// A tree that was made without authentication is given to an identity.
func TestProtect(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	anybody, _ := open(t, srv.ConnectString())
	require.NoError(t, anybody.Create(short(t), "/turnout/topics/t/route", nil))
	require.NoError(t, anybody.Create(short(t), "/zpt/a/t/g", []byte("{}")))
	require.NoError(t, anybody.Create(short(t), "/others", nil))
	_, err := anybody.Protect(short(t))
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, "AuthScheme")

	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("ops:s3cr3t"), 0o600))
	s, _ := identified(t, srv, file)
	differ, err := s.Unprotected(short(t))
	require.NoError(t, err)
	require.Equal(t, []string{"/turnout", "/turnout/ensemble", "/turnout/topics", "/turnout/topics/t", "/turnout/topics/t/route", "/zpt", "/zpt/a", "/zpt/a/t", "/zpt/a/t/g"}, differ)
	n, err := s.Protect(short(t))
	require.NoError(t, err)
	require.Len(t, differ, n)
	n, err = s.Protect(short(t))
	require.NoError(t, err)
	require.Zero(t, n)
	for _, path := range differ {
		_, err := anybody.Read(short(t), path)
		require.ErrorIs(t, err, errs.ErrNotAllowed, path)
		require.ErrorContains(t, err, "log in")
	}
	require.ErrorIs(t, anybody.Delete(short(t), "/turnout/topics/t/route", metadata.AnyVersion), errs.ErrNotAllowed)
	require.NoError(t, anybody.Set(short(t), "/others", []byte("1"), 0))
}
