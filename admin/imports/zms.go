package imports

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/admin/manifest"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Tree is a ZooKeeper that is read. Children and Data return errs.ErrNotFound for a node that is not there. Both may be called concurrently.
type Tree interface {
	Children(ctx context.Context, path string) ([]string, error)
	Data(ctx context.Context, path string) ([]byte, error)
}

// ZMSOptions say how metadata of ZMS is imported.
type ZMSOptions struct {
	App      string            // that topics and groups belong to; ZMS does not know it. "": whoever edits the document says it
	Clusters map[string]string // other names for clusters, by that in ZMS
	// Open opens a cluster, which is closed by the caller of it; registered: the platform knows it, and how to reach it.
	Open func(ctx context.Context, c requests.ClusterSpec) (opened broker.Cluster, registered bool, err error)
}

// zms is one import.
type zms struct {
	ZMSOptions
	Result
	tree     Tree
	clusters map[string]requests.ClusterSpec // by name in ZMS
	conns    connections
	failed   map[string]error // clusters that can not be asked, by name
	topics   map[string]zmsTopic
}

// zmsTopic is an imported topic.
type zmsTopic struct {
	name    string
	cluster string // in ZMS
}

// The keys of ZMS's nodes, and what is made of them. "": it is not imported.
var (
	clusterKeys = []string{"bootAddr", "brokerType", "serverIps"}
	topicKeys   = []string{"clusterName", "type", "gatedIps", "gatedCluster", "statisticsLogger"}
	groupKeys   = append(slices.Clone(topicKeys), "bindingTopic", "broadcast", "consumeFrom", "suspend")
)

// statisticTopics carry the statistics of the clients of ZMS itself.
var statisticTopics = []string{"statistic_topic_producerinfo", "statistic_topic_consumerinfo"}

// credentials are what keys are called whose values are secrets or belong to one.
var credentials = regexp.MustCompile(`(?i)user|passw|secret|token|credential|jaas|sasl|key|auth`)

// ZMS reads the metadata of ZMS below /zms. Nodes that can not be understood are problems, and the rest goes on. errs.ErrNotFound: there is
// no such metadata. No value of a key that ZMS itself does not have is in the result.
func ZMS(ctx context.Context, tree Tree, o ZMSOptions) (*Result, error) {
	z := &zms{ZMSOptions: o, tree: tree, clusters: map[string]requests.ClusterSpec{}, failed: map[string]error{}, topics: map[string]zmsTopic{}}
	z.conns.open = map[string]broker.Cluster{}
	defer z.conns.close()
	lists := map[string][]string{}
	some := false
	for _, kind := range []string{"cluster", "topic", "consumergroup"} {
		names, err := tree.Children(ctx, "/zms/"+kind)
		if err != nil && !errors.Is(err, errs.ErrNotFound) {
			return nil, err
		}
		some = some || err == nil
		slices.Sort(names)
		lists[kind] = names
	}
	if !some {
		return nil, fmt.Errorf("%w: there is none of /zms/cluster, /zms/topic and /zms/consumergroup: is it another ZooKeeper, or a chroot (host:port/chroot)?", errs.ErrNotFound)
	}
	if err := z.readClusters(ctx, lists["cluster"]); err != nil {
		return nil, err
	}
	if err := z.readTopics(ctx, lists["topic"]); err != nil {
		return nil, err
	}
	if err := z.readGroups(ctx, lists["consumergroup"]); err != nil {
		return nil, err
	}
	return &z.Result, nil
}

// node is one node of ZMS.
type node struct {
	name   string
	values map[string]string
	err    error // it can not be read
}

// read reads the nodes of a kind. Keys that ZMS does not have are noted, by name.
func (z *zms) read(ctx context.Context, kind string, names, keys []string) ([]node, error) {
	nodes, err := each(ctx, names, func(ctx context.Context, name string) (node, error) {
		data, err := z.tree.Data(ctx, "/zms/"+kind+"/"+name)
		switch {
		case errors.Is(err, errs.ErrNotFound): // deleted a moment ago
			return node{name: name, err: errors.New("it has gone while it was read")}, nil
		case err != nil:
			return node{}, fmt.Errorf("/zms/%s/%s: %w", kind, name, err)
		}
		values := properties(string(data))
		if len(values) == 0 {
			return node{name: name, err: errors.New("the node has no key=value line")}, nil
		}
		return node{name: name, values: values}, nil
	})
	if err != nil {
		return nil, err
	}
	good := nodes[:0]
	for _, n := range nodes {
		if n.err != nil {
			z.problem("/zms/%s/%s: %v", kind, n.name, n.err)
			continue
		}
		for _, key := range sortedKeys(n.values) {
			if !slices.Contains(keys, key) {
				z.note("/zms/%s/%s: key %q is none of ZMS and was not imported", kind, n.name, key)
			}
		}
		good = append(good, n)
	}
	return good, nil
}

