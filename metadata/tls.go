package metadata

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/turnout-mq/turnout/internal/errs"
)

// TLS turns TLS on; all fields may be empty. Files are PEM.
type TLS struct {
	CA         string `json:"ca"`         // file with the certificates to trust; "": the system's
	Cert       string `json:"cert"`       // file with our certificate; with Key or not at all
	Key        string `json:"key"`        // file with its key
	ServerName string `json:"serverName"` // expect this name instead of the address
	Insecure   bool   `json:"insecure"`   // do not verify the server: whoever answers gets the login. For tests
	Extra      Extra  `json:"-"`
}

func (p *problems) tls(field string, t *TLS) {
	if t != nil && (t.Cert == "") != (t.Key == "") {
		p.add(field+".cert and "+field+".key", []string{t.Cert, t.Key}, "must be given together")
	}
}

// Config reads the files, so that certificates can be replaced while the process runs. ErrInvalid names the field.
func (t *TLS) Config() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure} //nolint:gosec // asked for by name
	var failed []error
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		conf.RootCAs = x509.NewCertPool()
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("%w: tls.ca: %w", errs.ErrInvalid, err))
		case !conf.RootCAs.AppendCertsFromPEM(pem):
			failed = append(failed, fmt.Errorf("%w: tls.ca %q: the file has no PEM certificate", errs.ErrInvalid, t.CA))
		}
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			failed = append(failed, fmt.Errorf("%w: tls.cert %q, tls.key %q: %w", errs.ErrInvalid, t.Cert, t.Key, err))
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return conf, nil
}

// MarshalJSON writes it with its Extra.
func (t TLS) MarshalJSON() ([]byte, error) { return encodeObject(t, t.Extra) }

// UnmarshalJSON reads it without validating.
func (t *TLS) UnmarshalJSON(b []byte) (err error) {
	t.Extra, err = decodeObject(b, t)
	return err
}
