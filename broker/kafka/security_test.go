package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestSASL(t *testing.T) {
	t.Parallel()
	const user, password = "order,service=1", "päss word"
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			k, cfg := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, user, password))
			cfg.Mechanism, cfg.Username, cfg.Password = mechanism, user, password
			c := open(t, cfg)
			name := topic(t, c, broker.TopicSpec{Partitions: 1})
			_, err := send(c, name, message("", "x"))
			require.NoError(t, err)
			join(t, c, broker.Membership{Group: "g", Topic: name}).wait(t, 1)

			cfg.Password = "wrong secret"
			_, err = kafka.Open(t.Context(), cfg)
			require.ErrorContains(t, err, "credentials")
			require.NotContains(t, err.Error(), "wrong secret")

			k.ControlKey(int16(kmsg.SASLAuthenticate), func(kreq kmsg.Request) (kmsg.Response, error, bool) { // as Kafka does it
				resp := kreq.ResponseKind().(*kmsg.SASLAuthenticateResponse)
				resp.ErrorCode = 58
				return resp, nil, true
			})
			_, err = kafka.Open(t.Context(), cfg)
			require.ErrorIs(t, err, errs.ErrNotAllowed)
			require.NotContains(t, err.Error(), "wrong secret")
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, client := certificates(t)
	_, cfg := fake(t, kfake.TLS(server))
	cfg.TLS = client
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	_, err := send(c, name, message("", "x"))
	require.NoError(t, err)
	join(t, c, broker.Membership{Group: "g", Topic: name}).wait(t, 1)

	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	_, err = kafka.Open(t.Context(), cfg)
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
}

// certificates of a server on 127.0.0.1 that signs itself.
func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	return server, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
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
	cfg.Mechanism, cfg.Username, cfg.Password = "PLAIN", "app", "app"
	c := open(t, cfg)
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
