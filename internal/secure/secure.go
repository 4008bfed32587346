// Package secure makes TLS connections and says what to do about one that fails. Drivers and the client of ZooKeeper
// share it.
package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// Client returns nc, a connection to address, with TLS on it; the handshake is done. The server must have a certificate
// for config.ServerName, or without that for the host of address. After an error nc is closed.
func Client(ctx context.Context, nc net.Conn, address string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, nc.Close())
		}
		config = config.Clone()
		config.ServerName = host
	}
	conn := tls.Client(nc, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("TLS to %s: %w", address, explain(err))
	}
	return conn, nil
}

// Explain adds a remedy to an error of a connection with TLS, when it is one that TLS is the cause of. A server refuses a
// client's certificate when the handshake is over for the client (TLS 1.3), so the first read may have such an error.
func Explain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) { // of whatever else
		return err
	}
	return explain(err)
}

func explain(err error) error {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
		roots   x509.SystemRootsError
		record  tls.RecordHeaderError
		remote  *net.OpError
	)
	var remedy string
	switch {
	case errors.As(err, &unknown), errors.As(err, &roots):
		remedy = "name a file with the certificate of the server's authority as ca"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		remedy = "renew the server's certificate, or correct the clock of this machine"
	case errors.As(err, &invalid):
		remedy = "the server needs another certificate"
	case errors.As(err, &name):
		remedy = "correct the address, or set serverName to a name that the certificate is for"
	case errors.As(err, &record), errors.Is(err, context.DeadlineExceeded):
		remedy = "see that the port speaks TLS; else correct the address or turn TLS off"
	case errors.As(err, &remote) && remote.Op == "remote error":
		remedy = "the server refuses us; see that cert and key name a certificate that it trusts and that has not expired"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, remedy)
}
