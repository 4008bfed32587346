package rmqserver

// Name server: 100 put, 101 get, 102 delete a key, 105 route, 106 cluster info,
// 205 take and 327 give a broker's write permission, 206 topic list, 216 forget a
// topic, 219 list keys, 224 topics of a cluster, 304 names of clusters and
// brokers, which are topics too.
//
// Brokers of this package register by a call, at once and whenever something
// changes; not done are 103 and 104 (brokers of other processes), 217, 318, 319
// and the lists by unit.

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// NameServerOptions configure a name server. The zero value serves on a free
// port.
type NameServerOptions struct {
	// Port is the loopback port to serve on. Default: a free one.
	Port int
	// Logger is told of connections that are cut for a reason; nil logs nothing.
	Logger *zap.Logger
}

// NameServer tells clients where the topics of its brokers are. All methods are
// safe for concurrent use.
type NameServer struct {
	*server

	// Guarded by mu. What a name server knows is gone with Stop; a Broker's mu
	// is taken before a NameServer's.
	brokers  map[string]*registered       // by name
	keys     map[string]map[string]string // by namespace
	attached map[*Broker]struct{}         // whether they run or not
	missed   map[string]bool              // topics whose next change is missed
}

// registered is what a broker has said of itself.
type registered struct {
	data   remoting.BrokerData
	said   map[string]remoting.QueueData // as it has said last, by topic
	topics map[string]remoting.QueueData // as clients are told
}

// StartNameServer starts a name server on loopback. The ctx bounds the start
// alone; it runs until Stop or Close. The error names the port at fault.
func StartNameServer(ctx context.Context, opt NameServerOptions) (*NameServer, error) {
	n := &NameServer{server: newServer("name server", opt.Port, opt.Logger), attached: map[*Broker]struct{}{}, missed: map[string]bool{}}
	n.server.handle = n.handle
	n.left, n.shut = func(*conn) {}, func() {}
	n.due = func(time.Time) {}
	n.open = func() error {
		n.brokers, n.keys = map[string]*registered{}, map[string]map[string]string{}
		return nil
	}
	if err := n.run(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Restart brings the name server back on the same port, stopping it first if it
// runs, with its brokers registered again and its keys gone. The error names the
// port if another has taken it, and Restart can then be tried again; after Close
// it is ErrClosed.
func (n *NameServer) Restart() error {
	if err := n.restart(); err != nil {
		return err
	}
	n.mu.Lock()
	attached := slices.Collect(maps.Keys(n.attached))
	n.mu.Unlock()
	for _, b := range attached {
		b.mu.Lock()
		if b.stopped != nil {
			b.registerAt(n, false)
		}
		b.mu.Unlock()
	}
	return nil
}

func (n *NameServer) attach(b *Broker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[b] = struct{}{}
}

func (n *NameServer) detach(b *Broker) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, b)
}

// Miss lets the name server miss the next change of topic for good, as one does that
// gets several changes of a broker at one moment (apache/rocketmq#10438). A broker
// whose settings of the topic change once more tells it again.
func (n *NameServer) Miss(topic string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.missed[topic] = true
}

// register takes what a broker says of itself. Topics that it does not name, or
// says nothing new of, stay as they are, the latter unless all is said anew. A
// name server that is down hears nothing.
func (n *NameServer) register(data remoting.BrokerData, topics []remoting.QueueData, names []string, anew bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped == nil {
		return
	}
	b := n.brokers[data.Name]
	if b == nil {
		b = &registered{said: map[string]remoting.QueueData{}, topics: map[string]remoting.QueueData{}}
		n.brokers[data.Name] = b
	}
	b.data = data
	for i, name := range names {
		_, known := b.topics[name]
		switch {
		case n.missed[name] && known:
			delete(n.missed, name)
			b.said[name] = topics[i]
		case anew || !known || b.said[name] != topics[i]:
			b.said[name], b.topics[name] = topics[i], topics[i]
		}
	}
}

func (n *NameServer) unregister(brokerName, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b := n.brokers[brokerName]; b != nil && b.data.Master() == addr {
		delete(n.brokers, brokerName)
	}
}

// nameHandlers are the requests that a name server answers; each needs mu.
var nameHandlers = map[int]func(*NameServer, *remoting.Command) (*remoting.Command, error){
	remoting.ReqRoute:                   (*NameServer).route,
	remoting.ReqClusterInfo:             (*NameServer).clusterInfo,
	remoting.ReqTopicList:               (*NameServer).topicList,
	remoting.ReqTopicsOfCluster:         (*NameServer).topicsOfCluster,
	reqSystemTopicsOfNameServer:         (*NameServer).systemTopics,
	reqWipeWritePermission:              (*NameServer).wipeWritePermission,
	reqAddWritePermission:               (*NameServer).addWritePermission,
	remoting.ReqDeleteTopicInNameServer: (*NameServer).deleteTopic,
	remoting.ReqPutKV:                   (*NameServer).putKV,
	remoting.ReqGetKV:                   (*NameServer).getKV,
	remoting.ReqDeleteKV:                (*NameServer).deleteKV,
	remoting.ReqKVList:                  (*NameServer).listKV,
}

// handle needs mu.
func (n *NameServer) handle(_ *conn, r *remoting.Command) *remoting.Command {
	h := nameHandlers[r.Code]
	if h == nil {
		return notSupported(r)
	}
	a, err := h(n, r)
	return answerOf(r, a, err)
}

