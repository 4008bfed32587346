package clustertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Memory is a whole cluster in memory: partitions, positions, groups with members, retry topics, and fences that each leader
// acts on when Act says so. Messages are stored and read through its own methods;
// Connect gives what a controller of migrations needs of a broker.Cluster. All methods may be called concurrently.
type Memory struct {
	Name string
	// Hides: it is of the kind whose fence keeps readers out, too (broker.Features.ClosingFence). Set it before the first use.
	Hides bool

	mu     sync.Mutex
	topics map[string]*memoryTopic
	groups map[string]*memoryGroup
}

type memoryTopic struct {
	partitions []*memoryPartition
	limit      string // the topic's own max.message.bytes, "": none. A fence is "1"
}

type memoryPartition struct {
	records []Record
	refuses bool // its leader acts on a fence
}

type memoryGroup struct {
	members   []string
	positions map[string]broker.Offsets    // by topic
	retries   map[string][]broker.Envelope // by topic that they came from
	dead      int64
}

// Record is what a partition holds at one offset.
type Record struct {
	broker.Envelope
	Control bool   // no message, but a marker that no member is given
	Writer  string // who stored it
}

// memoryFence is the limit of a fenced topic.
const memoryFence = "1"

// NewMemory returns a cluster without topics.
func NewMemory(name string) *Memory {
	return &Memory{Name: name, topics: map[string]*memoryTopic{}, groups: map[string]*memoryGroup{}}
}

func (m *Memory) topic(name string) (*memoryTopic, error) {
	t := m.topics[name]
	if t == nil {
		return nil, fmt.Errorf("cluster %q: topic %q: %w", m.Name, name, errs.ErrUnknownTopic)
	}
	return t, nil
}

func (m *Memory) partition(topic, partition string) (*memoryPartition, error) {
	t, err := m.topic(topic)
	if err != nil {
		return nil, err
	}
	i, err := strconv.Atoi(partition)
	if err != nil || i < 0 || i >= len(t.partitions) {
		return nil, fmt.Errorf("cluster %q: topic %q: %w: no partition %q", m.Name, topic, errs.ErrInvalid, partition)
	}
	return t.partitions[i], nil
}

func (m *Memory) group(name string) *memoryGroup {
	if m.groups[name] == nil {
		m.groups[name] = &memoryGroup{positions: map[string]broker.Offsets{}, retries: map[string][]broker.Envelope{}}
	}
	return m.groups[name]
}

// Store stores a message, or a marker, as the leader of the partition. ErrFenced: the leader refuses it.
func (m *Memory) Store(topic, partition string, r Record) (offset int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.partition(topic, partition)
	if err != nil {
		return 0, err
	}
	if p.refuses && !r.Control {
		return 0, fmt.Errorf("cluster %q: topic %q: %w", m.Name, topic, errs.ErrFenced)
	}
	p.records = append(p.records, r)
	return int64(len(p.records) - 1), nil
}

// At is what lies at an offset; false: that is the end.
func (m *Memory) At(topic, partition string, offset int64) (Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.partition(topic, partition)
	if err != nil || offset >= int64(len(p.records)) {
		return Record{}, false
	}
	return p.records[offset], true
}

// Act lets the leader of a partition act on what the topic's setting is now; false: it does already.
func (m *Memory) Act(topic, partition string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.partition(topic, partition)
	if err != nil || p.refuses == m.topics[topic].fenced() {
		return false
	}
	p.refuses = !p.refuses
	return true
}

func (t *memoryTopic) fenced() bool { return t.limit == memoryFence }

// Hidden says whether a fence keeps readers from a topic.
func (m *Memory) Hidden(topic string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	return t != nil && m.hidden(t)
}

func (m *Memory) hidden(t *memoryTopic) bool { return m.Hides && t.fenced() }

// Partitions are those of a topic; none: there is no such topic.
func (m *Memory) Partitions(topic string) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.topics[topic]; t != nil {
		for i := range t.partitions {
			names = append(names, strconv.Itoa(i))
		}
	}
	return names
}

