package testenv

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/testenv/pki"
)

// Security is what clients of an environment with Spec.Secure need. The files are PEM; Authority can issue other
// certificates.
type Security struct {
	Authority      *pki.Authority // of all servers and clients
	CA, Cert, Key  string         // files: its certificate, and the certificate and key of a client
	User, Password string         // may do everything on the clusters
}

// Security returns how to reach the servers; nil without Spec.Secure.
func (e *Env) Security() *Security {
	if e.secrets == nil {
		return nil
	}
	s := e.secrets.Security
	return &s
}

// hosts are what the servers' certificates are for.
var hosts = []string{"127.0.0.1", "127.0.0.2", "localhost"}

// secured are the files of an environment with Spec.Secure.
type secured struct {
	Security
	server pki.Pair
	store  string // file with the key and the certificate of the servers, as Java wants it
}

func (e *Env) secure() error {
	authority, err := pki.NewAuthority("testenv")
	if err != nil {
		return err
	}
	s := &secured{Security: Security{Authority: authority, User: "admin", Password: "all-of-it"}}
	dir, err := e.mkdir("security")
	if err != nil {
		return err
	}
	s.CA, s.store = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "server.pem")
	if s.server, err = authority.Issue(pki.Request{Name: "server", Hosts: hosts}); err != nil {
		return err
	}
	client, err := authority.Issue(pki.Request{Name: "client"})
	if err != nil {
		return err
	}
	if s.Cert, s.Key, err = client.Write(dir, "client"); err != nil {
		return err
	}
	e.secrets = s
	return errors.Join(
		os.WriteFile(s.CA, authority.PEM(), 0o600),
		os.WriteFile(s.store, append(s.server.Key, s.server.Cert...), 0o600),
	)
}

// tls is what servers in this process use: they want a certificate of clients.
func (s *secured) tls() (*tls.Config, error) {
	if s == nil {
		return nil, nil
	}
	cert, err := s.server.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.Authority.Pool(), MinVersion: tls.VersionTLS12}, nil
}

// kafkaConf are the settings of the listener CLIENT: TLS with certificates of clients, the three mechanisms, and an
// authorizer. The listener INTERNAL is the broker's own and ours.
func (s *secured) kafkaConf() string {
	return fmt.Sprintf(`
listener.name.client.ssl.keystore.type=PEM
listener.name.client.ssl.keystore.location=%[1]s
listener.name.client.ssl.truststore.type=PEM
listener.name.client.ssl.truststore.location=%[2]s
listener.name.client.ssl.client.auth=required
listener.name.client.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.client.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_%[3]s="%[4]s";
listener.name.client.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:%[3]s;User:ANONYMOUS
`, s.store, s.CA, s.User, s.Password)
}

// kafkaUsers gives the user its passwords for SCRAM, which are in the cluster's metadata. It returns nil when the broker
// at addr has them.
func (s *secured) kafkaUsers(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	have := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	had := have.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	if err := kafkaCall(conn, have, had); err != nil {
		return err
	}
	for _, user := range had.Results {
		if user.User == s.User && len(user.CredentialInfos) == 2 {
			return nil
		}
	}
	const iterations = 4096 // the least that Kafka takes
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	short, err := pbkdf2.Key(sha256.New, s.Password, salt, iterations, sha256.Size)
	if err != nil {
		return err
	}
	long, err := pbkdf2.Key(sha512.New, s.Password, salt, iterations, sha512.Size)
	if err != nil {
		return err
	}
	for i, salted := range [][]byte{short, long} { // one request has a user once
		set := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		set.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{
			Name: s.User, Mechanism: int8(i + 1), Iterations: iterations, Salt: salt, SaltedPassword: salted,
		}}
		answer := set.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
		if err := kafkaCall(conn, set, answer); err != nil {
			return err
		}
		for _, r := range answer.Results {
			if r.ErrorCode != 0 {
				return fmt.Errorf("the broker at %s does not take the password of %s: error %d", addr, s.User, r.ErrorCode)
			}
		}
	}
	return fmt.Errorf("the broker at %s does not have the passwords yet", addr)
}

// zooKeeperConf are the settings of a port that wants TLS and certificates of clients.
func (s *secured) zooKeeperConf(port int) string {
	return fmt.Sprintf(`secureClientPort=%[1]d
secureClientPortAddress=127.0.0.1
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.location=%[2]s
ssl.keyStore.type=PEM
ssl.trustStore.location=%[3]s
ssl.trustStore.type=PEM
ssl.clientAuth=need
`, port, s.store, s.CA)
}

// rocketMQConf turns authentication and authorization on (ACL 2.0). Name servers know neither.
func (s *secured) rocketMQConf(dir string) string {
	return fmt.Sprintf(`
authConfigPath=%[1]s
authenticationEnabled=true
authenticationProvider=org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider
authenticationMetadataProvider=org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider
initAuthenticationUser={"username":"%[2]s","password":"%[3]s"}
innerClientAuthenticationCredentials={"accessKey":"%[2]s","secretKey":"%[3]s"}
authorizationEnabled=true
authorizationProvider=org.apache.rocketmq.auth.authorization.provider.DefaultAuthorizationProvider
authorizationMetadataProvider=org.apache.rocketmq.auth.authorization.provider.LocalAuthorizationMetadataProvider
`, dir, s.User, s.Password)
}

// login signs requests to a RocketMQ cluster; nil: there is no login.
func (s *secured) login() func() (accessKey, secretKey string, err error) {
	if s == nil {
		return nil
	}
	return func() (string, string, error) { return s.User, s.Password, nil }
}
