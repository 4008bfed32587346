package requests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/mask"
	"github.com/turnout-mq/turnout/metadata"
)

// The kinds of requests.
const (
	KindTopic     = "topic"
	KindGroup     = "group"
	KindCluster   = "cluster"
	KindSettings  = "settings"
	KindMigration = "migration"
	KindStress    = "stress"
	KindDeletion  = "deletion"
	KindClaim     = "claim"
	KindOffsets   = "offsets"
)

// Kinds are all of them.
var Kinds = []string{KindTopic, KindGroup, KindCluster, KindSettings, KindMigration, KindStress, KindDeletion, KindClaim, KindOffsets}

// New is what somebody applies for: exactly one of the fields beside Reason and Batch.
type New struct {
	Reason    string         `json:"reason,omitempty" maxLength:"2000" doc:"why; for whoever decides"`
	Batch     string         `json:"batch,omitempty" pattern:"^[a-zA-Z0-9_-]{0,120}$" doc:"a name that requests have in common which are filed together; an edit does not change it"`
	Topic     *TopicSpec     `json:"topic,omitempty" doc:"a new topic"`
	Group     *GroupSpec     `json:"group,omitempty" doc:"a new consumer group"`
	Cluster   *ClusterSpec   `json:"cluster,omitempty" doc:"registration of a cluster, or a change of how it is reached"`
	Settings  *SettingsSpec  `json:"settings,omitempty" doc:"other settings of a topic or a group"`
	Migration *MigrationSpec `json:"migration,omitempty" doc:"a topic moves to another cluster"`
	Stress    *StressSpec    `json:"stress,omitempty" doc:"a stress task"`
	Deletion  *DeletionSpec  `json:"deletion,omitempty" doc:"a topic, group or cluster goes"`
	Claim     *ClaimSpec     `json:"claim,omitempty" doc:"ownership of an application"`
	Offsets   *OffsetsSpec   `json:"offsets,omitempty" doc:"other positions of a group on a topic"`
}

// spec is the kind of what is asked for and its document.
func (n New) spec() (kind string, doc json.RawMessage, err error) {
	var kinds []string
	for _, one := range []struct {
		kind  string
		given bool
		doc   any
	}{
		{KindTopic, n.Topic != nil, n.Topic}, {KindGroup, n.Group != nil, n.Group}, {KindCluster, n.Cluster != nil, n.Cluster},
		{KindSettings, n.Settings != nil, n.Settings}, {KindMigration, n.Migration != nil, n.Migration}, {KindStress, n.Stress != nil, n.Stress},
		{KindDeletion, n.Deletion != nil, n.Deletion}, {KindClaim, n.Claim != nil, n.Claim}, {KindOffsets, n.Offsets != nil, n.Offsets},
	} {
		if !one.given {
			continue
		}
		kind, kinds = one.kind, append(kinds, one.kind)
		if doc, err = json.Marshal(one.doc); err != nil {
			return "", nil, fmt.Errorf("%w: %s: %w", errs.ErrInvalid, kind, err)
		}
	}
	if len(kinds) != 1 {
		return "", nil, fmt.Errorf("%w: the request asks for %q: it must ask for exactly one of %q", errs.ErrInvalid, kinds, Kinds)
	}
	if len(doc) > maxSpec {
		return "", nil, fmt.Errorf("%w: the %s has %d bytes as JSON: use at most %d", errs.ErrTooLarge, kind, len(doc), maxSpec)
	}
	if n.Batch != "" {
		if err := metadata.CheckName("batch", n.Batch); err != nil {
			return "", nil, err
		}
	}
	return kind, doc, words("reason", n.Reason)
}

// Validate is ErrInvalid for fields of a new topic, group or cluster that are not acceptable, whatever there is in the world.
func (n New) Validate() error {
	_, _, err := n.spec()
	switch {
	case err != nil:
		return err
	case n.Topic != nil:
		return n.Topic.validate()
	case n.Group != nil:
		return n.Group.validate()
	case n.Cluster != nil:
		return n.Cluster.validate()
	}
	return nil
}

// tidied is a text that words takes, with what can be kept of it.
func tidied(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason-len("…")], "") + "…"
	}
	return text
}

