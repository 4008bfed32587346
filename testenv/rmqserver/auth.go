package rmqserver

// Authentication: with users each request to a broker must be signed, as with
// ACL 2.0 of RocketMQ 5.3 and later (authenticationEnabled). A name server knows
// no users. Who is a user may do everything; not done: permissions
// (authorizationEnabled), white lists, the requests of 3001 to 3010.

import (
	"crypto/hmac"
	"maps"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	accessKey      = "AccessKey"
	signature      = "Signature"
	uniqueKeyQuery = "_UNIQUE_KEY_QUERY"
)

// SetUser makes a user of a broker that has users (BrokerOptions.Users), or gives
// it another key; an empty one removes it. Connections that are open stay so:
// each request is looked at.
func (b *Broker) SetUser(name, secretKey string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.users == nil:
	case secretKey == "":
		delete(b.users, name)
	default:
		b.users[name] = secretKey
	}
}

// authenticate refuses a request that none of the users has signed. Needs mu.
func (b *Broker) authenticate(r *remoting.Command) error {
	if b.users == nil {
		return nil
	}
	user := r.Fields[accessKey]
	if user == "" {
		return refuse(remoting.NoPermission, "username cannot be null.")
	}
	secret, known := b.users[user]
	if !known {
		return refuse(remoting.NoPermission, "User:%s is not found.", user)
	}
	signed := *r
	if _, asked := r.Fields[uniqueKeyQuery]; asked && r.Version <= remoting.V4_9_3 { // older clients add it behind the signing
		signed.Fields = maps.Clone(r.Fields)
		delete(signed.Fields, uniqueKeyQuery)
	}
	if !hmac.Equal([]byte(r.Fields[signature]), []byte(remoting.Signature(&signed, secret))) {
		return refuse(remoting.NoPermission, "check signature failed.")
	}
	return nil
}