// properties reads lines as java.util.Properties does, by which ZMS reads them. A value "null" is what ZMS writes for none.
func properties(text string) map[string]string {
	values := map[string]string{}
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimLeft(lines[i], " \t\f")
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for continued(line) && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + strings.TrimLeft(lines[i], " \t\f")
		}
		end := keyEnd(line)
		key, value := unescape(line[:end]), strings.TrimLeft(line[end:], " \t\f")
		if value != "" && (value[0] == '=' || value[0] == ':') {
			value = strings.TrimLeft(value[1:], " \t\f")
		}
		if value = strings.TrimSpace(unescape(value)); value == "null" {
			value = ""
		}
		values[key] = value
	}
	return values
}

// continued says that a line ends with an odd number of backslashes.
func continued(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// keyEnd is where the key of a line ends.
func keyEnd(line string) int {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '=', ':', ' ', '\t', '\f':
			return i
		}
	}
	return len(line)
}

// unescape takes the backslashes out.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
			switch s[i] {
			case 'n', 'r', 't', 'f':
				b.WriteByte(' ')
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (z *zms) readClusters(ctx context.Context, names []string) error {
	nodes, err := z.read(ctx, "cluster", names, clusterKeys)
	if err != nil {
		return err
	}
	from := map[string]string{}
	for _, old := range sortedKeys(z.ZMSOptions.Clusters) {
		if !slices.Contains(names, old) {
			return fmt.Errorf("%w: cluster map %q: ZMS has no such cluster, but %q", errs.ErrInvalid, old, names)
		}
	}
	for _, n := range nodes {
		name := n.name
		if other := z.ZMSOptions.Clusters[name]; other != "" {
			name = other
		}
		spec := requests.ClusterSpec{Name: name, Kind: broker.Kind(strings.ToLower(n.values["brokerType"]))}
		spec.Addresses = strings.FieldsFunc(n.values["bootAddr"], func(r rune) bool { return strings.ContainsRune(",; \t", r) })
		if err := (requests.New{Cluster: &spec}).Validate(); err != nil {
			z.problem("cluster %s: %v", n.name, err)
			continue
		}
		if before, taken := from[name]; taken {
			z.note("clusters %s and %s of ZMS are both %s here", before, n.name, name)
			z.clusters[n.name] = spec
			continue
		}
		from[name] = n.name
		z.clusters[n.name] = spec
		z.openCluster(ctx, n, spec)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// openCluster asks a cluster who it is, and puts it into the document unless it is registered.
func (z *zms) openCluster(ctx context.Context, n node, spec requests.ClusterSpec) {
	c, registered, err := z.Open(ctx, spec)
	item := manifest.Item[requests.ClusterSpec]{Spec: spec}
	if err == nil {
		z.conns.open[spec.Name] = c
		var info broker.Info
		if info, err = c.Describe(ctx); err == nil {
			item.Spec.ClusterID = info.ClusterID
		}
	}
	if err != nil {
		z.failed[spec.Name] = err
		z.problem("cluster %s: it can not be asked, so its topics and groups are not in the document: %v", spec.Name, err)
	}
	if registered {
		z.note("cluster %s is registered already, and is reached as it is registered", spec.Name)
		return
	}
	if slices.ContainsFunc(sortedKeys(n.values), func(key string) bool {
		return !slices.Contains(clusterKeys, key) && credentials.MatchString(key)
	}) {
		item.Spec.Mechanism, item.Spec.Secret = "?", "?"
		item.Note = "ZMS has a login for it, which is not copied: say the mechanism, and the secret as env:NAME or file:PATH"
		z.problem("cluster %s: ZMS has a login for it, which is not copied: say mechanism and secret (env:NAME or file:PATH) in the document", spec.Name)
	}
	z.Document.Clusters = append(z.Document.Clusters, item)
}

// gray notes what ZMS has for a part of the instances, and what else has no place here.
func (z *zms) gray(kind string, n node) {
	if n.values["gatedIps"] != "" || n.values["gatedCluster"] != "" {
		z.note("%s %s: another cluster for some instances (gatedIps %q, gatedCluster %q) was not imported", kind, n.name, n.values["gatedIps"], n.values["gatedCluster"])
	}
	if n.values["statisticsLogger"] != "" {
		z.note("%s %s: statisticsLogger was not imported", kind, n.name)
	}
}

// on is the connection to the cluster of a node. err says why there is none.
func (z *zms) on(n node) (spec requests.ClusterSpec, c broker.Cluster, err error) {
	cluster := n.values["clusterName"]
	spec, known := z.clusters[cluster]
	switch {
	case cluster == "":
		return spec, nil, errors.New("the node names no cluster")
	case !known:
		return spec, nil, fmt.Errorf("cluster %q is not there, or can not be read", cluster)
	case z.failed[spec.Name] != nil:
		return spec, nil, fmt.Errorf("cluster %s can not be asked", spec.Name)
	}
	return spec, z.conns.open[spec.Name], nil
}

func (z *zms) readTopics(ctx context.Context, names []string) error {
	nodes, err := z.read(ctx, "topic", names, topicKeys)
	if err != nil {
		return err
	}
	nodes = slices.DeleteFunc(nodes, func(n node) bool {
		own := slices.Contains(statisticTopics, n.name)
		if own {
			z.note("topic %s is for the statistics of ZMS itself and was left out", n.name)
		}
		return own
	})
	found, err := each(ctx, nodes, func(ctx context.Context, n node) (described, error) {
		spec, c, err := z.on(n)
		if err != nil {
			return described{err: err}, nil //nolint:nilerr // of this topic alone
		}
		d, err := describe(ctx, c, spec.Kind, spec.Name, n.name)
		d.spec.Cluster = spec.Name
		if d.err != nil {
			d.err = fmt.Errorf("on cluster %s: %w", spec.Name, d.err)
		}
		return d, err
	})
	if err != nil {
		return err
	}
	called := newNaming("topic", &z.Result)
	for i, n := range nodes {
		z.gray("topic", n)
		spec := found[i].spec
		if found[i].err != nil {
			z.problem("topic %s: %v", n.name, found[i].err)
			continue
		}
		name, ok := called.of(n.name)
		if !ok {
			continue
		}
		spec.Name, spec.App = name, z.App
		if name != n.name {
			spec.Physical = n.name
		}
		z.topics[n.name] = zmsTopic{name, n.values["clusterName"]}
		z.Document.Topics = append(z.Document.Topics, manifest.Item[requests.TopicSpec]{Spec: spec})
	}
	return nil
}

func (z *zms) readGroups(ctx context.Context, names []string) error {
	nodes, err := z.read(ctx, "consumergroup", names, groupKeys)
	if err != nil {
		return err
	}
	type placed struct {
		positions int
		err       error
	}
	found, err := each(ctx, nodes, func(ctx context.Context, n node) (placed, error) {
		topic := n.values["bindingTopic"]
		t, imported := z.topics[topic]
		switch {
		case n.values["broadcast"] == "true":
			return placed{err: errors.New("it is a broadcast group, of which there are none here: give each instance a group of its own")}, nil
		case topic == "":
			return placed{err: errors.New("the node names no topic")}, nil
		case !imported:
			return placed{err: fmt.Errorf("its topic %s is not in the document", topic)}, nil
		}
		spec, c, err := z.on(n)
		if err != nil {
			return placed{err: err}, nil //nolint:nilerr // of this group alone
		}
		if n.values["clusterName"] != t.cluster {
			return placed{err: fmt.Errorf("it reads cluster %s and its topic is on %s: bring the move of ZMS to an end first, so that nothing is left unread", n.values["clusterName"], t.cluster)}, nil
		}
		positions, err := c.Positions(ctx, n.name, topic)
		switch {
		case ctx.Err() != nil:
			return placed{}, ctx.Err()
		case err != nil:
			return placed{err: fmt.Errorf("its positions on cluster %s: %w", spec.Name, err)}, nil
		}
		return placed{positions: len(positions)}, nil
	})
	if err != nil {
		return err
	}
	called := newNaming("group", &z.Result)
	for i, n := range nodes {
		z.gray("group", n)
		if found[i].err != nil {
			z.problem("group %s: %v", n.name, found[i].err)
			continue
		}
		name, ok := called.of(n.name)
		if !ok {
			continue
		}
		topic := z.topics[n.values["bindingTopic"]].name
		g := requests.GroupSpec{Name: name, App: z.App, Topics: []string{topic}, Start: metadata.Start(n.values["consumeFrom"])}
		if g.Start != metadata.StartLatest && g.Start != metadata.StartEarliest {
			if g.Start != "" {
				z.note("group %s: consumeFrom %q is neither earliest nor latest: it is earliest here", n.name, string(g.Start))
			}
			g.Start = metadata.StartEarliest
		}
		if name != n.name {
			g.Names = map[string]string{topic: n.name}
		}
		if n.values["suspend"] == "true" {
			z.note("group %s: suspend=true was not imported: pause it with a request for settings when it is there", n.name)
		}
		if found[i].positions == 0 {
			z.note("group %s has no position on its topic: it begins with %s", n.name, begins(g.Start))
		}
		z.Document.Groups = append(z.Document.Groups, manifest.Item[requests.GroupSpec]{Spec: g})
	}
	return nil
}
