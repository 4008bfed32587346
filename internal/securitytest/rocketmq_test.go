package securitytest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// The administration of users and permissions of RocketMQ 5.3 and later (RequestCode).
const (
	authCreateUser = 3001
	authUpdateUser = 3002
	authCreateACL  = 3006
	authDeleteACL  = 3008
)

// rocketAdmin is the administrator of the RocketMQ cluster.
type rocketAdmin struct {
	*remoting.Client
	w      *world
	broker string
	users  map[string]bool
}

func newRocketAdmin(t *testing.T, w *world) *rocketAdmin {
	sec := w.env.Security()
	c := remoting.NewClient(remoting.Options{Login: func() (string, string, error) { return sec.User, sec.Password, nil }})
	t.Cleanup(c.Close)
	info, err := c.ClusterInfo(w.ctx(), w.env.Addresses(rocketMQ)[0])
	require.NoError(t, err)
	return &rocketAdmin{Client: c, w: w, broker: info.Brokers[rocketMQ].Master(), users: map[string]bool{}}
}

func (a *rocketAdmin) call(t *testing.T, code int, body any, fields ...string) {
	t.Helper()
	data, err := json.Marshal(body)
	require.NoError(t, err)
	_, err = a.Call(a.w.ctx(), a.broker, remoting.NewRequest(code, data, fields...))
	require.NoError(t, err)
}

// user makes a user, or gives it another password.
func (a *rocketAdmin) user(t *testing.T, name, password string) {
	t.Helper()
	if b := a.w.env.EmbeddedRocketMQ(rocketMQ); b != nil {
		b.SetUser(name, password)
		return
	}
	code := authCreateUser
	if a.users[name] {
		code = authUpdateUser
	}
	a.users[name] = true
	a.call(t, code, map[string]string{"username": name, "password": password, "userType": "Normal"}, "username", name)
}

// rocketRight is one permission and what can not be done without it.
type rocketRight struct {
	resource string
	action   string
	needed   func(c broker.Cluster) error
}

// revoke takes all rights of a user: an update would leave those on resources that it does not name.
func (a *rocketAdmin) revoke(t *testing.T, name string) {
	t.Helper()
	a.call(t, authDeleteACL, nil, "subject", "User:"+name)
}

// grant gives a user without rights these.
func (a *rocketAdmin) grant(t *testing.T, name string, rights []rocketRight) {
	t.Helper()
	if a.w.env.Backend() == testenv.Embedded { // who is a user may do everything
		return
	}
	actions := map[string][]string{}
	for _, r := range rights {
		actions[r.resource] = append(actions[r.resource], r.action)
	}
	var entries []map[string]any
	for resource, actions := range actions {
		entries = append(entries, map[string]any{"resource": resource, "actions": actions, "decision": "Allow"})
	}
	subject := "User:" + name
	a.call(t, authCreateACL, map[string]any{"subject": subject, "policies": []any{map[string]any{"policyType": "Custom", "entries": entries}}}, "subject", subject)
}

// rocketStrangers: name servers know no users, so Open succeeds; the first question to a broker is refused.
func rocketStrangers(t *testing.T, w *world) {
	admin := w.mustOpen(t, w.document(rocketMQ, "ACL", "admin"))
	require.NoError(t, admin.CreateTopic(w.ctx(), topics, broker.TopicSpec{Partitions: 2}))
	w.login("rocket-wrong", w.env.Security().User, "not-the-secret-key")
	w.login("rocket-unknown", "nobody", "any-secret-key")
	for _, file := range []string{"rocket-wrong", "rocket-unknown"} {
		c := w.mustOpen(t, w.document(rocketMQ, "ACL", file))
		for what, err := range map[string]error{
			"send":    send(c, topics, "x"),
			"ends":    second(c.EndOffsets(w.ctx(), topics)),
			"members": second(c.GroupMembers(w.ctx(), groups)),
		} {
			require.ErrorIs(t, err, errs.ErrNotAllowed, what)
			require.Equal(t, broker.Fatal, c.Classify(err))
			require.ErrorContains(t, err, "auth.secret", what)
			w.quiet(err)
		}
	}
	doc := w.document(rocketMQ, "ACL", "admin")
	doc.Auth = nil
	require.ErrorIs(t, send(w.mustOpen(t, doc), topics, "x"), errs.ErrNotAllowed)
	rocketRefusals(t, w)
}