// words is ErrInvalid for a text of people that is too long, or that does something to a terminal.
func words(field, text string) error {
	if len(text) > maxReason {
		return fmt.Errorf("%w: %s has %d bytes: use at most %d", errs.ErrInvalid, field, len(text), maxReason)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
		return fmt.Errorf("%w: %s has control characters or is not UTF-8: leave them out", errs.ErrInvalid, field)
	}
	return nil
}

const (
	maxReason     = 2000 // bytes
	maxSpec       = 60_000
	maxPartitions = 10_000
	maxLabels     = 32
	maxConfig     = 64
)

// TopicSpec asks for a topic. It is created on the cluster that is allotted.
type TopicSpec struct {
	Name       string            `json:"name" yaml:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$" example:"order_topic"`
	App        string            `json:"app" yaml:"app" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"the application that it belongs to" example:"order_service"`
	Partitions int               `json:"partitions" yaml:"partitions" minimum:"1" maximum:"10000" doc:"partitions (Kafka) or queues on every broker (RocketMQ)"`
	Replicas   int               `json:"replicas,omitempty" yaml:"replicas,omitempty" minimum:"0" maximum:"32" doc:"Kafka; 0: the broker's default"`
	Kind       broker.Kind       `json:"kind,omitempty" yaml:"kind,omitempty" enum:",kafka,rocketmq" doc:"kind of cluster; empty: any"`
	Cluster    string            `json:"cluster,omitempty" yaml:"cluster,omitempty" doc:"the cluster that is wished for; whoever approves may name another"`
	Labels     map[string]string `json:"labels,omitempty" yaml:"labels,omitempty" doc:"for the allotment rules"`
	Order      metadata.Order    `json:"order,omitempty" yaml:"order,omitempty" enum:",none,key" doc:"whether messages of one key are handled in their order; empty: none"`
	Physical   string            `json:"physical,omitempty" yaml:"physical,omitempty" maxLength:"249" doc:"its name on the cluster, where that differs"`
	Config     map[string]string `json:"config,omitempty" yaml:"config,omitempty" doc:"Kafka topic settings, such as retention.ms"`
	Portable   *bool             `json:"portable,omitempty" yaml:"portable,omitempty" doc:"refuse messages that not every kind of cluster can carry; default true"`
	Shadow     *bool             `json:"shadow,omitempty" yaml:"shadow,omitempty" doc:"messages with the stress mark go to its shadow topic; false: they are refused; default true"`
}

// GroupSpec asks for a consumer group.
type GroupSpec struct {
	Name        string            `json:"name" yaml:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$" example:"billing"`
	App         string            `json:"app" yaml:"app" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"the application that it belongs to"`
	Topics      []string          `json:"topics" yaml:"topics" minItems:"1" maxItems:"100"`
	Start       metadata.Start    `json:"start,omitempty" yaml:"start,omitempty" enum:",earliest,latest" doc:"where it begins; latest: with what is sent after the group was created; empty: earliest"`
	Order       metadata.Order    `json:"order,omitempty" yaml:"order,omitempty" enum:",none,key" doc:"empty: none"`
	Concurrency int               `json:"concurrency,omitempty" yaml:"concurrency,omitempty" minimum:"0" maximum:"10000" doc:"messages handled at once in an instance; 0: 8"`
	Rate        float64           `json:"rate,omitempty" yaml:"rate,omitempty" minimum:"0" doc:"messages a second in an instance; 0: no limit"`
	Tags        string            `json:"tags,omitempty" yaml:"tags,omitempty" doc:"empty: all; else tags separated by ||"`
	RetryMax    *int              `json:"retryMax,omitempty" yaml:"retryMax,omitempty" minimum:"0" maximum:"16" doc:"rounds through the retry topic; default 16"`
	Names       map[string]string `json:"names,omitempty" yaml:"names,omitempty" doc:"its name on the clusters, by topic, where that differs"`
}