// Join adds a member to a group, Leave takes it out.
func (m *Memory) Join(group, member string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(group)
	if !slices.Contains(g.members, member) {
		g.members = append(g.members, member)
		slices.Sort(g.members)
	}
}

// Leave takes a member out of a group.
func (m *Memory) Leave(group, member string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(group)
	g.members = slices.DeleteFunc(g.members, func(name string) bool { return name == member })
}

// Commit stores a position.
func (m *Memory) Commit(group, topic, partition string, next int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(group)
	if g.positions[topic] == nil {
		g.positions[topic] = broker.Offsets{}
	}
	g.positions[topic][partition] = next
}

// Defer puts a message into the retry topic of a group; TakeRetry takes the oldest out.
func (m *Memory) Defer(group, topic string, e broker.Envelope) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(group)
	g.retries[topic] = append(g.retries[topic], e)
}

// TakeRetry takes the oldest message out of the retry topic of a group.
func (m *Memory) TakeRetry(group, topic string) (e broker.Envelope, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(group)
	if len(g.retries[topic]) == 0 {
		return e, false
	}
	e, g.retries[topic] = g.retries[topic][0], g.retries[topic][1:]
	return e, true
}

// Gate is asked before a call does anything; an error is the call's. It may wait.
type Gate func(ctx context.Context, cluster, call string) error

// Connect returns an open connection. What a controller does not use of broker.Cluster panics. gate may be nil.
func (m *Memory) Connect(gate Gate) *MemoryConn {
	if gate == nil {
		gate = func(context.Context, string, string) error { return nil }
	}
	return &MemoryConn{m: m, gate: gate}
}

// MemoryConn is an open connection to a Memory.
type MemoryConn struct {
	broker.Cluster
	m    *Memory
	gate Gate
}

// ask passes the gate and finds the topic; m.mu is held when it returns, and unlock gives it back.
func (c *MemoryConn) ask(ctx context.Context, call, topic string) (t *memoryTopic, unlock func(), err error) {
	if err := c.gate(ctx, c.m.Name, call); err != nil {
		return nil, func() {}, err
	}
	c.m.mu.Lock()
	t, err = c.m.topic(topic)
	return t, c.m.mu.Unlock, err
}

// Features implements broker.Cluster.
func (c *MemoryConn) Features() broker.Features {
	return broker.Features{Fence: !c.m.Hides, ClosingFence: c.m.Hides}
}

// Classify implements broker.Cluster.
func (c *MemoryConn) Classify(error) broker.Class { return broker.Retry }

// Close implements broker.Cluster.
func (c *MemoryConn) Close(context.Context) error { return nil }

// Describe implements broker.Cluster.
func (c *MemoryConn) Describe(context.Context) (broker.Info, error) {
	return broker.Info{ClusterID: c.m.Name}, nil
}

// Warm implements broker.Cluster.
func (c *MemoryConn) Warm(ctx context.Context, topic string) error {
	t, unlock, err := c.ask(ctx, "Warm", topic)
	defer unlock()
	if err == nil && t.fenced() {
		err = fmt.Errorf("cluster %q: topic %q: %w", c.m.Name, topic, errs.ErrFenced)
	}
	return err
}

// Send implements broker.Cluster: it chooses the partition by the first byte of the key.
func (c *MemoryConn) Send(ctx context.Context, topic string, e *broker.Envelope, done func(broker.Receipt, error)) {
	err := c.gate(ctx, c.m.Name, "Send")
	partition, offset := c.m.PartitionOf(topic, e.Key), int64(0)
	if err == nil {
		offset, err = c.m.Store(topic, partition, Record{Envelope: *e})
	}
	done(broker.Receipt{Partition: partition, Offset: offset}, err)
}

// PartitionOf is where messages of a key are stored.
func (m *Memory) PartitionOf(topic string, key []byte) string {
	n := len(m.Partitions(topic))
	if n == 0 || len(key) == 0 {
		return "0"
	}
	return strconv.Itoa(int(key[0]) % n)
}