// rocketRefusals: what the broker itself answers.
func rocketRefusals(t *testing.T, w *world) {
	sec := w.env.Security()
	raw := remoting.NewClient(remoting.Options{})
	t.Cleanup(raw.Close)
	addr := newRocketAdmin(t, w).broker
	signed := func(user, secret string, change func(*remoting.Command)) *remoting.Command {
		r := remoting.NewRequest(remoting.ReqHeartbeat, []byte(`{"clientID":"stranger"}`), "a", "1", "B", "2")
		r.Fields["AccessKey"] = user
		r.Fields["Signature"] = remoting.Signature(r, secret)
		if change != nil {
			change(r)
		}
		return r
	}
	for _, c := range []struct {
		request *remoting.Command
		remark  string // "": it is served
	}{
		{signed(sec.User, sec.Password, nil), ""},
		{remoting.NewRequest(remoting.ReqHeartbeat, []byte(`{"clientID":"stranger"}`)), "username cannot be null."},
		{signed("", sec.Password, nil), "username cannot be null."},
		{signed("nobody", sec.Password, nil), "User:nobody is not found."},
		{signed(sec.User, "another", nil), "check signature failed."},
		{signed(sec.User, sec.Password, func(r *remoting.Command) { delete(r.Fields, "Signature") }), "check signature failed."},
		{signed(sec.User, sec.Password, func(r *remoting.Command) { r.Fields["a"] = "2" }), "check signature failed."},
		{signed(sec.User, sec.Password, func(r *remoting.Command) { r.Fields["c"] = "more" }), "check signature failed."},
		{signed(sec.User, sec.Password, func(r *remoting.Command) { r.Body = []byte(`{"clientID":"somebody"}`) }), "check signature failed."},
		{signed(sec.User, sec.Password, func(r *remoting.Command) { r.Code = 59999 }), "request type 59999 not supported"}, // not signed
	} {
		_, err := raw.Call(w.ctx(), addr, c.request)
		if c.remark == "" {
			require.NoError(t, err)
			continue
		}
		var refused *remoting.ResponseError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, c.remark, strings.TrimSpace(refused.Remark))
		if c.request.Code == remoting.ReqHeartbeat {
			require.Equal(t, remoting.NoPermission, refused.Code)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// rocketPermissions: as kafkaPermissions.
func rocketPermissions(t *testing.T, w *world) {
	admin := newRocketAdmin(t, w)
	for name, rights := range map[string][]rocketRight{"rocket-app": w.rocketApplication(t), "rocket-mover": w.rocketController()} {
		t.Run(name, func(t *testing.T) {
			admin.user(t, name, name+"-secret")
			w.login(name, name, name+"-secret")
			admin.grant(t, name, rights)
			c := w.mustOpen(t, w.document(rocketMQ, "ACL", name))
			for _, r := range rights {
				works(t, func() error { return r.needed(c) }, r.resource+" "+r.action)
			}
			for i, r := range rights {
				admin.revoke(t, name)
				admin.grant(t, name, slices.Delete(slices.Clone(rights), i, i+1))
				err := fails(t, func() error { return r.needed(c) }, r.resource+" "+r.action)
				require.ErrorIs(t, err, errs.ErrNotAllowed, r.resource)
				w.quiet(err)
			}
		})
	}
}

func (w *world) rocketApplication(t *testing.T) []rocketRight {
	send := func(c broker.Cluster) error { return send(c, topics, "x") }
	join := func(c broker.Cluster) error { return joins(t, c, groups, topics, false) }
	return []rocketRight{
		{"Topic:" + topics, "Pub", send},
		{"Topic:" + topics, "Sub", join},
		{"Topic:" + topics, "Get", join},
		{"Group:" + groups, "Sub", join},
	}
}

func (w *world) rocketController() []rocketRight {
	return []rocketRight{
		{"Topic:" + topics + "*", "Get", func(c broker.Cluster) error { return second(c.EndOffsets(w.ctx(), topics)) }},
		{"Topic:" + topics + "*", "Create", func(c broker.Cluster) error { return c.CreateTopic(w.ctx(), fresh(topics), broker.TopicSpec{}) }},
		{"Topic:" + topics + "*", "Delete", func(c broker.Cluster) error {
			name := fresh(topics)
			if err := c.CreateTopic(w.ctx(), name, broker.TopicSpec{}); err != nil {
				return err
			}
			return c.DeleteTopic(w.ctx(), name)
		}},
		{"Group:" + groups, "Sub", func(c broker.Cluster) error {
			if err := second(c.Positions(w.ctx(), groups, topics)); err != nil {
				return err
			}
			return second(c.GroupMembers(w.ctx(), groups))
		}},
	}
}

// rocketRotation: a secret key is replaced while a Cluster is open and its connections are.
func rocketRotation(t *testing.T, w *world) {
	admin := newRocketAdmin(t, w)
	admin.user(t, "rocket-rotating", "secret-1")
	w.login("rocket-rotating", "rocket-rotating", "secret-1")
	admin.grant(t, "rocket-rotating", w.rocketApplication(t))
	c := w.mustOpen(t, w.document(rocketMQ, "ACL", "rocket-rotating"))
	works(t, func() error { return send(c, topics, "x") }, "send")
	require.NoError(t, joins(t, c, groups, topics, false))
	admin.user(t, "rocket-rotating", "secret-2")
	require.ErrorIs(t, fails(t, func() error { return send(c, topics, "x") }, "send with the old key"), errs.ErrNotAllowed)
	w.login("rocket-rotating", "rocket-rotating", "secret-2")
	require.NoError(t, send(c, topics, "x"))
	require.NoError(t, joins(t, c, groups, topics, false))
	require.NoError(t, second(c.DescribeTopic(w.ctx(), topics)))
}