// ClusterSpec asks that a cluster is registered, or reached in another way. Secrets are references: env:NAME or file:PATH.
type ClusterSpec struct {
	Name       string            `json:"name" yaml:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$" example:"kafka-a"`
	Kind       broker.Kind       `json:"kind" yaml:"kind" enum:"kafka,rocketmq"`
	Addresses  []string          `json:"addresses" yaml:"addresses" minItems:"1" maxItems:"100" doc:"host:port of brokers (Kafka) or name servers (RocketMQ)"`
	ClusterID  string            `json:"clusterId,omitempty" yaml:"clusterId,omitempty" doc:"refuse any other cluster; empty: what answers now"`
	Mechanism  string            `json:"mechanism,omitempty" yaml:"mechanism,omitempty" enum:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,ACL" doc:"how to authenticate; with secret"`
	Secret     string            `json:"secret,omitempty" yaml:"secret,omitempty" doc:"reference to user:password: env:NAME or file:PATH, on every server and application" example:"file:/etc/turnout/clusters/kafka-a"`
	TLS        *TLSSpec          `json:"tls,omitempty" yaml:"tls,omitempty"`
	Properties map[string]string `json:"properties,omitempty" yaml:"properties,omitempty" doc:"driver settings; no secrets"`
	Labels     map[string]string `json:"labels,omitempty" yaml:"labels,omitempty" doc:"for the allotment rules"`
}

// TLSSpec turns TLS on; all fields may be empty.
type TLSSpec struct {
	CA         string `json:"ca,omitempty" yaml:"ca,omitempty" doc:"file with the certificates to trust; empty: the system's"`
	Cert       string `json:"cert,omitempty" yaml:"cert,omitempty" doc:"file with our certificate; with key"`
	Key        string `json:"key,omitempty" yaml:"key,omitempty" doc:"file with its key"`
	ServerName string `json:"serverName,omitempty" yaml:"serverName,omitempty" doc:"expect this name instead of the address"`
	Insecure   bool   `json:"insecure,omitempty" yaml:"insecure,omitempty" doc:"do not verify the server; for tests"`
}

// SettingsSpec asks for other settings of a topic or a group: exactly one of the two. What is not given stays as it is.
type SettingsSpec struct {
	Topic *TopicChange `json:"topic,omitempty"`
	Group *GroupChange `json:"group,omitempty"`
}

// TopicChange is what may be changed of a topic. Settings on the broker are not among it.
type TopicChange struct {
	Name        string            `json:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	App         *string           `json:"app,omitempty" doc:"the application that it belongs to from now on"`
	Portable    *bool             `json:"portable,omitempty"`
	Shadow      *bool             `json:"shadow,omitempty" doc:"false: messages with the stress mark are refused"`
	ShadowTopic *string           `json:"shadowTopic,omitempty" doc:"where messages with the stress mark go; empty: shadow_NAME"`
	Names       map[string]string `json:"names,omitempty" doc:"its name on clusters that it was not on yet, by cluster; empty: the topic's own"`
	Labels      map[string]string `json:"labels,omitempty" doc:"all of them anew"`
}

// GroupChange is what may be changed of a group.
type GroupChange struct {
	Name              string          `json:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	App               *string         `json:"app,omitempty" doc:"the application that it belongs to from now on"`
	Topics            []string        `json:"topics,omitempty" maxItems:"100" doc:"all of them anew"`
	Paused            *bool           `json:"paused,omitempty"`
	Concurrency       *int            `json:"concurrency,omitempty" minimum:"1" maximum:"10000"`
	Rate              *float64        `json:"rate,omitempty" minimum:"0"`
	Tags              *string         `json:"tags,omitempty"`
	Order             *metadata.Order `json:"order,omitempty" enum:"none,key"`
	RetryMax          *int            `json:"retryMax,omitempty" minimum:"0" maximum:"16"`
	ShadowConcurrency *int            `json:"shadowConcurrency,omitempty" minimum:"0" maximum:"10000"`
	ShadowRate        *float64        `json:"shadowRate,omitempty" minimum:"0"`
}

// MigrationSpec asks that a topic moves to another cluster.
type MigrationSpec struct {
	Topic      string   `json:"topic" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	To         string   `json:"to" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"cluster"`
	Unordered  bool     `json:"unordered,omitempty" doc:"the move does not keep the order per key, though the topic does"`
	Create     bool     `json:"create,omitempty" doc:"create the topic on the cluster if it is missing"`
	Partitions int      `json:"partitions,omitempty" minimum:"0" maximum:"10000" doc:"of a topic that is created; 0: as many as now"`
	HoldMS     int64    `json:"holdMs,omitempty" minimum:"0" doc:"how long sends of an ordered topic may pause at most, in ms; 0: 3000"`
	Accept     []string `json:"accept,omitempty" doc:"warnings of the preflight that do not stop it, by code"`
	Force      bool     `json:"force,omitempty" doc:"leave a cluster that does not answer: sends go to the other at once"`
	// Guards are migrate.Plan.Guards.
	Guards []migrate.Guard `json:"guards,omitempty" doc:"limits that the migration is watched by"`
	// Canary is judged by the preflight.
	Canary *migrate.Canary `json:"canary,omitempty" doc:"a part that goes first, until somebody promotes it or lets it go back"`
}

// DeletionSpec asks that something goes that nobody uses.
type DeletionSpec struct {
	Kind string `json:"kind" enum:"topic,group,cluster"`
	Name string `json:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	Data bool   `json:"data,omitempty" doc:"of a topic: delete it on its clusters too, with all messages"`
}

