package rocketmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// A broker keeps the messages of open transactions, of all topics, in one queue, and in another one the offsets in the first
// of those that have ended. The positions of its own group say what it has finished with in both. From time to time it asks
// the producers, stores what is still open at the end again, and moves its position past the old ones.
const (
	halfTopic         = "RMQ_SYS_TRANS_HALF_TOPIC"
	endedTopic        = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
	transactionsGroup = "CID_RMQ_SYS_TRANS"
)

// OpenTransactions implements broker.Mover. What is committed is stored at the end, so the offsets are those of the
// end. A transaction that has ended counts for some seconds more: the broker notes ends in batches. It takes a request for every 32
// messages that were sent in a transaction, of any topic, since the broker last asked their producers (transactionCheckInterval).
// ErrUnsupported: this user may not read the brokers' topics of transactions, or a broker keeps transactions in RocksDB.
func (c *Cluster) OpenTransactions(ctx context.Context, topic string) (broker.Offsets, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	open, err := c.openTransactions(ctx, topic)
	return open, c.done("open transactions on "+topic, err)
}

func (c *Cluster) openTransactions(ctx context.Context, topic string) (broker.Offsets, error) {
	r, err := c.routes.complete(ctx, topic)
	if err != nil {
		return nil, err
	}
	open := broker.Offsets{}
	for _, name := range r.brokers() {
		queues, err := c.undecided(ctx, name, r.masters[name], topic)
		if remoting.HasCode(err, remoting.NoPermission) {
			return nil, fmt.Errorf("%w: broker %q: %w: it takes the right to read %s and %s", errs.ErrUnsupported, name, err, halfTopic, endedTopic)
		}
		if err != nil {
			return nil, fmt.Errorf("broker %q: %w", name, err)
		}
		for _, part := range queues {
			open[part] = 0
		}
	}
	if len(open) == 0 {
		return open, nil
	}
	ends, err := c.endOffsets(ctx, topic, nil)
	for part := range open {
		open[part] = ends[part]
	}
	return open, err
}

// undecided are the queues of topic on one broker for which it has messages of open transactions.
func (c *Cluster) undecided(ctx context.Context, name, addr, topic string) (queues []string, err error) {
	settings, err := c.about(ctx, name, addr)
	if err != nil {
		return nil, err
	}
	if settings["transRocksDBEnable"] == "true" {
		return nil, fmt.Errorf("%w: it keeps transactions in RocksDB (transRocksDBEnable), where nobody can look", errs.ErrUnsupported)
	}
	if err := c.indexed(ctx, addr); err != nil {
		return nil, err
	}
	half, ended := remoting.Queue{Topic: halfTopic, Broker: name}, remoting.Queue{Topic: endedTopic, Broker: name}
	// In this order what ends, or is stored again, while we look is at worst taken for open.
	endedFrom, err := c.brokersOwn(ctx, addr, ended)
	if err != nil {
		return nil, err
	}
	halfFrom, err := c.brokersOwn(ctx, addr, half)
	if err != nil {
		return nil, err
	}
	open := map[int64]string{}
	if err := c.eachFrom(ctx, addr, half, halfFrom, func(m *remoting.Message) {
		if p := remoting.ParseProperties(m.Properties); p[propRealTopic] == topic {
			id, _ := strconv.Atoi(p[propRealQueue])
			open[m.QueueOffset] = partition(remoting.Queue{Topic: topic, Broker: name, ID: id})
		}
	}); err != nil || len(open) == 0 {
		return nil, err
	}
	if err := c.eachFrom(ctx, addr, ended, endedFrom, func(m *remoting.Message) {
		for text := range strings.SplitSeq(string(m.Body), ",") {
			if offset, err := strconv.ParseInt(text, 10, 64); err == nil {
				delete(open, offset)
			}
		}
	}); err != nil {
		return nil, err
	}
	for _, part := range open {
		queues = append(queues, part)
	}
	return queues, nil
}

// brokersOwn is where a broker itself stands in one of its queues of transactions.
func (c *Cluster) brokersOwn(ctx context.Context, addr string, q remoting.Queue) (int64, error) {
	first, err := call(ctx, func(ctx context.Context) (int64, error) { return c.admin.MinOffset(ctx, addr, q) })
	if err != nil {
		return 0, err
	}
	at, err := call(ctx, func(ctx context.Context) (int64, error) {
		at, found, _, err := c.admin.ConsumerOffset(ctx, addr, transactionsGroup, q)
		if !found {
			at = 0
		}
		return at, err
	})
	return max(at, first, 0), err
}
