package securitytest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/pki"
)

// kafkaStrangers: each is told what is wrong, and what to do.
func kafkaStrangers(t *testing.T, w *world) {
	other, err := pki.NewAuthority("another")
	require.NoError(t, err)
	files := func(name string, a *pki.Authority, r pki.Request) metadata.TLS {
		pair, err := a.Issue(r)
		require.NoError(t, err)
		c := *w.tls
		c.Cert, c.Key, err = pair.Write(w.dir, name)
		require.NoError(t, err)
		return c
	}
	foreign := files("foreign", other, pki.Request{})
	expired := files("expired", w.env.Security().Authority, pki.Request{Until: time.Now().Add(-time.Hour)})
	nameless := *w.tls
	nameless.Cert, nameless.Key = "", ""
	distrusting := *w.tls
	distrusting.CA = foreign.Cert // some other certificate
	misnamed := *w.tls
	misnamed.ServerName = "kafka.example"
	w.login("wrong", w.env.Security().User, "not-the-password")
	w.login("unknown", "nobody", "any-password")
	for name, test := range map[string]struct {
		mechanism, file string
		tls             *metadata.TLS
		says            string
	}{
		"PLAIN, wrong password": {"PLAIN", "wrong", w.tls, "auth.secret"},
		"SCRAM, wrong password": {"SCRAM-SHA-512", "wrong", w.tls, "auth.secret"},
		"SCRAM, unknown user":   {"SCRAM-SHA-256", "unknown", w.tls, "auth.secret"},
		"foreign certificate":   {"PLAIN", "admin", &foreign, "cert and key"},
		"expired certificate":   {"PLAIN", "admin", &expired, "cert and key"},
		"no certificate":        {"PLAIN", "admin", &nameless, "cert and key"},
		"unknown authority":     {"PLAIN", "admin", &distrusting, "authority as ca"},
		"another name":          {"PLAIN", "admin", &misnamed, "serverName"},
		"no TLS":                {"PLAIN", "admin", nil, "check tls"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := w.document(kafka, test.mechanism, test.file)
			doc.TLS = test.tls
			_, err := w.open(t, doc)
			require.ErrorContains(t, err, test.says)
			w.quiet(err)
		})
	}
}

// administer calls f with the bare library as the administrator, with the same files.
func (w *world) administer(t *testing.T, f func(sarama.ClusterAdmin) error) {
	t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Net.SASL.Enable, conf.Net.SASL.Mechanism = true, sarama.SASLTypePlaintext
	conf.Net.SASL.User, conf.Net.SASL.Password = w.env.Security().User, w.env.Security().Password
	conf.Net.TLS.Enable = true
	var err error
	conf.Net.TLS.Config, err = w.tls.Config()
	require.NoError(t, err)
	admin, err := sarama.NewClusterAdmin(w.env.Addresses(kafka), conf)
	require.NoError(t, err)
	err = f(admin)
	require.NoError(t, admin.Close())
	require.NoError(t, err)
}

// user makes a user of Kafka, or gives it another password.
func (w *world) user(t *testing.T, name, password string) {
	t.Helper()
	w.administer(t, func(admin sarama.ClusterAdmin) error {
		results, err := admin.UpsertUserScramCredentials([]sarama.AlterUserScramCredentialsUpsert{{
			Name: name, Mechanism: sarama.SCRAM_MECHANISM_SHA_512, Iterations: 4096, Salt: []byte("salt of " + name), Password: []byte(password),
		}})
		for _, r := range results {
			if r.ErrorCode != sarama.ErrNoError {
				err = r.ErrorCode
			}
		}
		return err
	})
}

// right is one permission and what can not be done without it.
type right struct {
	resource sarama.AclResourceType
	name     string // what it begins with
	op       sarama.AclOperation
	needed   func(t *testing.T, c broker.Cluster) error
}

func (r right) String() string { return fmt.Sprintf("%s on %s %s", &r.op, &r.resource, r.name) }

func (r right) acl(user string) *sarama.ResourceAcls {
	return &sarama.ResourceAcls{
		Resource: sarama.Resource{ResourceType: r.resource, ResourceName: r.name, ResourcePatternType: sarama.AclPatternPrefixed},
		Acls:     []*sarama.Acl{{Principal: "User:" + user, Host: "*", Operation: r.op, PermissionType: sarama.AclPermissionAllow}},
	}
}

func (w *world) grant(t *testing.T, user string, rights ...right) {
	t.Helper()
	var acls []*sarama.ResourceAcls
	for _, r := range rights {
		acls = append(acls, r.acl(user))
	}
	w.administer(t, func(admin sarama.ClusterAdmin) error { return admin.CreateACLs(acls) })
}