// ClaimSpec asks for the ownership of an application.
type ClaimSpec struct {
	App string `json:"app" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
}

// OffsetsSpec asks for other positions of a group on a topic of a cluster.
type OffsetsSpec struct {
	Group   string           `json:"group" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	Topic   string           `json:"topic" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	Cluster string           `json:"cluster,omitempty" doc:"empty: the one that the topic is on"`
	To      string           `json:"to" enum:"earliest,latest,time,offsets"`
	Time    *time.Time       `json:"time,omitempty" doc:"with to=time: the first message stored then or later"`
	Offsets map[string]int64 `json:"offsets,omitempty" doc:"with to=offsets: the next message to read, by partition; others stay"`
}

// The values of OffsetsSpec.To.
const (
	ToEarliest = "earliest"
	ToLatest   = "latest"
	ToTime     = "time"
	ToOffsets  = "offsets"
)

// decode reads a spec strictly.
func decode[T any](kind string, raw json.RawMessage) (doc T, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return doc, fmt.Errorf("%w: %s: %w", errs.ErrInvalid, kind, err)
	}
	return doc, nil
}

// problems collects what is wrong with a spec, so that all of it is said at once.
type problems []error

// add notes that a field has an unacceptable value; remedy says what would be acceptable.
func (p *problems) add(field string, value any, remedy string, args ...any) {
	*p = append(*p, fmt.Errorf("%s %q: %s", field, fmt.Sprint(value), fmt.Sprintf(remedy, args...)))
}

func (p problems) err(kind string) error {
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", kind, errs.ErrInvalid, errors.Join(p...))
}

func (p *problems) name(field, value string) {
	if !metadata.ValidName(value) {
		p.add(field, value, "must be 1 to 120 of a-z A-Z 0-9 _ -")
	}
}

func (p *problems) between(field string, value, least, most int) {
	if value < least || value > most {
		p.add(field, value, "must be %d to %d", least, most)
	}
}

func (p *problems) order(field string, o metadata.Order) {
	if o != "" && o != metadata.OrderNone && o != metadata.OrderKey {
		p.add(field, o, "must be none or key")
	}
}

var (
	labelKey   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/-]{0,62}$`)
	labelValue = regexp.MustCompile(`^[a-zA-Z0-9._/@:-]{0,128}$`)
	configKey  = regexp.MustCompile(`^[a-z][a-z0-9.]{0,99}$`)
)

func (p *problems) labels(field string, labels map[string]string) {
	if len(labels) > maxLabels {
		p.add(field, len(labels), "must be at most %d labels", maxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !labelKey.MatchString(key) {
			p.add(field, key, "a label's name must be 1 to 63 of a-z A-Z 0-9 . _ / - and begin with a letter or digit")
		}
		if !labelValue.MatchString(labels[key]) {
			p.add(fmt.Sprintf("%s[%q]", field, key), labels[key], "must be at most 128 of a-z A-Z 0-9 . _ / @ : -")
		}
	}
}

// plain refuses what may be a secret; it is not shown.
func (p *problems) plain(field string, settings map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if mask.IsName(key) || mask.IsText(settings[key]) {
			p.add(fmt.Sprintf("%s[%q]", field, key), "(not shown)", "looks like a secret: keep it in a file or an environment variable of the servers and name it with secret")
		}
	}
}

