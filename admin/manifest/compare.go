package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/mask"
	"github.com/turnout-mq/turnout/metadata"
)

func unreadableItem(i *store.CatalogItem, err error) error {
	return fmt.Errorf("%s %s of the catalog can not be read: %w", i.Kind, i.Name, err)
}

const (
	whyIdentity = "it is fixed when it is made: make another one"
	whyBroker   = "settings on a cluster are changed with the cluster's own tools; then turnout drift adopt"
)

// cluster compares a cluster. Its request has all of it, so what the document leaves out is taken from what is there.
func (w world) cluster(c Item[requests.ClusterSpec]) (Step, error) {
	s, item, err := w.begin(requests.KindCluster, c.Spec.Name, c.Line, requests.New{Cluster: &c.Spec})
	if item == nil {
		return s, err
	}
	var doc metadata.Cluster
	if err := json.Unmarshal(item.Doc, &doc); err != nil {
		return s, unreadableItem(item, err)
	}
	is := requests.ClusterSpec{Name: item.Name, Kind: doc.Kind, Addresses: doc.Addresses, ClusterID: doc.ClusterID, Properties: doc.Properties, Labels: item.Labels}
	if doc.Auth != nil {
		is.Mechanism, is.Secret = doc.Auth.Mechanism, doc.Auth.Secret
	}
	if t := doc.TLS; t != nil {
		is.TLS = &requests.TLSSpec{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName, Insecure: t.Insecure}
	}
	wanted, changed := is, false
	d := differences{given: c.given}
	d.of("kind", is.Kind, c.Spec.Kind, whyIdentity)
	if is.ClusterID != "" {
		d.of("clusterId", is.ClusterID, c.Spec.ClusterID, whyIdentity)
	} else if d.of("clusterId", is.ClusterID, c.Spec.ClusterID, "") {
		wanted.ClusterID, changed = c.Spec.ClusterID, true
	}
	if d.of("addresses", slices.Sorted(slices.Values(is.Addresses)), slices.Sorted(slices.Values(c.Spec.Addresses)), "") {
		wanted.Addresses, changed = c.Spec.Addresses, true
	}
	for _, field := range []struct {
		name     string
		from, to any
		take     func()
	}{
		{"mechanism", is.Mechanism, c.Spec.Mechanism, func() { wanted.Mechanism = c.Spec.Mechanism }},
		{"secret", is.Secret, c.Spec.Secret, func() { wanted.Secret = c.Spec.Secret }},
		{"tls", encrypted(is.TLS), encrypted(c.Spec.TLS), func() { wanted.TLS = c.Spec.TLS }},
		{"properties", is.Properties, c.Spec.Properties, func() { wanted.Properties = c.Spec.Properties }},
		{"labels", is.Labels, c.Spec.Labels, func() { wanted.Labels = c.Spec.Labels }},
	} {
		if d.of(field.name, field.from, field.to, "") {
			field.take()
			changed = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted.Properties)) {
		if changed && wanted.Properties[name] == mask.Hidden {
			d.fields = append(d.fields, Field{"properties." + name, mask.Hidden, "(not given)", "it looks like a secret, and is not shown to be kept: give all properties"})
			changed = false
		}
	}
	if !changed {
		return w.end(s, d, nil)
	}
	return w.end(s, d, &requests.New{Cluster: &wanted})
}

// encrypted is a TLS setting as text: one without any field turns TLS on.
func encrypted(t *requests.TLSSpec) string {
	if t == nil {
		return ""
	}
	return "on " + text(*t)
}

func (w world) topic(t Item[requests.TopicSpec]) (Step, error) {
	s, item, err := w.begin(requests.KindTopic, t.Spec.Name, t.Line, requests.New{Topic: &t.Spec})
	if item == nil {
		return s, err
	}
	var doc requests.TopicDoc
	if err := json.Unmarshal(item.Doc, &doc); err != nil {
		return s, unreadableItem(item, err)
	}
	d := differences{given: t.given}
	c, changed := requests.TopicChange{Name: t.Spec.Name}, false
	d.of("cluster", item.Cluster, cmp.Or(t.Spec.Cluster, item.Cluster),
		fmt.Sprintf(`a topic is moved: turnout request new with {"migration":{"topic":%q,"to":%q}}`, t.Spec.Name, t.Spec.Cluster))
	if at := w.items[thing{requests.KindCluster, item.Cluster}]; at != nil && t.Spec.Kind != "" {
		var on metadata.Cluster
		if err := json.Unmarshal(at.Doc, &on); err != nil {
			return s, unreadableItem(at, err)
		}
		d.of("kind", on.Kind, t.Spec.Kind, "a topic is moved to a cluster of another kind by a migration")
	}
	d.of("physical", doc.Settings.Physical(item.Name, item.Cluster), cmp.Or(t.Spec.Physical, item.Name), whyIdentity)
	d.of("order", cmp.Or(doc.Order, metadata.OrderNone), cmp.Or(t.Spec.Order, metadata.OrderNone), "the order of a topic is changed with turnout topic put")
	d.of("partitions", item.Partitions, t.Spec.Partitions, whyBroker)
	d.of("replicas", doc.Replicas, t.Spec.Replicas, whyBroker)
	for _, key := range slices.Sorted(maps.Keys(t.Spec.Config)) {
		if doc.Config[key] != t.Spec.Config[key] {
			d.fields = append(d.fields, Field{"config." + key, doc.Config[key], t.Spec.Config[key], whyBroker})
		}
	}
	if d.of("app", item.App, t.Spec.App, "") {
		c.App, changed = &t.Spec.App, true
	}
	if t.Spec.Portable != nil && d.of("portable", doc.Settings.Portable, *t.Spec.Portable, "") {
		c.Portable, changed = t.Spec.Portable, true
	}
	if t.Spec.Shadow != nil && d.of("shadow", doc.Settings.Shadow.Enabled, *t.Spec.Shadow, "") {
		c.Shadow, changed = t.Spec.Shadow, true
	}
	if len(t.Spec.Labels) > 0 && d.of("labels", item.Labels, t.Spec.Labels, "") {
		c.Labels, changed = t.Spec.Labels, true
	}
	if !changed {
		return w.end(s, d, nil)
	}
	return w.end(s, d, &requests.New{Settings: &requests.SettingsSpec{Topic: &c}})
}

