package metadata

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"

	"github.com/turnout-mq/turnout/broker"
)

// Cluster says how to reach a cluster. Node: clusters/{cluster}.
type Cluster struct {
	Name       string            `json:"-"` // set by the Store
	V          int               `json:"v"`
	Kind       broker.Kind       `json:"kind"`
	Addresses  []string          `json:"addresses"` // host:port of brokers (Kafka) or name servers (RocketMQ)
	ClusterID  string            `json:"clusterId"` // refuse any other cluster; "": any
	Auth       *Auth             `json:"auth,omitzero" show:"no"`
	TLS        *TLS              `json:"tls,omitzero"`
	Properties map[string]string `json:"properties" show:"no"` // driver settings
	Extra      Extra             `json:"-"`
}

// Auth says how to authenticate. The secret itself is never in ZooKeeper.
type Auth struct {
	Mechanism string `json:"mechanism"`        // Kafka: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; RocketMQ: ACL
	Secret    string `json:"secret" show:"no"` // reference to "user:password": env:NAME or file:PATH
	Extra     Extra  `json:"-"`
}

// ParseCluster reads a Cluster.
func ParseCluster(data []byte) (Cluster, error) {
	c := Cluster{V: version}
	err := parseDocument("cluster", data, &c, true)
	return c, err
}

// Validate names every bad field.
func (c Cluster) Validate() error {
	var p problems
	p.version(c.V)
	mechanisms := map[broker.Kind][]string{
		broker.Kafka:    {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"},
		broker.RocketMQ: {"ACL"},
	}[c.Kind]
	if mechanisms == nil {
		p.add("kind", string(c.Kind), `must be "kafka" or "rocketmq"`)
	}
	if len(c.Addresses) == 0 {
		p.add("addresses", c.Addresses, "must have at least one host:port")
	}
	for i, address := range c.Addresses {
		p.address(fmt.Sprintf("addresses[%d]", i), address)
		if slices.Index(c.Addresses, address) < i {
			p.add(fmt.Sprintf("addresses[%d]", i), address, "is listed twice; remove one")
		}
	}
	if a := c.Auth; a != nil {
		if mechanisms != nil && !slices.Contains(mechanisms, a.Mechanism) {
			p.add("auth.mechanism", a.Mechanism, "must be one of %q for %s", mechanisms, c.Kind)
		}
		if !validSecretRef(a.Secret) {
			p.add("auth.secret", hidden, secretRule)
		}
	}
	p.tls("tls", c.TLS)
	return p.err("cluster")
}

func (p *problems) address(field, address string) {
	host, port, err := net.SplitHostPort(address)
	n, nerr := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || nerr != nil || n == 0 {
		p.add(field, address, "must be host:port with a port of 1 to 65535")
	}
}

// Config is what a driver needs to reach the cluster as clientID. Its Login resolves the secret with secrets (nil:
// ResolveSecret) and its TLS reads the files each time they are asked. ErrInvalid says what can not be had now; no secret
// is in the error.
func (c Cluster) Config(clientID string, secrets Secrets) (broker.Config, error) {
	out := broker.Config{
		Name: c.Name, Kind: c.Kind, Addresses: slices.Clone(c.Addresses), ClusterID: c.ClusterID,
		Properties: maps.Clone(c.Properties), ClientID: clientID,
	}
	var problems []error
	if c.Auth != nil {
		reference := c.Auth.Secret
		out.Mechanism = c.Auth.Mechanism
		out.Login = func() (string, string, error) {
			logins, err := logins(reference, secrets)
			if err != nil {
				return "", "", fmt.Errorf("auth.secret: %w", err)
			}
			return logins[0].user, logins[0].password, nil
		}
		_, _, err := out.Login()
		problems = append(problems, err)
	}
	if c.TLS != nil {
		out.TLS = c.TLS.Config
		_, err := out.TLS()
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return broker.Config{}, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	return out, nil
}

func (c *Cluster) locate(n Node) { c.Name = path.Base(n.Path) }

// MarshalJSON writes the document with its Extra.
func (c Cluster) MarshalJSON() ([]byte, error) { return encodeObject(c, c.Extra) }

// UnmarshalJSON reads it without validating.
func (c *Cluster) UnmarshalJSON(b []byte) (err error) {
	c.Extra, err = decodeObject(b, c)
	return err
}

// MarshalJSON writes it with its Extra.
func (a Auth) MarshalJSON() ([]byte, error) { return encodeObject(a, a.Extra) }

// UnmarshalJSON reads it without validating.
func (a *Auth) UnmarshalJSON(b []byte) (err error) {
	a.Extra, err = decodeObject(b, a)
	return err
}