func (t TopicSpec) validate() error {
	var p problems
	p.name("name", t.Name)
	p.name("app", t.App)
	p.between("partitions", t.Partitions, 1, maxPartitions)
	p.between("replicas", t.Replicas, 0, 32)
	if t.Kind != "" && t.Kind != broker.Kafka && t.Kind != broker.RocketMQ {
		p.add("kind", t.Kind, "must be kafka or rocketmq, or empty for any")
	}
	if t.Kind == broker.RocketMQ && (len(t.Config) > 0 || t.Replicas > 0) {
		p.add("config", t.Kind, "topics of RocketMQ have no settings and replicas of their own: leave config and replicas out, or ask for kind kafka")
	}
	if t.Cluster != "" {
		p.name("cluster", t.Cluster)
	}
	p.labels("labels", t.Labels)
	p.order("order", t.Order)
	if len(t.Config) > maxConfig {
		p.add("config", len(t.Config), "must be at most %d settings", maxConfig)
	}
	for _, key := range slices.Sorted(maps.Keys(t.Config)) {
		if !configKey.MatchString(key) {
			p.add("config", key, "must be the name of a Kafka topic setting, such as retention.ms")
		}
		if key == "max.message.bytes" && (t.Config[key] == "0" || t.Config[key] == "1") {
			p.add("config[max.message.bytes]", t.Config[key], "closes the topic to writers: must be more")
		}
	}
	p.plain("config", t.Config)
	if err := p.err("topic"); err != nil {
		return err
	}
	return t.settings("cluster").Validate()
}

// settings are those of the topic on a cluster.
func (t TopicSpec) settings(cluster string) metadata.TopicSettings {
	s := metadata.DefaultTopicSettings()
	s.App = t.App
	if t.Portable != nil {
		s.Portable = *t.Portable
	}
	if t.Shadow != nil {
		s.Shadow.Enabled = *t.Shadow
	}
	if t.Physical != "" && t.Physical != t.Name {
		s.Names = map[string]string{cluster: t.Physical}
	}
	return s
}

func (g GroupSpec) validate() error {
	var p problems
	p.name("name", g.Name)
	p.name("app", g.App)
	if strings.HasPrefix(g.Name, metadata.ShadowPrefix) {
		p.add("name", g.Name, "%s is for shadow groups, which need no request", metadata.ShadowPrefix)
	}
	if err := p.err("group"); err != nil {
		return err
	}
	return g.group().Validate()
}

// group is what is asked for, without From.
func (g GroupSpec) group() metadata.Group {
	out := metadata.DefaultGroup()
	out.Name, out.App, out.Topics, out.Rate, out.Tags, out.Names = g.Name, g.App, g.Topics, g.Rate, g.Tags, g.Names
	if g.Start != "" {
		out.Start = g.Start
	}
	if g.Order != "" {
		out.Order = g.Order
	}
	if g.Concurrency != 0 {
		out.Concurrency = g.Concurrency
	}
	if g.RetryMax != nil {
		out.Retry.Max = *g.RetryMax
	}
	return out
}

func (c ClusterSpec) validate() error {
	var p problems
	p.name("name", c.Name)
	p.labels("labels", c.Labels)
	p.plain("properties", c.Properties)
	if (c.Mechanism == "") != (c.Secret == "") {
		p.add("mechanism", c.Mechanism, "must be given together with secret, or neither")
	}
	if t := c.TLS; t != nil {
		p.plain("tls", map[string]string{"ca": t.CA, "cert": t.Cert, "serverName": t.ServerName})
		if mask.IsText(t.Key) {
			p.add("tls.key", "(not shown)", "must be the path of a file, not the key itself")
		}
	}
	if err := p.err("cluster"); err != nil {
		return err
	}
	return c.cluster().Validate()
}

// cluster is how it is reached.
func (c ClusterSpec) cluster() metadata.Cluster {
	out := metadata.Cluster{Name: c.Name, V: 1, Kind: c.Kind, Addresses: c.Addresses, ClusterID: c.ClusterID, Properties: c.Properties}
	if c.Mechanism != "" || c.Secret != "" {
		out.Auth = &metadata.Auth{Mechanism: c.Mechanism, Secret: c.Secret}
	}
	if c.TLS != nil {
		out.TLS = &metadata.TLS{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, ServerName: c.TLS.ServerName, Insecure: c.TLS.Insecure}
	}
	return out
}