func (w world) group(g Item[requests.GroupSpec]) (Step, error) {
	s, item, err := w.begin(requests.KindGroup, g.Spec.Name, g.Line, requests.New{Group: &g.Spec})
	if item == nil {
		return s, err
	}
	is := metadata.DefaultGroup()
	if err := json.Unmarshal(item.Doc, &is); err != nil {
		return s, unreadableItem(item, err)
	}
	is.Name = item.Name
	d := differences{given: g.given}
	c, changed := requests.GroupChange{Name: g.Spec.Name}, false
	d.of("start", is.Start, cmp.Or(g.Spec.Start, metadata.StartEarliest), "where a group begins is fixed when it is made: ask for other positions (offsets)")
	for _, topic := range slices.Sorted(maps.Keys(g.Spec.Names)) {
		if name := is.Physical(topic); name != "" && name != g.Spec.Names[topic] {
			d.fields = append(d.fields, Field{"names." + topic, name, g.Spec.Names[topic], whyIdentity})
		}
	}
	if d.of("app", item.App, g.Spec.App, "") {
		c.App, changed = &g.Spec.App, true
	}
	if d.of("topics", slices.Sorted(slices.Values(is.Topics)), slices.Sorted(slices.Values(g.Spec.Topics)), "") {
		c.Topics, changed = g.Spec.Topics, true
	}
	order, concurrency := cmp.Or(g.Spec.Order, metadata.OrderNone), cmp.Or(g.Spec.Concurrency, metadata.DefaultConcurrency)
	if d.of("order", is.Order, order, "") {
		c.Order, changed = &order, true
	}
	if d.of("concurrency", is.Concurrency, concurrency, "") {
		c.Concurrency, changed = &concurrency, true
	}
	if d.of("rate", is.Rate, g.Spec.Rate, "") {
		c.Rate, changed = &g.Spec.Rate, true
	}
	if d.of("tags", is.Tags, g.Spec.Tags, "") {
		c.Tags, changed = &g.Spec.Tags, true
	}
	if g.Spec.RetryMax != nil && d.of("retryMax", is.Retry.Max, *g.Spec.RetryMax, "") {
		c.RetryMax, changed = g.Spec.RetryMax, true
	}
	if !changed {
		return w.end(s, d, nil)
	}
	return w.end(s, d, &requests.New{Settings: &requests.SettingsSpec{Group: &c}})
}

// prune are the steps for what the applications of a document have and the document does not.
func (w world) prune(d *Document) ([]Step, error) {
	apps, listed := map[string]bool{}, map[thing]bool{}
	for _, t := range d.Topics {
		apps[t.Spec.App], listed[thing{requests.KindTopic, t.Spec.Name}] = true, true
	}
	for _, g := range d.Groups {
		apps[g.Spec.App], listed[thing{requests.KindGroup, g.Spec.Name}] = true, true
	}
	readers := map[string][]string{}
	for key, item := range w.items {
		if key.kind != requests.KindGroup || len(item.Doc) == 0 { // what nobody can read the platform itself refuses to pass over
			continue
		}
		var g metadata.Group
		if err := json.Unmarshal(item.Doc, &g); err != nil {
			return nil, unreadableItem(item, err)
		}
		for _, topic := range g.Topics {
			readers[topic] = append(readers[topic], item.Name)
		}
	}
	var steps []Step
	for _, kind := range []string{requests.KindGroup, requests.KindTopic} {
		for _, key := range slices.SortedFunc(maps.Keys(w.items), func(a, b thing) int { return cmp.Compare(a.name, b.name) }) {
			item := w.items[key]
			if key.kind != kind || listed[key] || !apps[item.App] || item.State != store.Active {
				continue
			}
			s := Step{Action: Delete, Kind: kind, Name: item.Name, Request: &requests.New{Deletion: &requests.DeletionSpec{Kind: kind, Name: item.Name}}}
			if by := slices.Sorted(slices.Values(readers[item.Name])); kind == requests.KindTopic && len(by) > 0 {
				s.Action, s.Request, s.Note = Kept, nil, "it is read by "+strings.Join(by, ", ")+"; apply again when these are gone"
			} else if err := w.asked(&s); err != nil {
				return nil, err
			}
			steps = append(steps, s)
		}
	}
	return steps, nil
}
