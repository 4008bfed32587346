package rmqserver

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// BrokerOptions configure a broker. Only Cluster is needed.
type BrokerOptions struct {
	// Cluster is the name of the cluster.
	Cluster string
	// Name is the broker's. Default: the cluster's.
	Name string
	// NameServers are where the broker registers. They may be down, and must
	// outlive the broker.
	NameServers []*NameServer
	// Port is the loopback port to serve on. Default: a free one.
	Port int
	// Advertised is the address, IP:port, that clients are told, when they reach
	// the broker through something else. Default: its own.
	Advertised string
	// Dir is where data is kept, in one file, for this broker alone. What it
	// holds is read at Start and at Restart. Default: memory, which outlives Stop
	// and not Close.
	Dir string
	// AutoCreateTopics makes the broker create topics when they are sent to, as
	// its setting autoCreateTopicEnable does.
	AutoCreateTopics bool
	// DelayLevels is the setting messageDelayLevel. Default: RocketMQ's 18 levels
	// from 1s to 2h.
	DelayLevels string
	// DelayFactor is by what the time of all delay levels is multiplied. 0.01
	// makes ten seconds a tenth of one. Default: 1.
	DelayFactor float64
	// TransactionTimeout is how old a prepared message is before its producer is
	// asked what became of it, TransactionInterval how often, TransactionChecks
	// how many times. Defaults: RocketMQ's 6 s, 30 s and 15.
	TransactionTimeout, TransactionInterval time.Duration
	TransactionChecks                       int
	// Timers is the setting timerWheelEnable: messages may have any delay (TIMER_DELAY_MS, TIMER_DELAY_SEC, TIMER_DELIVER_MS).
	Timers bool
	// Users are the secret keys by access key. Requests that none of them has
	// signed are refused; who is a user may do everything. Default (nil): nobody
	// has to sign. See SetUser.
	Users map[string]string
	// Logger is told of connections that are cut for a reason, and of a journal
	// that had to be mended; nil logs nothing.
	Logger *zap.Logger
}

// Broker is one broker, a master without replicas. All methods are safe for
// concurrent use.
type Broker struct {
	*server
	opt    BrokerOptions
	levels []time.Duration // of delays, after DelayFactor

	// Guarded by mu.
	store      *store
	settings   map[string]string // that UPDATE_BROKER_CONFIG can change; kept over Restart
	began      time.Time
	registered time.Time // with all topics
	consumers  map[string]*consumerGroup
	producers  map[string]map[*conn]*client
	held       map[queueKey][]*heldPull
	locks      map[lockKey]lock
	resets     map[groupTopic]map[int]int64 // positions set by a tool that no pull has been told, by queue
	users      map[string]string            // secret keys; nil: nobody has to sign
	timers     map[int64]*record            // messages with a timer that are not due, by their offset in the topic of the wheel
	halves     map[int64]*prepared          // transactions that have not ended, by the offset of the prepared message in its queue
}