func (s SettingsSpec) validate() error {
	var p problems
	switch {
	case (s.Topic == nil) == (s.Group == nil):
		p.add("settings", "topic, group", "must have exactly one of the two")
	case s.Topic != nil:
		p.name("topic.name", s.Topic.Name)
		p.labels("topic.labels", s.Topic.Labels)
		if s.Topic.App != nil {
			p.name("topic.app", *s.Topic.App)
		}
		if c := s.Topic; c.App == nil && c.Portable == nil && c.Shadow == nil && c.ShadowTopic == nil && len(c.Names) == 0 && c.Labels == nil {
			p.add("topic", c.Name, "nothing is to be changed: give a setting")
		}
	default:
		p.name("group.name", s.Group.Name)
		if s.Group.App != nil {
			p.name("group.app", *s.Group.App)
		}
		if c := s.Group; c.App == nil && c.Topics == nil && c.Paused == nil && c.Concurrency == nil && c.Rate == nil && c.Tags == nil && c.Order == nil &&
			c.RetryMax == nil && c.ShadowConcurrency == nil && c.ShadowRate == nil {
			p.add("group", c.Name, "nothing is to be changed: give a setting")
		}
	}
	return p.err("settings")
}

// apply is the settings of a topic with the changes.
func (c TopicChange) apply(s metadata.TopicSettings) metadata.TopicSettings {
	s.Names = maps.Clone(s.Names)
	set(&s.App, c.App)
	set(&s.Portable, c.Portable)
	set(&s.Shadow.Enabled, c.Shadow)
	set(&s.Shadow.Topic, c.ShadowTopic)
	for cluster, name := range c.Names {
		if s.Names == nil {
			s.Names = map[string]string{}
		}
		s.Names[cluster] = name
		if name == "" {
			delete(s.Names, cluster)
		}
	}
	return s
}

// apply is the group with the changes.
func (c GroupChange) apply(g metadata.Group) metadata.Group {
	g.Topics = slices.Clone(g.Topics)
	set(&g.App, c.App)
	if c.Topics != nil {
		g.Topics = slices.Clone(c.Topics)
	}
	set(&g.Paused, c.Paused)
	set(&g.Concurrency, c.Concurrency)
	set(&g.Rate, c.Rate)
	set(&g.Tags, c.Tags)
	set(&g.Order, c.Order)
	set(&g.Retry.Max, c.RetryMax)
	set(&g.Shadow.Concurrency, c.ShadowConcurrency)
	set(&g.Shadow.Rate, c.ShadowRate)
	return g
}

func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

func (m MigrationSpec) validate() error {
	var p problems
	p.name("topic", m.Topic)
	p.name("to", m.To)
	p.between("partitions", m.Partitions, 0, maxPartitions)
	if m.HoldMS < 0 || m.HoldMS > int64(time.Hour/time.Millisecond) {
		p.add("holdMs", m.HoldMS, "must be 0 to 3600000")
	}
	if m.Partitions > 0 && !m.Create {
		p.add("partitions", m.Partitions, "is for a topic that is created: add create, or leave it out")
	}
	return errors.Join(p.err("migration"), migrate.CheckGuards(m.Guards))
}

func (d DeletionSpec) validate() error {
	var p problems
	switch d.Kind {
	case KindTopic:
	case KindGroup, KindCluster:
		if d.Data {
			p.add("data", d.Data, "is for a topic: leave it out")
		}
	default:
		p.add("kind", d.Kind, "must be topic, group or cluster")
	}
	p.name("name", d.Name)
	return p.err("deletion")
}

func (c ClaimSpec) validate() error {
	var p problems
	p.name("app", c.App)
	return p.err("claim")
}

func (o OffsetsSpec) validate() error {
	var p problems
	p.name("group", o.Group)
	p.name("topic", o.Topic)
	if o.Cluster != "" {
		p.name("cluster", o.Cluster)
	}
	switch o.To {
	case ToEarliest, ToLatest, ToTime, ToOffsets:
	default:
		p.add("to", o.To, "must be earliest, latest, time or offsets")
	}
	if (o.To == ToTime) != (o.Time != nil) {
		p.add("time", o.Time, "must be given with to=time and only then")
	}
	if (o.To == ToOffsets) != (len(o.Offsets) > 0) {
		p.add("offsets", o.Offsets, "must be given with to=offsets and only then")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Offsets)) {
		if o.Offsets[name] < 0 {
			p.add(fmt.Sprintf("offsets[%q]", name), o.Offsets[name], "must be 0 or more")
		}
	}
	return p.err("offsets")
}