func (w *world) revoke(t *testing.T, user string, r right) {
	t.Helper()
	principal, host := "User:"+user, "*"
	w.administer(t, func(admin sarama.ClusterAdmin) error {
		matched, err := admin.DeleteACL(sarama.AclFilter{ResourceType: r.resource, ResourceName: &r.name, ResourcePatternTypeFilter: sarama.AclPatternPrefixed,
			Principal: &principal, Host: &host, Operation: r.op, PermissionType: sarama.AclPermissionAllow}, false)
		if err == nil && len(matched) != 1 {
			err = fmt.Errorf("%d permissions revoked", len(matched))
		}
		return err
	})
}

// The names that the users of the tests may use.
const (
	topics = "orders"
	groups = "bills"
)

var number atomic.Int64

func fresh(prefix string) string { return fmt.Sprintf("%s-%d", prefix, number.Add(1)) }

// joins says whether a membership is handed a message of the topic, or of its retries, or what keeps it from that. It
// finishes nothing, so there is one the next time, too.
func joins(t *testing.T, c broker.Cluster, group, topic string, retries bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got atomic.Bool
	m, err := c.Join(ctx, broker.Membership{Group: group, Topic: topic, Retries: retries, Claim: func(_ context.Context, claim broker.Claim) {
		for range brokertest.Deliveries(claim) {
			if claim.Retry() == retries {
				got.Store(true)
			}
		}
	}})
	if err != nil {
		return err
	}
	defer func() { require.NoError(t, m.Leave(ctx)) }()
	var failed error
	require.Eventually(t, func() bool {
		failed = m.State().Err
		return got.Load() || failed != nil
	}, patience, moment)
	return failed
}

// application and controller are the tables of docs/security.md.
func (w *world) application() []right {
	delivery := func() *broker.Delivery {
		return &broker.Delivery{Envelope: broker.Envelope{Message: broker.Message{Body: []byte("x"), ID: fmt.Sprintf("%032x", number.Add(1))}}, Topic: topics, Partition: "0"}
	}
	return []right{
		{sarama.AclResourceTopic, topics, sarama.AclOperationWrite, func(_ *testing.T, c broker.Cluster) error { return send(c, topics, "x") }},
		{sarama.AclResourceTopic, topics, sarama.AclOperationRead, func(t *testing.T, c broker.Cluster) error { return joins(t, c, groups, topics, false) }},
		{sarama.AclResourceGroup, groups, sarama.AclOperationRead, func(t *testing.T, c broker.Cluster) error { return joins(t, c, groups, topics, false) }},
		{sarama.AclResourceTopic, "retry_" + groups, sarama.AclOperationCreate, func(_ *testing.T, c broker.Cluster) error {
			return c.Retry(w.ctx(), fresh(groups), delivery(), 0)
		}},
		{sarama.AclResourceTopic, "retry_" + groups, sarama.AclOperationWrite, func(_ *testing.T, c broker.Cluster) error {
			return c.Retry(w.ctx(), groups, delivery(), 0)
		}},
		{sarama.AclResourceTopic, "retry_" + groups, sarama.AclOperationRead, func(t *testing.T, c broker.Cluster) error { return joins(t, c, groups, topics, true) }},
		{sarama.AclResourceTopic, "dlq_" + groups, sarama.AclOperationCreate, func(_ *testing.T, c broker.Cluster) error {
			return c.DeadLetter(w.ctx(), fresh(groups), delivery(), "x")
		}},
		{sarama.AclResourceTopic, "dlq_" + groups, sarama.AclOperationWrite, func(_ *testing.T, c broker.Cluster) error {
			return c.DeadLetter(w.ctx(), groups, delivery(), "x")
		}},
	}
}