// StartBroker starts a broker on loopback and registers it. The ctx bounds the
// start alone; it runs until Stop or Close. An error names the option, the port
// or the file at fault.
func StartBroker(ctx context.Context, opt BrokerOptions) (*Broker, error) {
	if opt.Name == "" {
		opt.Name = opt.Cluster
	}
	if !legalName.MatchString(opt.Cluster) {
		return nil, fmt.Errorf("rmqserver: Cluster is %q: use letters, digits, - and _", opt.Cluster)
	}
	if !legalName.MatchString(opt.Name) {
		return nil, fmt.Errorf("rmqserver: Name is %q: use letters, digits, - and _", opt.Name)
	}
	if opt.Port < 0 || opt.Port > 65535 {
		return nil, fmt.Errorf("rmqserver: Port is %d: use 0 for any free port or 1 to 65535", opt.Port)
	}
	if opt.Advertised != "" {
		if _, err := netip.ParseAddrPort(opt.Advertised); err != nil {
			return nil, fmt.Errorf("rmqserver: Advertised is %q: write it as IP:port", opt.Advertised)
		}
	}
	if opt.DelayLevels == "" {
		opt.DelayLevels = defaultDelayLevels
	}
	if opt.DelayFactor == 0 {
		opt.DelayFactor = 1
	}
	if opt.TransactionTimeout == 0 {
		opt.TransactionTimeout = 6 * time.Second
	}
	if opt.TransactionInterval == 0 {
		opt.TransactionInterval = 30 * time.Second
	}
	if opt.TransactionChecks == 0 {
		opt.TransactionChecks = 15
	}
	if opt.DelayFactor < 0 || opt.TransactionTimeout < 0 || opt.TransactionInterval < 0 || opt.TransactionChecks < 0 {
		return nil, fmt.Errorf("rmqserver: DelayFactor is %v, TransactionTimeout %v, TransactionInterval %v, TransactionChecks %d: must not be negative",
			opt.DelayFactor, opt.TransactionTimeout, opt.TransactionInterval, opt.TransactionChecks)
	}
	levels, err := parseLevels(opt.DelayLevels, opt.DelayFactor)
	if err != nil {
		return nil, err
	}
	b := &Broker{server: newServer("broker "+opt.Name, opt.Port, opt.Logger), opt: opt, levels: levels, users: maps.Clone(opt.Users)}
	b.settings = map[string]string{
		"brokerClusterName": opt.Cluster, "brokerName": opt.Name, "brokerId": "0", "brokerIP1": "127.0.0.1", "brokerRole": "ASYNC_MASTER",
		"brokerPermission": "6", "autoCreateTopicEnable": strconv.FormatBool(opt.AutoCreateTopics), "autoCreateSubscriptionGroup": "true",
		"defaultTopicQueueNums": "8", "maxMessageSize": "4194304", "messageDelayLevel": opt.DelayLevels, "fileReservedTime": "72",
		"flushDiskType": "ASYNC_FLUSH", "traceOn": "false", "timerWheelEnable": strconv.FormatBool(opt.Timers),
		"transactionTimeOut": str(opt.TransactionTimeout.Milliseconds()), "transactionCheckInterval": str(opt.TransactionInterval.Milliseconds()),
		"transactionCheckMax": str(opt.TransactionChecks),
	}
	b.server.handle, b.server.left, b.server.due = b.handle, b.gone, b.tick
	b.server.open, b.server.shut = b.load, b.unload
	if err := b.run(ctx); err != nil {
		return nil, err
	}
	for _, n := range opt.NameServers {
		n.attach(b)
	}
	b.begin()
	return b, nil
}

// Restart brings the broker back on the same port with the data it had, and
// registers it, stopping it first if it runs. Members, locks and held pulls are
// gone. The error names the port or file at fault, and Restart can then be tried
// again; after Close it is ErrClosed.
func (b *Broker) Restart() error {
	if err := b.restart(); err != nil {
		return err
	}
	b.begin()
	return nil
}

// Close stops the broker for good, waits for its goroutines and drops what it
// has in memory. It can be called more than once.
func (b *Broker) Close() {
	b.server.Close()
	b.mu.Lock()
	b.store = nil
	b.mu.Unlock()
	for _, n := range b.opt.NameServers {
		n.detach(b)
	}
}

// load makes the state that a broker begins with; mu is held.
func (b *Broker) load() error {
	if b.store == nil {
		s, err := newStore(b.opt.Dir, b.log)
		if err != nil {
			return err
		}
		b.store = s
	}
	b.consumers, b.producers = map[string]*consumerGroup{}, map[string]map[*conn]*client{}
	b.held, b.locks = map[queueKey][]*heldPull{}, map[lockKey]lock{}
	b.resets = map[groupTopic]map[int]int64{}
	b.began = time.Now()
	b.openTransactions()
	b.openTimers()
	if err := b.systemGroups(); err != nil {
		return err
	}
	return b.systemTopics()
}