// route always writes standard JSON, which clients before 4.9.4 read as well. As
// with orderMessageEnable=false, the default, it says nothing of order topics.
func (n *NameServer) route(r *remoting.Command) (*remoting.Command, error) {
	topic := r.Fields["topic"]
	var route remoting.Route
	for _, name := range slices.Sorted(maps.Keys(n.brokers)) {
		if q, found := n.brokers[name].topics[topic]; found {
			route.Queues = append(route.Queues, q)
			route.Brokers = append(route.Brokers, n.brokers[name].data)
		}
	}
	if len(route.Queues) == 0 {
		return nil, refuse(remoting.TopicNotExist, "No topic route info in name server for the topic: %s", topic)
	}
	return body(r, route)
}

func (n *NameServer) clusterInfo(r *remoting.Command) (*remoting.Command, error) {
	info := remoting.ClusterInfo{Brokers: map[string]remoting.BrokerData{}, Clusters: map[string][]string{}}
	for _, name := range slices.Sorted(maps.Keys(n.brokers)) {
		data := n.brokers[name].data
		info.Brokers[name] = data
		info.Clusters[data.Cluster] = append(info.Clusters[data.Cluster], name)
	}
	return body(r, info)
}

// topicNames are the topics of the brokers that match.
func (n *NameServer) topicNames(match func(remoting.BrokerData) bool) []string {
	all := map[string]struct{}{}
	for _, b := range n.brokers {
		if match(b.data) {
			for topic := range b.topics {
				all[topic] = struct{}{}
			}
		}
	}
	return slices.AppendSeq([]string{}, maps.Keys(all))
}

type topicNames struct {
	Topics     []string `json:"topicList"`
	BrokerAddr string   `json:"brokerAddr,omitempty"`
}

func (n *NameServer) topicList(r *remoting.Command) (*remoting.Command, error) {
	return body(r, topicNames{Topics: n.topicNames(func(remoting.BrokerData) bool { return true })})
}

func (n *NameServer) topicsOfCluster(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	cluster := f.text("cluster")
	if f.err != nil {
		return nil, f.err
	}
	return body(r, topicNames{Topics: n.topicNames(func(b remoting.BrokerData) bool { return b.Cluster == cluster })})
}

func (n *NameServer) systemTopics(r *remoting.Command) (*remoting.Command, error) {
	all := topicNames{Topics: []string{}}
	for _, name := range slices.Sorted(maps.Keys(n.brokers)) {
		b := n.brokers[name].data
		all.Topics = append(all.Topics, b.Cluster, name)
		all.BrokerAddr = b.Master()
	}
	slices.Sort(all.Topics)
	all.Topics = slices.Compact(all.Topics)
	return body(r, all)
}

func (n *NameServer) wipeWritePermission(r *remoting.Command) (*remoting.Command, error) {
	return n.setPermission(r, "wipeTopicCount", func(perm int) int { return perm &^ remoting.PermWrite })
}

func (n *NameServer) addWritePermission(r *remoting.Command) (*remoting.Command, error) {
	return n.setPermission(r, "addTopicCount", func(int) int { return readWrite })
}

// setPermission changes what clients are told of a broker's topics, until the
// broker says something new of them.
func (n *NameServer) setPermission(r *remoting.Command, count string, change func(int) int) (*remoting.Command, error) {
	f := fields{r: r}
	broker := f.text("brokerName")
	if f.err != nil {
		return nil, f.err
	}
	changed := 0
	if b := n.brokers[broker]; b != nil {
		for name, q := range b.topics {
			q.Perm = change(q.Perm)
			b.topics[name] = q
			changed++
		}
	}
	return ok(r, count, str(changed))
}

func (n *NameServer) deleteTopic(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic, cluster := f.text("topic"), r.Fields["clusterName"]
	if f.err != nil {
		return nil, f.err
	}
	for _, b := range n.brokers {
		if cluster == "" || cluster == b.data.Cluster {
			delete(b.topics, topic)
		}
	}
	return ok(r)
}

func (n *NameServer) putKV(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	namespace, key, value := f.text("namespace"), f.text("key"), f.text("value")
	if f.err != nil {
		return nil, f.err
	}
	if n.keys[namespace] == nil {
		n.keys[namespace] = map[string]string{}
	}
	n.keys[namespace][key] = value
	return ok(r)
}

func (n *NameServer) getKV(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	namespace, key := f.text("namespace"), f.text("key")
	if f.err != nil {
		return nil, f.err
	}
	value, found := n.keys[namespace][key]
	if !found {
		return nil, refuse(remoting.QueryNotFound, "No config item, Namespace: %s Key: %s", namespace, key)
	}
	return ok(r, "value", value)
}

func (n *NameServer) deleteKV(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	namespace, key := f.text("namespace"), f.text("key")
	if f.err != nil {
		return nil, f.err
	}
	delete(n.keys[namespace], key)
	return ok(r)
}

func (n *NameServer) listKV(r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	namespace := f.text("namespace")
	if f.err != nil {
		return nil, f.err
	}
	if len(n.keys[namespace]) == 0 {
		return nil, refuse(remoting.QueryNotFound, "No config item, Namespace: %s", namespace)
	}
	return body(r, map[string]any{"table": n.keys[namespace]})
}