func (w *world) controller() []right {
	return []right{
		{sarama.AclResourceTopic, topics, sarama.AclOperationRead, func(_ *testing.T, c broker.Cluster) error {
			_, _, err := c.Peek(w.ctx(), topics, "0", 0, 1)
			return err
		}},
		{sarama.AclResourceTopic, topics, sarama.AclOperationAlterConfigs, func(_ *testing.T, c broker.Cluster) error {
			if err := c.Fence(w.ctx(), topics); err != nil {
				return err
			}
			return c.Unfence(w.ctx(), topics, "")
		}},
		{sarama.AclResourceTopic, topics, sarama.AclOperationCreate, func(_ *testing.T, c broker.Cluster) error {
			return c.CreateTopic(w.ctx(), fresh(topics), broker.TopicSpec{})
		}},
		{sarama.AclResourceTopic, topics, sarama.AclOperationDelete, func(_ *testing.T, c broker.Cluster) error {
			name := fresh(topics)
			if err := c.CreateTopic(w.ctx(), name, broker.TopicSpec{}); err != nil {
				return err
			}
			return c.DeleteTopic(w.ctx(), name)
		}},
		{sarama.AclResourceGroup, groups, sarama.AclOperationDescribe, func(_ *testing.T, c broker.Cluster) error {
			if _, err := c.GroupMembers(w.ctx(), groups); err != nil {
				return err
			}
			_, err := c.Positions(w.ctx(), groups, topics)
			return err
		}},
		{sarama.AclResourceTopic, "retry_" + groups, sarama.AclOperationDescribe, func(_ *testing.T, c broker.Cluster) error {
			_, err := c.Pending(w.ctx(), groups, topics)
			return err
		}},
		{sarama.AclResourceTopic, "dlq_" + groups, sarama.AclOperationDescribe, func(_ *testing.T, c broker.Cluster) error {
			_, err := c.Pending(w.ctx(), groups, topics)
			return err
		}},
	}
}

// works waits until try succeeds, in the test's goroutine.
func works(t *testing.T, try func() error, what string) {
	t.Helper()
	_ = becomes(t, false, try, what)
}

// fails waits until try fails and returns how.
func fails(t *testing.T, try func() error, what string) error {
	t.Helper()
	return becomes(t, true, try, what)
}

func becomes(t *testing.T, wrong bool, try func() error, what string) error {
	t.Helper()
	tick := time.NewTicker(moment)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := try()
		if (err != nil) == wrong {
			return err
		}
		require.True(t, time.Now().Before(deadline), "%s: %v", what, err)
	}
}

// kafkaPermissions: what docs/security.md lists is enough, and without any of it what it is for is refused with a remedy.
func kafkaPermissions(t *testing.T, w *world) {
	for name, rights := range map[string][]right{"app": w.application(), "mover": w.controller()} {
		w.user(t, name, name+"-password")
		w.login(name, name, name+"-password")
		w.grant(t, name, rights...)
	}
	admin := w.mustOpen(t, w.document(kafka, "PLAIN", "admin"))
	for _, topic := range []string{topics, "retry_" + groups, "dlq_" + groups} {
		require.NoError(t, admin.CreateTopic(w.ctx(), topic, broker.TopicSpec{Partitions: 1}))
	}
	for name, rights := range map[string][]right{"app": w.application(), "mover": w.controller()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.mustOpen(t, w.document(kafka, "SCRAM-SHA-512", name))
			for _, r := range rights { // permissions reach the broker a moment after they were given
				works(t, func() error { return r.needed(t, c) }, r.String())
			}
			for _, r := range rights {
				w.revoke(t, name, r)
				err := fails(t, func() error { return r.needed(t, c) }, r.String())
				require.ErrorIs(t, err, errs.ErrNotAllowed, r)
				require.ErrorContains(t, err, "docs/security.md")
				w.quiet(err)
				w.grant(t, name, r)
				works(t, func() error { return r.needed(t, c) }, r.String())
			}
		})
	}
}

// kafkaRotation: a password is replaced while a Cluster is open.
func kafkaRotation(t *testing.T, w *world) {
	w.user(t, "rotating", "password-1")
	w.login("rotating", "rotating", "password-1")
	w.grant(t, "rotating", right{resource: sarama.AclResourceTopic, name: topics, op: sarama.AclOperationWrite})
	doc := w.document(kafka, "SCRAM-SHA-512", "rotating")
	var c broker.Cluster
	works(t, func() (err error) { c, err = w.open(t, doc); return err }, "open")
	// It asks by one connection and sends by others, which are not there yet.
	w.user(t, "rotating", "password-2")
	w.login("rotating", "rotating", "password-2")
	works(t, func() error { return send(c, topics, "x") }, "send with the new password")
	w.login("rotating", "rotating", "password-1")
	_, err := w.open(t, doc)
	require.Error(t, err)
	w.quiet(err)

	// A certificate, too.
	pair, err := w.env.Security().Authority.Issue(pki.Request{Name: "another client"})
	require.NoError(t, err)
	own := *w.tls
	own.Cert, own.Key, err = pair.Write(w.dir, "rotating")
	require.NoError(t, err)
	w.login("rotating", "rotating", "password-2")
	doc.TLS = &own
	c = w.mustOpen(t, doc)
	other, err := pki.NewAuthority("another")
	require.NoError(t, err)
	pair, err = other.Issue(pki.Request{Name: "client"})
	require.NoError(t, err)
	_, _, err = pair.Write(w.dir, "rotating")
	require.NoError(t, err)
	require.ErrorContains(t, c.Warm(w.ctx(), topics), "cert and key")
}