// Positions implements broker.Cluster.
func (c *MemoryConn) Positions(ctx context.Context, group, topic string) (broker.Offsets, error) {
	_, unlock, err := c.ask(ctx, "Positions", topic)
	defer unlock()
	if err != nil {
		return nil, err
	}
	found := broker.Offsets{}
	maps.Copy(found, c.m.group(group).positions[topic])
	return found, nil
}

// Pending implements broker.Cluster.
func (c *MemoryConn) Pending(ctx context.Context, group, topic string) (broker.Pending, error) {
	_, unlock, err := c.ask(ctx, "Pending", topic)
	defer unlock()
	if err != nil {
		return broker.Pending{}, err
	}
	g := c.m.group(group)
	return broker.Pending{Retries: int64(len(g.retries[topic])), DeadLetters: g.dead}, nil
}

// EndOffsets implements broker.Cluster.
func (c *MemoryConn) EndOffsets(ctx context.Context, topic string, _ ...string) (broker.Offsets, error) {
	t, unlock, err := c.ask(ctx, "EndOffsets", topic)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return t.offsets(func(p *memoryPartition) int64 { return int64(len(p.records)) }), nil
}

// StartOffsets implements broker.Cluster.
func (c *MemoryConn) StartOffsets(ctx context.Context, topic string) (broker.Offsets, error) {
	t, unlock, err := c.ask(ctx, "StartOffsets", topic)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return t.offsets(func(*memoryPartition) int64 { return 0 }), nil
}

func (t *memoryTopic) offsets(of func(*memoryPartition) int64) broker.Offsets {
	o := broker.Offsets{}
	for i, p := range t.partitions {
		o[strconv.Itoa(i)] = of(p)
	}
	return o
}

// CreateTopic implements broker.Cluster.
func (c *MemoryConn) CreateTopic(ctx context.Context, topic string, spec broker.TopicSpec) error {
	_, unlock, err := c.ask(ctx, "CreateTopic", topic)
	defer unlock()
	switch {
	case err == nil:
		return fmt.Errorf("cluster %q: topic %q: %w: it exists", c.m.Name, topic, errs.ErrConflict)
	case !errors.Is(err, errs.ErrUnknownTopic):
		return err
	}
	t := &memoryTopic{limit: spec.Config[limitSetting]}
	for range spec.Partitions {
		t.partitions = append(t.partitions, &memoryPartition{})
	}
	c.m.topics[topic] = t
	return nil
}

// DeleteTopic implements broker.Cluster.
func (c *MemoryConn) DeleteTopic(ctx context.Context, topic string) error {
	_, unlock, err := c.ask(ctx, "DeleteTopic", topic)
	defer unlock()
	if err == nil {
		delete(c.m.topics, topic)
	}
	return err
}

const limitSetting = "max.message.bytes"

// DescribeTopic implements broker.Cluster.
func (c *MemoryConn) DescribeTopic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	t, unlock, err := c.ask(ctx, "DescribeTopic", topic)
	defer unlock()
	if err != nil {
		return broker.TopicInfo{}, err
	}
	info := broker.TopicInfo{Replicas: 1, MaxMessageBytes: 1 << 20, Fenced: t.fenced(), Config: map[string]string{}, Settings: map[string]string{limitSetting: "1048576"},
		Partitions: t.offsets(func(*memoryPartition) int64 { return 0 }).Names()}
	if t.limit != "" {
		info.MaxMessageBytes, _ = strconv.ParseInt(t.limit, 10, 64)
		info.Config[limitSetting], info.Settings[limitSetting] = t.limit, t.limit
	}
	if !info.Fenced {
		info.Restore = t.limit
	}
	return info, nil
}

