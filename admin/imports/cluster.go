package imports

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/admin/manifest"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// ClusterOptions say what of a cluster is imported.
type ClusterOptions struct {
	Name  string // as it is registered
	Kind  broker.Kind
	App   string // that topics and groups belong to. "": whoever edits the document says it
	Match string // a pattern of path.Match for the names of topics; "": all
	// Topics and Groups are those that are known already, by their names on this cluster.
	Topics, Groups map[string]string
}

// systemGroups are what groups are called that belong to brokers.
var systemGroups = []string{"CID_RMQ_SYS_", "CID_ONS", "TOOLS_CONSUMER", "FILTERSRV_CONSUMER", "SELF_TEST_"}

// Cluster reads the topics of a cluster and the groups that have positions on them. ErrInvalid: Match is not acceptable.
func Cluster(ctx context.Context, c broker.Cluster, o ClusterOptions) (*Result, error) {
	if _, err := path.Match(o.Match, ""); err != nil {
		return nil, fmt.Errorf("%w: pattern %q: %w: use * and ? and [a-z]", errs.ErrInvalid, o.Match, err)
	}
	r := &Result{}
	names, err := c.Topics(ctx)
	if err != nil {
		return nil, err
	}
	readers, err := c.GroupTopics(ctx)
	if err != nil {
		return nil, err
	}
	called, err := o.topics(ctx, c, r, o.choose(r, names))
	if err != nil {
		return nil, err
	}
	o.groups(r, readers, called)
	return r, nil
}

// choose is which topics are imported.
func (o ClusterOptions) choose(r *Result, names []string) (chosen []string) {
	left := map[string]int{}
	for _, name := range names {
		matches, _ := path.Match(o.Match, name) // looked at before
		group, isRetry := strings.CutPrefix(name, "retry_")
		if !isRetry {
			group, _ = strings.CutPrefix(name, "dlq_")
		}
		switch {
		case o.Match != "" && !matches:
			left["not matched by "+o.Match]++
		case o.Topics[name] != "":
			left["known already"]++
		case strings.HasPrefix(name, "__"):
			left["of the cluster itself (__…)"]++
		case strings.HasPrefix(name, metadata.ShadowPrefix):
			left["shadow topics ("+metadata.ShadowPrefix+"…), which are provisioned with stress tasks"]++
		case group != name && o.Groups[group] != "":
			left["retry and dead letter topics of known groups"]++
		default:
			chosen = append(chosen, name)
		}
	}
	own := "its own (__consumer_offsets, __transaction_state …)"
	if o.Kind == broker.RocketMQ {
		own = "its own (%RETRY%…, %DLQ%…, SCHEDULE_TOPIC_XXXX, RMQ_SYS_… and the like)"
	}
	r.note("cluster %s: %s, without %s", o.Name, count.Of(len(names), "topic", "topics"), own)
	for _, why := range sortedKeys(left) {
		r.note("%s left out: %s", count.Of(left[why], "topic was", "topics were"), why)
	}
	return chosen
}

// topics puts topics into the document, and returns what all are called, by their name on the cluster.
func (o ClusterOptions) topics(ctx context.Context, c broker.Cluster, r *Result, chosen []string) (map[string]string, error) {
	found, err := each(ctx, chosen, func(ctx context.Context, name string) (described, error) {
		return describe(ctx, c, o.Kind, o.Name, name)
	})
	if err != nil {
		return nil, err
	}
	called, naming := map[string]string{}, newNaming("topic", r)
	for physical, name := range o.Topics {
		called[physical], naming.taken[name] = name, physical
	}
	for i, physical := range chosen {
		spec := found[i].spec
		if found[i].err != nil {
			r.problem("topic %s: %v", physical, found[i].err)
			continue
		}
		name, ok := naming.of(physical)
		if !ok {
			continue
		}
		called[physical] = name
		spec.Name, spec.App, spec.Cluster = name, o.App, o.Name
		if name != physical {
			spec.Physical = physical
		}
		r.Document.Topics = append(r.Document.Topics, manifest.Item[requests.TopicSpec]{Spec: spec})
	}
	return called, nil
}

// groups puts the groups that read imported topics into the document.
func (o ClusterOptions) groups(r *Result, readers map[string][]string, called map[string]string) {
	naming := newNaming("group", r)
	for physical, name := range o.Groups {
		naming.taken[name] = physical
	}
	for _, physical := range sortedKeys(readers) {
		var topics, others []string
		fresh := false
		for _, topic := range readers[physical] {
			name := called[topic]
			if name == "" {
				others = append(others, topic)
				continue
			}
			topics = append(topics, name)
			fresh = fresh || o.Topics[topic] == ""
		}
		system := slices.ContainsFunc(systemGroups, func(prefix string) bool { return strings.HasPrefix(physical, prefix) })
		switch {
		case len(topics) == 0, system:
			continue
		case o.Groups[physical] != "":
			if fresh {
				r.note("group %s is known already, as %s: ask for settings if it shall read %s too", physical, o.Groups[physical], strings.Join(topics, ", "))
			}
			continue
		case strings.HasPrefix(physical, metadata.ShadowPrefix):
			r.note("group %s has the name of a shadow group and was left out", physical)
			continue
		}
		name, ok := naming.of(physical)
		if !ok {
			continue
		}
		slices.Sort(topics)
		item := manifest.Item[requests.GroupSpec]{Spec: requests.GroupSpec{Name: name, App: o.App, Topics: topics, Start: metadata.StartEarliest}}
		if name != physical {
			item.Spec.Names = map[string]string{topics[0]: physical}
		}
		if len(topics) > 1 {
			item.Note = fmt.Sprintf("It has positions on %d topics. A group has another name on the cluster for each of them: it goes on at its position on %s only. For the others, make groups of their own or ask for other positions before programs start.", len(topics), topics[0])
			r.problem("group %s has positions on %s: it keeps those on %s only, see the document", physical, strings.Join(topics, ", "), topics[0])
		}
		if len(others) > 0 {
			r.note("group %s also reads %s, which are not in the document", physical, strings.Join(others, ", "))
		}
		r.Document.Groups = append(r.Document.Groups, item)
	}
}