// unload is called when all goroutines have ended; mu is held.
func (b *Broker) unload() {
	for _, n := range b.opt.NameServers {
		n.unregister(b.opt.Name, b.advertised())
	}
	if b.opt.Dir != "" {
		b.store.close()
		b.store = nil
	}
}

// begin is what comes when the port is known.
func (b *Broker) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped != nil {
		b.register(false)
	}
}

// advertised is the address that clients are told. Needs mu.
func (b *Broker) advertised() string {
	if b.opt.Advertised != "" {
		return b.opt.Advertised
	}
	return "127.0.0.1:" + strconv.Itoa(b.port)
}

// storeHost is the address in message ids. Needs mu.
func (b *Broker) storeHost() netip.AddrPort {
	host, _ := netip.ParseAddrPort(b.advertised())
	return host
}

// register tells all name servers of all topics; anew also of those that have
// not changed. Needs mu.
func (b *Broker) register(anew bool) {
	b.registered = time.Now()
	for _, n := range b.opt.NameServers {
		b.registerAt(n, anew)
	}
}

func (b *Broker) registerAt(n *NameServer, anew bool, names ...string) {
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(b.store.topics))
	}
	topics := make([]remoting.QueueData, len(names))
	for i, name := range names {
		t := b.store.topics[name]
		topics[i] = remoting.QueueData{Broker: b.opt.Name, ReadQueues: t.ReadQueues, WriteQueues: t.WriteQueues,
			Perm: t.Perm & (b.permission() | remoting.PermInherit), TopicSysFlag: t.TopicSysFlag}
	}
	n.register(remoting.BrokerData{Cluster: b.opt.Cluster, Name: b.opt.Name, Addrs: map[int64]string{0: b.advertised()}}, topics, names, anew)
}

// permission is what the broker lets clients do.
func (b *Broker) permission() int {
	n, _ := strconv.Atoi(b.settings["brokerPermission"])
	return n
}

// tick does what has become due. Needs mu.
func (b *Broker) tick(now time.Time) {
	if now.Sub(b.registered) > registerInterval {
		b.register(false)
	}
	b.deliverDelayed(now)
	b.deliverTimed(now)
	b.expirePulls(now)
	b.expireClients(now)
	b.checkTransactions(now)
}

// registerInterval is how often a broker registers when nothing has changed.
const registerInterval = 30 * time.Second