// GroupMembers implements broker.Cluster.
func (c *MemoryConn) GroupMembers(ctx context.Context, group string) ([]string, error) {
	if err := c.gate(ctx, c.m.Name, "GroupMembers"); err != nil {
		return nil, err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return slices.Clone(c.m.group(group).members), nil
}

// DeleteGroup implements broker.Cluster.
func (c *MemoryConn) DeleteGroup(ctx context.Context, group string) error {
	if err := c.gate(ctx, c.m.Name, "DeleteGroup"); err != nil {
		return err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if members := c.m.group(group).members; len(members) > 0 {
		return fmt.Errorf("cluster %q: group %q: %w: it has the members %q", c.m.Name, group, errs.ErrConflict, members)
	}
	delete(c.m.groups, group)
	return nil
}

// Groups implements broker.Cluster.
func (c *MemoryConn) Groups(ctx context.Context, topic string) (names []string, err error) {
	_, unlock, err := c.ask(ctx, "Groups", topic)
	defer unlock()
	if err != nil {
		return nil, err
	}
	for name, g := range c.m.groups {
		if len(g.positions[topic]) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// GroupTopics implements broker.Cluster.
func (c *MemoryConn) GroupTopics(ctx context.Context) (map[string][]string, error) {
	if err := c.gate(ctx, c.m.Name, "GroupTopics"); err != nil {
		return nil, err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	found := map[string][]string{}
	for name, g := range c.m.groups {
		if topics := slices.Sorted(maps.Keys(g.positions)); len(topics) > 0 {
			found[name] = topics
		}
	}
	return found, nil
}

// Fence implements broker.Cluster. Leaders act on it when Memory.Act says so.
func (c *MemoryConn) Fence(ctx context.Context, topic string) error {
	t, unlock, err := c.ask(ctx, "Fence", topic)
	defer unlock()
	if err == nil {
		t.limit = memoryFence
	}
	return err
}

// Fenced implements broker.Cluster.
func (c *MemoryConn) Fenced(ctx context.Context, topic string) error {
	t, unlock, err := c.ask(ctx, "Fenced", topic)
	defer unlock()
	if err != nil {
		return err
	}
	for i, p := range t.partitions {
		if !p.refuses {
			return fmt.Errorf("cluster %q: topic %q, partition %d: %w: its leader takes messages", c.m.Name, topic, i, errs.ErrConflict)
		}
	}
	return nil
}

// Unfence implements broker.Cluster: it waits for the leaders.
func (c *MemoryConn) Unfence(ctx context.Context, topic, restore string) error {
	t, unlock, err := c.ask(ctx, "Unfence", topic)
	defer unlock()
	switch {
	case err != nil:
		return err
	case restore == memoryFence:
		return fmt.Errorf("cluster %q: topic %q: restore is %q: %w", c.m.Name, topic, restore, errs.ErrInvalid)
	}
	t.limit = restore
	for _, p := range t.partitions {
		p.refuses = false
	}
	return nil
}

// Peek implements broker.Cluster.
func (c *MemoryConn) Peek(ctx context.Context, topic, partition string, at int64, limit int) (found []broker.Delivery, next int64, err error) {
	t, unlock, err := c.ask(ctx, "Peek", topic)
	defer unlock()
	if err != nil {
		return nil, 0, err
	}
	if c.m.hidden(t) {
		return nil, 0, fmt.Errorf("cluster %q: topic %q: a fence hides what is there", c.m.Name, topic)
	}
	p, err := c.m.partition(topic, partition)
	if err != nil {
		return nil, 0, err
	}
	next = min(at, int64(len(p.records)))
	for ; next < int64(len(p.records)) && len(found) < limit; next++ {
		if r := p.records[next]; !r.Control {
			found = append(found, broker.Delivery{Envelope: r.Envelope, Topic: topic, Partition: partition, Offset: next, Stored: time.Now(), Writer: r.Writer})
		}
	}
	return found, next, nil
}

// OpenTransactions implements broker.Cluster.
func (c *MemoryConn) OpenTransactions(ctx context.Context, topic string) (broker.Offsets, error) {
	_, unlock, err := c.ask(ctx, "OpenTransactions", topic)
	defer unlock()
	return broker.Offsets{}, err
}
