package cli_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/pki"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestZooKeeperTLS(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.NewAuthority("root")
	require.NoError(t, err)
	ca := filepath.Join(dir, "ca.crt")
	require.NoError(t, os.WriteFile(ca, authority.PEM(), 0o600))
	pair, err := authority.Issue(pki.Request{Name: "client", Hosts: []string{"127.0.0.1"}})
	require.NoError(t, err)
	cert, key, err := pair.Write(dir, "client")
	require.NoError(t, err)
	server, err := pair.Certificate()
	require.NoError(t, err)
	srv, err := zkserver.Start(t.Context(), zkserver.Options{TLS: &tls.Config{Certificates: []tls.Certificate{server},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool(), MinVersion: tls.VersionTLS12}})
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	at := func(args ...string) []string { return append(args, "--zookeeper", srv.ConnectString()) }
	files := func(args ...string) []string {
		return append(at(args...), "--zookeeper-tls-ca", ca, "--zookeeper-tls-cert", cert, "--zookeeper-tls-key", key)
	}
	r := run(t, files("cluster", "put", "c", "--kind", "kafka", "--address", "h:1")...)
	require.Equal(t, 0, r.code, r.stderr)
	r = run(t, files("watch", "/turnout/clusters", "--for", "20ms")...)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stdout, "/turnout/clusters/c")

	for _, command := range [][]string{{"cluster", "list"}, {"watch", "/turnout"}} {
		r = run(t, append(at(command...), "--zookeeper-tls", "--timeout", "1s")...)
		require.Equal(t, 6, r.code, r.stderr)
		require.Contains(t, r.stderr, "authority as ca")
	}
	r = run(t, append(at("cluster", "list"), "--zookeeper-tls-cert", cert)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "must be given together")
	r = run(t, append(at("cluster", "list"), "--zookeeper-tls-ca", key)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "no PEM certificate")
}

func TestProtect(t *testing.T) {
	z := startZooKeeper(t)
	z.turnout(t, "cluster", "put", "c", "--kind", "kafka", "--address", "h:1")
	require.Contains(t, z.refused(t, 3, "protect"), "AuthScheme")
	t.Setenv("ZK_LOGIN", "ops:s3cret\nops:n3xt")
	login := []string{"--zookeeper-auth", "digest:env:ZK_LOGIN"}
	r := z.turnout(t, append(login, "protect", "--dry-run")...)
	require.Contains(t, r.stdout, "/turnout/clusters/c\n")
	require.Contains(t, r.stdout, "0 changed")
	z.turnout(t, "cluster", "get", "c")
	type found struct {
		Nodes   []string
		Changed int
	}
	d := decode[found](t, z.turnout(t, append(login, "protect", "-o", "json")...).stdout)
	require.Len(t, d.Nodes, d.Changed)
	require.NotEmpty(t, d.Nodes)
	require.Contains(t, z.refused(t, 3, "cluster", "get", "c"), "not allowed")
	t.Setenv("ZK_LOGIN", "ops:n3xt") // the new one alone
	z.turnout(t, append(login, "cluster", "get", "c")...)
	z.turnout(t, append(login, "protect")...)
	t.Setenv("ZK_LOGIN", "ops:s3cret")
	require.NotContains(t, z.refused(t, 3, append(login, "cluster", "get", "c")...), "s3cret")
}