// handlers are the requests that a broker answers; each needs mu. The files of
// the request families have them.
var handlers = map[int]func(*Broker, *conn, *remoting.Command) (*remoting.Command, error){
	remoting.ReqSendMessage:             (*Broker).send,
	remoting.ReqSendMessageV2:           (*Broker).send,
	remoting.ReqSendBatch:               (*Broker).send,
	remoting.ReqSendBack:                (*Broker).sendBack,
	remoting.ReqEndTransaction:          (*Broker).endTransaction,
	remoting.ReqPullMessage:             (*Broker).pull,
	remoting.ReqLitePullMessage:         (*Broker).pull,
	remoting.ReqQueryConsumerOffset:     (*Broker).queryOffset,
	remoting.ReqUpdateConsumerOffset:    (*Broker).updateOffset,
	remoting.ReqConsumerOffsets:         (*Broker).allOffsets,
	remoting.ReqSearchOffset:            (*Broker).searchOffset,
	remoting.ReqGetMaxOffset:            (*Broker).maxOffset,
	remoting.ReqGetMinOffset:            (*Broker).minOffset,
	remoting.ReqEarliestStoreTime:       (*Broker).earliestTime,
	remoting.ReqHeartbeat:               (*Broker).heartbeat,
	remoting.ReqUnregisterClient:        (*Broker).unregister,
	remoting.ReqCheckClientConfig:       (*Broker).checkClient,
	remoting.ReqConsumerList:            (*Broker).consumerList,
	remoting.ReqConsumerConnections:     (*Broker).consumerConnections,
	remoting.ReqProducerConnections:     (*Broker).producerConnections,
	remoting.ReqLockQueues:              (*Broker).lockQueues,
	remoting.ReqUnlockQueues:            (*Broker).unlockQueues,
	remoting.ReqUpdateTopic:             (*Broker).updateTopic,
	remoting.ReqGetTopicConfig:          (*Broker).topicConfig,
	remoting.ReqGetTopics:               (*Broker).allTopics,
	remoting.ReqDeleteTopicInBroker:     (*Broker).deleteTopic,
	remoting.ReqUpdateSubscriptionGroup: (*Broker).updateGroup,
	remoting.ReqSubscriptionGroups:      (*Broker).allGroups,
	remoting.ReqGetSubscriptionGroup:    (*Broker).groupConfig,
	remoting.ReqDeleteSubscriptionGroup: (*Broker).deleteGroup,
	remoting.ReqUpdateBrokerConfig:      (*Broker).updateSettings,
	remoting.ReqGetBrokerConfig:         (*Broker).getSettings,
	remoting.ReqGetBrokerRuntime:        (*Broker).runtime,
	remoting.ReqTopicStats:              (*Broker).topicStats,
	remoting.ReqConsumeStats:            (*Broker).consumeStats,
	remoting.ReqTopicConsumedByWhom:     (*Broker).consumedByWhom,
	remoting.ReqTopicsOfConsumer:        (*Broker).topicsOfConsumer,
	remoting.ReqDelayOffsets:            (*Broker).delayOffsets,
	remoting.ReqTimerMetrics:            (*Broker).timerMetrics,
	remoting.ReqQueryMessage:            (*Broker).queryMessage,
	remoting.ReqViewMessage:             (*Broker).viewMessage,
	reqUpdateTopics:                     (*Broker).updateTopics,
	reqUpdateGroups:                     (*Broker).updateGroups,
	reqResetOffset:                      (*Broker).resetOffset,
	reqSystemTopics:                     (*Broker).systemTopicNames,
	reqConsumeStatsOfAll:                (*Broker).consumeStatsOfAll,
	reqAllProducers:                     (*Broker).allProducers,
	reqCleanConsumeQueues:               (*Broker).clean,
	reqCleanUnusedTopics:                (*Broker).clean,
	reqCleanCommitLog:                   (*Broker).clean,
}

// handle needs mu.
func (b *Broker) handle(c *conn, r *remoting.Command) *remoting.Command {
	if err := b.authenticate(r); err != nil {
		return answerOf(r, nil, err)
	}
	h := handlers[r.Code]
	if h == nil {
		return notSupported(r)
	}
	a, err := h(b, c, r)
	return answerOf(r, a, err)
}

// gone is called when a connection has ended. Needs mu.
func (b *Broker) gone(c *conn) {
	b.dropPulls(c)
	b.dropClient(c)
}

var legalName = regexp.MustCompile(`^[%|a-zA-Z0-9_-]+$`)

// parseLevels reads the setting messageDelayLevel.
func parseLevels(text string, factor float64) ([]time.Duration, error) {
	var levels []time.Duration
	for word := range strings.FieldsSeq(text) {
		unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[word[len(word)-1]]
		n, err := strconv.Atoi(word[:len(word)-1])
		if err != nil || unit == 0 || n <= 0 {
			return nil, fmt.Errorf("rmqserver: DelayLevels has %q: write times such as 1s 5m 2h 1d", word)
		}
		levels = append(levels, time.Duration(float64(n)*float64(unit)*factor))
	}
	if len(levels) == 0 {
		return nil, fmt.Errorf("rmqserver: DelayLevels is %q: name at least one time such as 1s", text)
	}
	return levels, nil
}

const defaultDelayLevels = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
