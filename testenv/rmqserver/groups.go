package rmqserver

// Subscription groups: 200 create or change, 201 all, 207 delete, 225 create or
// change many, 352 one.
//
// Not done: 353 (forbidden topics), attributes.

import (
	"encoding/json"
	"strings"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// systemGroups creates those that every broker has. Needs mu.
func (b *Broker) systemGroups() error {
	for _, name := range []string{"TOOLS_CONSUMER", "FILTERSRV_CONSUMER", "SELF_TEST_C_GROUP", "CID_ONS-HTTP-PROXY",
		"CID_ONSAPI_PULL", "CID_ONSAPI_PERMISSION", "CID_ONSAPI_OWNER", "CID_RMQ_SYS_TRANS"} {
		if _, found := b.store.groups[name]; found {
			continue
		}
		if err := b.store.keep(entryGroup, remoting.NewSubscriptionGroup(name)); err != nil {
			return err
		}
	}
	return nil
}

// group is a group's settings. One that is missing is created, unless the
// broker's settings say otherwise; then found is false.
func (b *Broker) group(name string) (g remoting.SubscriptionGroup, found bool, err error) {
	if g, found = b.store.groups[name]; found {
		return g, true, nil
	}
	if b.settings["autoCreateSubscriptionGroup"] != "true" {
		return g, false, nil
	}
	if bad := checkGroupName(name); bad != nil {
		return g, false, nil //nolint:nilerr // the real one says no more either
	}
	g = remoting.NewSubscriptionGroup(name)
	return g, true, b.store.keep(entryGroup, g)
}

func checkGroupName(group string) error {
	switch {
	case strings.TrimSpace(group) == "":
		return refuse(remoting.InvalidParameter, "The specified group is blank.")
	case !legalName.MatchString(group):
		return refuse(remoting.InvalidParameter, "The specified group: %s, contains illegal characters, allowing only ^[%%|a-zA-Z0-9_-]+$", group)
	case len(group) > 120:
		return refuse(remoting.InvalidParameter, "The specified group: %s, is longer than group max length: 120", group)
	}
	return nil
}

func (b *Broker) updateGroup(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var g groupWithDefaults
	if err := read(r, &g); err != nil {
		return nil, err
	}
	return b.setGroups(r, g)
}

func (b *Broker) updateGroups(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var list struct {
		Groups []groupWithDefaults `json:"groupConfigList"`
	}
	if err := read(r, &list); err != nil {
		return nil, err
	}
	return b.setGroups(r, list.Groups...)
}

// groupWithDefaults has RocketMQ's defaults for what its JSON does not say.
type groupWithDefaults remoting.SubscriptionGroup

// UnmarshalJSON reads a group.
func (g *groupWithDefaults) UnmarshalJSON(b []byte) error {
	*g = groupWithDefaults(remoting.NewSubscriptionGroup(""))
	return json.Unmarshal(b, (*remoting.SubscriptionGroup)(g))
}

// setGroups creates or changes all of them, or none.
func (b *Broker) setGroups(r *remoting.Command, groups ...groupWithDefaults) (*remoting.Command, error) {
	for _, g := range groups {
		if err := checkGroupName(g.Name); err != nil {
			return nil, err
		}
	}
	for _, g := range groups {
		if err := b.store.keep(entryGroup, remoting.SubscriptionGroup(g)); err != nil {
			return nil, err
		}
	}
	return ok(r)
}

func (b *Broker) allGroups(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	return body(r, map[string]any{"subscriptionGroupTable": b.store.groups, "forbiddenTable": map[string]any{}, "dataVersion": dataVersion{}},
		"totalGroupNum", str(len(b.store.groups)))
}

func (b *Broker) groupConfig(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	name := f.text("group")
	if f.err != nil {
		return nil, f.err
	}
	g, found := b.store.groups[name]
	if !found {
		return nil, refuse(remoting.GroupNotExist, "No group in this broker. group: %s", name)
	}
	return body(r, g)
}

func (b *Broker) deleteGroup(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	name := f.text("groupName")
	if f.err != nil {
		return nil, f.err
	}
	if err := b.store.keep(entryGroupGone, nameEntry{name}); err != nil {
		return nil, err
	}
	if f.bool("cleanOffset") {
		if err := b.store.keep(entryOffsetsGone, nameEntry{name}); err != nil {
			return nil, err
		}
	}
	return ok(r)
}
