package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// Finding is one thing that the preflight has found.
type Finding struct {
	Code  string `json:"code"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	// Remedy says what to do about it.
	Remedy string `json:"remedy,omitempty"`
	// Accepted: the plan accepts this warning.
	Accepted bool `json:"accepted,omitempty"`
}

// Level says how much a finding matters.
type Level string

// The levels.
const (
	Error   Level = "error"   // the migration can not begin
	Warning Level = "warning" // it can, if this is accepted
	Info    Level = "info"
)

// The codes of findings.
const (
	BadRequest       = "bad-request"
	UnknownTopic     = "unknown-topic"
	UnknownCluster   = "unknown-cluster"
	AlreadyThere     = "already-there"
	MigrationRuns    = "migration-runs"
	EditPending      = "edit-pending"
	Unreachable      = "unreachable"
	OtherCluster     = "other-cluster"
	NoFence          = "no-fence"
	LateFence        = "late-fence"
	OtherKind        = "other-kind"
	NotPortable      = "not-portable"
	NoTopic          = "no-topic"
	TopicCreated     = "topic-created"
	FewerPartitions  = "fewer-partitions"
	PartitionsDiffer = "partitions-differ"
	SettingsDiffer   = "settings-differ"
	SizeLimit        = "size-limit"
	Compaction       = "compaction"
	Transactions     = "transactions"
	Retention        = "retention"
	NotOrdered       = "not-ordered"
	OrderNotKept     = "order-not-kept"
	AutoCreate       = "auto-create"
	ForeignWriters   = "foreign-writers"
	ForeignGroups    = "foreign-groups"
	SleepingGroups   = "sleeping-groups"
	OldInstances     = "old-instances"
	Vanished         = "vanished"
	NotReady         = "not-ready"
	CanaryKeys       = "canary-keys"
	CanaryOrder      = "canary-order"
	CanaryInstances  = "canary-instances"
	SourceDead       = "source-dead"
	SourceAnswers    = "source-answers"
	// SourceLost is accepted by Resume only, and not by "all": a cluster that was left never comes back, or comes back without the
	// topic. What does not answer in that moment is given up.
	SourceLost = "source-lost"
)

// warnings are the codes that can be accepted before a migration begins.
var warnings = []string{
	AutoCreate, CanaryInstances, CanaryOrder, Compaction, FewerPartitions, ForeignGroups, ForeignWriters, NotPortable, NotReady, OrderNotKept,
	PartitionsDiffer, Retention, SleepingGroups, SourceAnswers, TimersUnknown, Transactions, TransactionsUnknown, Vanished,
}

// oldestSDK is the first version that obeys every route that a controller writes.
const oldestSDK = "0.1.0"

const (
	peekMost      = 200            // messages of a partition that are looked at for foreign writers
	foreignAge    = time.Hour      // older ones do not count
	retentionRoom = 24 * time.Hour // what is not read must not expire sooner than this
	defaultHold   = 3000           // ms
	readyWait     = 3 * time.Second
	portableMost  = 1_000_000 + 16<<10 + 1<<10 // bytes that a message of a portable topic takes on a cluster: key and body, headers, what Turnout adds
	strangerQuiet = 5 * time.Second            // without a message of a stranger, before a migration goes on
)

// preflight is the finding of findings.
type preflight struct {
	c    *Controller
	plan Plan
	now  *scene
}

func (p *preflight) find(level Level, code, remedy, text string, args ...any) {
	p.plan.Findings = append(p.plan.Findings, Finding{Code: code, Level: level, Text: fmt.Sprintf(text, args...), Remedy: remedy,
		Accepted: level == Warning && p.plan.accepts(code)})
}

// Blocking are the findings that keep a migration from beginning.
func (p *Plan) Blocking() (found []Finding) {
	for _, f := range p.Findings {
		if f.Level == Error || f.Level == Warning && !f.Accepted {
			found = append(found, f)
		}
	}
	return found
}

// Preflight looks whether a topic can be moved, and returns the plan with what it found. It changes nothing. An error: it
// could not look.
func (c *Controller) Preflight(ctx context.Context, plan Plan) (Plan, error) {
	p := &preflight{c: c, plan: plan}
	earlier := plan.Participants
	p.plan.Findings, p.plan.Sleeping, p.plan.Foreign, p.plan.Participants, p.plan.Dead = nil, nil, nil, nil, nil
	if p.plan.Hold == 0 {
		p.plan.Hold = defaultHold
	}
	if p.plan.Hold < 0 || p.plan.Hold > 60_000 {
		p.find(Error, BadRequest, "give 1 to 60000", "holdMs is %d", p.plan.Hold)
	}
	if p.plan.Partitions < 0 {
		p.find(Error, BadRequest, "give 0 (as many as now) or more", "partitions is %d", p.plan.Partitions)
	}
	for _, err := range []error{CheckGuards(p.plan.Guards), checkAccept(p.plan.Accept)} {
		if err != nil {
			p.find(Error, BadRequest, "correct it", "%v", err)
		}
	}
	look := c.lookAtAll
	if plan.Force { // who reads is asked beside the rest
		look = c.look
	}
	now, err := look(ctx, plan.Topic)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		p.find(Error, UnknownTopic, "turnout topic list", "there is no topic %q", plan.Topic)
		return p.plan, nil
	case errors.Is(err, errs.ErrInvalid):
		p.find(Error, BadRequest, "", "%v", err)
		return p.plan, nil
	case err != nil:
		return p.plan, err
	}
	for until := time.Now().Add(readyWait); !plan.Force && now.Route != nil && len(now.awaited()) > 0 && time.Now().Before(until); {
		if err := pause(ctx, poll); err != nil { // a process that has just begun to use the topic is ready in a moment
			return p.plan, err
		}
		if now, err = c.lookAtAll(ctx, plan.Topic); err != nil {
			return p.plan, err
		}
	}
	p.now = now
	return p.plan, p.look(ctx, earlier)
}

func (p *preflight) look(ctx context.Context, earlier []string) error {
	t := p.now
	for _, part := range t.participants {
		p.plan.Participants = append(p.plan.Participants, part.ID)
	}
	switch {
	case t.Route == nil:
		p.find(Error, EditPending, "start a process that uses the topic, or: turnout topic put", "nobody has used the topic yet: it has no route")
		return nil
	case !metadata.Answered(t.Route, t.WishNode):
		remedy := "wait for it"
		if p.plan.Force {
			remedy = "go there by an edit, which answers it: turnout topic put " + p.plan.Topic + " --cluster " + p.plan.To + " --force"
		}
		p.find(Error, EditPending, remedy, "the wish was edited by hand and nobody has followed it yet")
		return nil
	case p.plan.leaves(t.Route) == p.plan.To:
		return p.already(ctx)
	}
	if open, err := p.c.db.Migrations(ctx, openOf(p.plan.Topic)); err != nil {
		return err
	} else if len(open) > 0 && p.plan.Force && p.plan.overtakes(open[0]) {
		p.find(Info, MigrationRuns, "", "migration %s of the topic, in state %s, is taken over and ends", open[0].ID, open[0].State)
	} else if len(open) > 0 && !p.plan.overtakes(open[0]) {
		p.find(Error, MigrationRuns, "turnout migrate watch "+open[0].ID, "migration %s of the topic is in state %s", open[0].ID, open[0].State)
	}
	if !p.plan.Force {
		p.order()
		p.canary()
	}
	if _, _, err := p.c.meta.GetCluster(ctx, p.plan.To); err != nil {
		if !errors.Is(err, errs.ErrNotFound) && !errors.Is(err, errs.ErrInvalid) {
			return err
		}
		p.find(Error, UnknownCluster, "turnout cluster list", "%v", err)
		return nil
	}
	if p.plan.Force {
		if err := p.lookForced(ctx); err != nil {
			return err
		}
		p.instances(ctx, earlier)
		return nil
	}
	var from *side
	fromOK, err := p.cluster(ctx, t.Route.Write, func(c *clusters.Conn) error {
		info, err := p.source(ctx, c)
		from = &side{info, c.Kind}
		return err
	})
	if err != nil {
		return err
	}
	if !fromOK {
		from = nil
	}
	_, err = p.cluster(ctx, p.plan.To, func(c *clusters.Conn) error { return p.target(ctx, c, from) })
	if err != nil {
		return err
	}
	for _, name := range t.Route.Clusters() { // what the topic was on before is finished with, too
		if name != t.Route.Write && name != p.plan.To {
			if _, err := p.cluster(ctx, name, func(*clusters.Conn) error { return nil }); err != nil {
				return err
			}
		}
	}
	p.instances(ctx, earlier)
	return nil
}

// already: there is nothing to move. A migration that has not ended may be what the asker does not know of.
// leaves is the cluster that is left by a plan: the one that is written. By force and to that one, it is the one that a canary
// goes to, or one that was left before, has not been read to its end, and is not given up for now already.
func (p *Plan) leaves(r *metadata.Route) string {
	if !p.Force || p.To != r.Write {
		return r.Write
	}
	if r.Canary != nil {
		return r.Canary.Write
	}
	for _, s := range r.Stays {
		if s.Cluster != p.To && !slices.Contains(r.Dead, s.Cluster) {
			return s.Cluster
		}
	}
	return r.Write
}

func (p *preflight) already(ctx context.Context) error {
	open, err := p.c.db.Migrations(ctx, openOf(p.plan.Topic))
	if err != nil {
		return err
	}
	text, remedy := fmt.Sprintf("the topic is on %s already", p.plan.To), ""
	if len(open) > 0 {
		text += fmt.Sprintf("; its migration %s to %s is in state %s", open[0].ID, open[0].Target, open[0].State)
		remedy = "turnout migrate watch " + open[0].ID
	}
	p.find(Error, AlreadyThere, remedy, "%s", text)
	return nil
}

func (p *preflight) order() {
	has := p.now.Route.Order == metadata.OrderKey
	switch {
	case p.plan.Ordered && !has:
		p.find(Error, NotOrdered, "turnout topic put "+p.plan.Topic+" --order key, some time before", "the order per key is asked for, and the topic has order %q", p.now.Route.Order)
	case !p.plan.Ordered && has:
		p.find(Warning, OrderNotKept, "leave --unordered out", "the topic has order \"key\", and the move does not keep it")
	}
}

// cluster looks at one cluster: whether it is there and the one that it is said to be.
func (p *preflight) cluster(ctx context.Context, name string, f func(*clusters.Conn) error) (ok bool, err error) {
	doc, _, err := p.c.meta.GetCluster(ctx, name)
	if err != nil {
		return false, err
	}
	asking, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err = p.c.on(asking, name, func(c *clusters.Conn) error {
		info := broker.Info{ClusterID: doc.ClusterID}
		if !p.plan.Force { // opening the connection has looked at the id
			if info, err = c.Describe(asking); err != nil {
				return err
			}
		}
		if doc.ClusterID != "" && info.ClusterID != doc.ClusterID {
			p.find(Error, OtherCluster, "correct its addresses or clusterId: turnout cluster put "+name, "%s says that its id is %q; the metadata says %q", name, info.ClusterID, doc.ClusterID)
			return nil
		}
		if f := c.Features(); !f.Fence && !p.lateFence(name, f.ClosingFence) {
			return nil
		}
		if info.AutoCreate && name == p.now.Route.Write {
			p.find(Warning, AutoCreate, "set auto.create.topics.enable=false on its brokers", "%s creates missing topics by itself: a late writer would make the topic anew, open, should you delete it there", name)
		}
		ok = true
		return f(c)
	})
	if err != nil && ctx.Err() == nil {
		remedy := "see that its brokers run and can be reached from here"
		if name == p.now.Route.Write && name != p.plan.To {
			remedy += "; if it is dead, leave it: turnout migrate start " + p.plan.Topic + " --to " + p.plan.To + " --force"
		}
		p.find(Error, Unreachable, remedy, "%v", err)
		return false, nil
	}
	return ok, err
}

// lateFence looks at a cluster that can not refuse writers while it is still read, if at all.
func (p *preflight) lateFence(name string, closing bool) (ok bool) {
	switch {
	case !closing:
		p.find(Error, NoFence, "", "%s can not be closed to writers, so nobody could tell when everything there was read", name)
	case name == p.plan.To:
		return true
	case p.plan.Ordered:
		p.find(Info, LateFence, "", "%s can be closed to writers only when everything there was read: sends pause until every group has read the last message there, %v at most (--hold), else it goes back", name, time.Duration(p.plan.Hold)*time.Millisecond)
		return true
	default:
		p.find(Info, LateFence, "", "%s can be closed to writers only when everything there was read. Until then also what somebody without the route writes there is read", name)
		return true
	}
	return false
}

// source looks at the cluster that the topic is on.
func (p *preflight) source(ctx context.Context, c *clusters.Conn) (broker.TopicInfo, error) {
	physical := p.now.Settings.Physical(p.plan.Topic, c.Name)
	info, err := c.DescribeTopic(ctx, physical)
	if err != nil {
		return info, err
	}
	if err := p.transactions(ctx, c, physical); err != nil {
		return info, err
	}
	if err := p.writers(ctx, c, physical); err != nil {
		return info, err
	}
	return info, p.groups(ctx, c, physical, info)
}

// writers looks at the newest messages for such that were not sent with Turnout.
func (p *preflight) writers(ctx context.Context, c *clusters.Conn, physical string) error {
	end, err := ends(ctx, c, physical, nil)
	if err != nil {
		return err
	}
	for _, name := range end.Names() {
		stranger, err := stranger(ctx, c, physical, name, end[name]-peekMost, end[name])
		if err != nil {
			return err
		}
		if stranger != nil && time.Since(stranger.Stored) < foreignAge {
			p.find(Warning, ForeignWriters, "let it send with Turnout, or move it yourself", "somebody writes to %s on %s without Turnout and will not follow: %s", physical, c.Name, whose(stranger))
			return nil
		}
	}
	return nil
}

// stranger is the newest message from from on that was not sent with Turnout; nil: there is none.
func stranger(ctx context.Context, c *clusters.Conn, topic, partition string, from, end int64) (found *broker.Delivery, err error) {
	for at := max(0, from); at < end; {
		messages, next, err := c.Peek(ctx, topic, partition, at, peekMost)
		if err != nil {
			return nil, err
		}
		for i := range messages {
			if messages[i].ID == "" {
				found = &messages[i]
			}
		}
		if next <= at {
			break
		}
		at = next
	}
	return found, nil
}

// whose says where a message is and who wrote it.
func whose(m *broker.Delivery) string {
	who := m.Writer
	if who == "" {
		who = "a producer that does not say who it is"
	}
	return fmt.Sprintf("%s, partition %s, offset %d, at %s", who, m.Partition, m.Offset, m.Stored.UTC().Format(time.RFC3339))
}

// groups looks at who reads the topic, and at what would expire unread.
func (p *preflight) groups(ctx context.Context, c *clusters.Conn, physical string, info broker.TopicInfo) error {
	retention, _ := strconv.ParseInt(info.Settings["retention.ms"], 10, 64)
	known := map[string]bool{}
	for _, g := range p.now.groups {
		group := g.Physical(p.plan.Topic)
		known[group] = true
		l, err := lag.Of(ctx, c, physical, group, g.StartOn(p.now.Route, p.plan.Topic, c.Name), nil)
		if err != nil {
			return err
		}
		p.uncounted(c, l.Pending.Uncounted)
		if !p.now.live(g.Name) {
			p.plan.Sleeping = append(p.plan.Sleeping, g.Name)
			if p.plan.Ordered && (!c.Features().Fence || p.plan.Canary != nil) {
				p.find(Error, SleepingGroups, "start it, take it out (turnout group delete "+g.Name+"), or move with --unordered --accept "+OrderNotKept+","+SleepingGroups,
					"nobody reads the topic for group %s now; the order per key can be kept only when every group has read everything on %s", g.Name, c.Name)
				continue
			}
			p.find(Warning, SleepingGroups, "start it, or accept: then what it has not read stays on "+c.Name+" until it wakes, and "+c.Name+" must stay up",
				"nobody reads the topic for group %s now; it has %s to read on %s", g.Name, count.Of(l.Unread, "message", "messages"), c.Name)
		}
		if err := p.expiry(ctx, c, physical, g.Name, l, time.Duration(retention)*time.Millisecond); err != nil {
			return err
		}
	}
	others, err := c.Groups(ctx, physical)
	if err != nil {
		return err
	}
	for _, group := range others {
		if known[group] {
			continue
		}
		p.plan.Foreign = append(p.plan.Foreign, group)
		members, err := c.GroupMembers(ctx, group)
		if err != nil {
			return err
		}
		who := "without members now"
		if len(members) > 0 {
			who = "with members " + some(members)
		}
		p.find(Warning, ForeignGroups, "register it (turnout group put), or accept: it will not follow the topic",
			"group %s on %s has positions on %s and is not in the metadata, %s", group, c.Name, physical, who)
	}
	return nil
}

// expiry looks when the first message that a group has not read is deleted.
func (p *preflight) expiry(ctx context.Context, c *clusters.Conn, physical, group string, l *lag.Lag, retention time.Duration) error {
	if retention <= 0 || l.Unread == 0 {
		return nil
	}
	for _, name := range l.Ends.Names() {
		if l.Positions[name] >= l.Ends[name] {
			continue
		}
		messages, _, err := c.Peek(ctx, physical, name, l.Positions[name], 1)
		if err != nil {
			return err
		}
		if len(messages) == 0 {
			continue
		}
		if rest := time.Until(messages[0].Stored.Add(retention)); rest < retentionRoom {
			p.find(Warning, Retention, "raise retention.ms on "+c.Name+" until the migration has ended", "group %s has not read what %s deletes in %s (partition %s, offset %d)",
				group, c.Name, rest.Round(time.Minute), name, messages[0].Offset)
			return nil
		}
	}
	return nil
}

// carried are the topic settings that should be the same on both sides, those that a new topic gets.
var carried = []string{"cleanup.policy", "compression.type", "delete.retention.ms", "max.message.bytes", "message.timestamp.type",
	"min.cleanable.dirty.ratio", "min.compaction.lag.ms", "min.insync.replicas", "retention.bytes", "retention.ms", "segment.bytes", "segment.ms"}

// side is the topic on one cluster.
type side struct {
	broker.TopicInfo
	kind broker.Kind
}

// target looks at the cluster that the topic goes to. from is nil where the one that it is on could not be looked at.
func (p *preflight) target(ctx context.Context, c *clusters.Conn, from *side) error {
	physical := p.now.Settings.Physical(p.plan.Topic, c.Name)
	if from != nil && from.kind != c.Kind {
		p.otherKind(c, from.kind)
		p.noCounterpart(c, from)
	}
	info, err := c.DescribeTopic(ctx, physical)
	if errors.Is(err, errs.ErrUnknownTopic) {
		switch {
		case !p.plan.Create:
			p.find(Error, NoTopic, "create it, or give --create", "%s has no topic %s", c.Name, physical)
		case p.plan.Force:
			p.createForced(c, physical)
		case from != nil:
			spec, err := creation(ctx, &p.plan, from, c)
			if err != nil {
				return err
			}
			p.find(Info, TopicCreated, "", "topic %s is created on %s with %s and the settings %s", physical, c.Name, count.Of(spec.Partitions, "partition", "partitions"), texts(spec.Config))
			p.partitions(c, len(from.Partitions), spec.Partitions)
		}
		return nil
	}
	if err != nil || from == nil {
		return err
	}
	if !info.Fenced || c.Features().Fence { // else they may be hidden
		p.partitions(c, len(from.Partitions), len(info.Partitions))
	}
	if from.kind == c.Kind {
		p.differ(c, from.TopicInfo, info)
	}
	most := from.MaxMessageBytes
	if p.now.Settings.Portable { // Send takes no larger ones
		most = min(most, portableMost)
	}
	if !info.Fenced && !from.Fenced && info.MaxMessageBytes > 0 && info.MaxMessageBytes < most {
		p.find(Error, SizeLimit, "raise "+sizeSetting[c.Kind]+" there", "%s takes messages of %d bytes, and the topic may have some of %d", c.Name, info.MaxMessageBytes, most)
	}
	if from.kind == c.Kind && (compacted(info) || compacted(from.TopicInfo)) {
		p.compaction()
	}
	return nil
}

// sizeSetting limits the messages of a topic.
var sizeSetting = map[broker.Kind]string{broker.Kafka: "max.message.bytes", broker.RocketMQ: "maxMessageSize of the brokers"}

// differ compares the settings of a topic on two clusters of one kind.
func (p *preflight) differ(c *clusters.Conn, from, info broker.TopicInfo) {
	var differ []string
	for _, name := range carried {
		a, b := from.Settings[name], info.Settings[name]
		switch {
		case name == "max.message.bytes":
			continue // below; and a fence is one
		case a != b:
			differ = append(differ, fmt.Sprintf("%s: %s → %s", name, a, b))
		}
	}
	if len(differ) > 0 {
		p.find(Info, SettingsDiffer, "", "settings that differ on %s: %s", c.Name, strings.Join(differ, "; "))
	}
}

func (p *preflight) partitions(c *clusters.Conn, from, to int) {
	switch {
	case from == to:
	case p.plan.Ordered:
		p.find(Warning, PartitionsDiffer, "accept, or create the topic with as many", "%s %d: keys go to other partitions. The order per key holds, because what is on the old cluster is handled first; what shares a partition now need not then", count.Of(from, "partition becomes", "partitions become"), to)
	case to < from:
		p.find(Warning, FewerPartitions, "accept, or add partitions on "+c.Name, "%s %d: fewer members of a group can read at once", count.Of(from, "partition becomes", "partitions become"), to)
	}
}

// creation is what the topic is created with on the target: what it has now, as far as the kinds are the same.
func creation(ctx context.Context, plan *Plan, like *side, to *clusters.Conn) (broker.TopicSpec, error) {
	spec := broker.TopicSpec{Partitions: plan.Partitions}
	if spec.Partitions == 0 {
		spec.Partitions = len(like.Partitions)
		if to.Kind == broker.RocketMQ { // which makes so many on every broker
			info, err := to.Describe(ctx)
			if err != nil {
				return spec, err
			}
			n := max(1, len(info.Brokers))
			spec.Partitions = (spec.Partitions + n - 1) / n
		}
	}
	switch {
	case to.Kind != broker.Kafka:
		return spec, nil
	case like.kind != to.Kind:
		spec.Config = roomFor(like.TopicInfo)
		return spec, nil
	}
	spec.Config = map[string]string{}
	for _, name := range carried {
		if value, set := like.Config[name]; set && !(name == "max.message.bytes" && like.Fenced) {
			spec.Config[name] = value
		}
	}
	if like.Fenced && like.Restore != "" {
		spec.Config["max.message.bytes"] = like.Restore
	}
	return spec, nil
}

func texts(m map[string]string) string {
	if len(m) == 0 {
		return "of the brokers"
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, ", ")
}

// instances looks at the processes: whether they are new enough, ready, and still there.
func (p *preflight) instances(ctx context.Context, earlier []string) {
	var apps []string
	if !p.plan.Force { // of many applications that takes time, and it would have to be left all the same
		apps, _ = p.c.meta.ListApps(ctx)
	}
	for _, app := range apps {
		entries, err := p.c.meta.ListInstances(ctx, app)
		if err != nil {
			continue
		}
		for _, i := range entries {
			if slices.Contains(p.plan.Participants, i.ID) && older(i.SDK, oldestSDK) {
				p.find(Error, OldInstances, "deploy it with a newer Turnout", "%s of %s has Turnout %s; %s is needed", i.ID, app, i.SDK, oldestSDK)
			}
		}
	}
	if waiting := p.now.awaited(); len(waiting) > 0 {
		level := Warning
		if p.plan.Force {
			level = Info
		}
		p.find(level, NotReady, "see what they say: turnout topic get "+p.plan.Topic, "participants that have not applied the route that is in force: %s", some(waiting))
	}
	var gone []string
	for _, id := range earlier {
		if !slices.Contains(p.plan.Participants, id) {
			gone = append(gone, id)
		}
	}
	if len(gone) > 0 {
		p.find(Warning, Vanished, "see that they have ended, or that they can reach ZooKeeper", "participants that were there when the plan was made and are not now: %s", some(gone))
	}
}

// older compares versions like 0.1.0; what is none is not older.
func older(version, than string) bool {
	a, b := strings.Split(version, "."), strings.Split(than, ".")
	for i := range b {
		if i >= len(a) {
			return true
		}
		x, errx := strconv.Atoi(a[i])
		y, erry := strconv.Atoi(b[i])
		if errx != nil || erry != nil {
			return false
		}
		if x != y {
			return x < y
		}
	}
	return false
}
