package testenv

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// Half is a message of a RocketMQ transaction that was sent and not decided.
type Half struct {
	client                *remoting.Client
	addr, topic, id       string
	stateOffset, physical int64
}

const halfGroup = "testenv-transactions" // of producers, none of which is connected: nobody answers what a broker asks

// PrepareHalf sends a message in a transaction to a queue of topic on the broker at addr. properties are names and values.
func PrepareHalf(ctx context.Context, client *remoting.Client, addr, topic string, queue int, body []byte, properties ...string) (*Half, error) {
	key := uuid.New()
	id := fmt.Sprintf("%X", key[:])
	p := ""
	for i, all := 0, append([]string{"UNIQ_KEY", id, "TRAN_MSG", "true", "PGROUP", halfGroup}, properties...); i+1 < len(all); i += 2 {
		p = remoting.AppendProperty(p, all[i], all[i+1])
	}
	a, err := client.Call(ctx, addr, remoting.NewRequest(remoting.ReqSendMessage, body, "producerGroup", halfGroup, "topic", topic,
		"queueId", strconv.Itoa(queue), "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", strconv.Itoa(remoting.SysPrepared),
		"bornTimestamp", strconv.FormatInt(time.Now().UnixMilli(), 10), "flag", "0", "properties", p, "reconsumeTimes", "0",
		"unitMode", "false", "batch", "false"))
	if err != nil {
		return nil, err
	}
	h := &Half{client: client, addr: addr, topic: topic, id: a.Fields["transactionId"]}
	if h.stateOffset, err = a.Int("queueOffset"); err != nil {
		return nil, err
	}
	stored := a.Fields["msgId"]
	h.physical, err = strconv.ParseInt(stored[max(0, len(stored)-16):], 16, 64)
	return h, err
}

// find looks where the message is now: a broker that has asked about it has stored it again.
func (h *Half) find(ctx context.Context) error {
	const topic = "RMQ_SYS_TRANS_HALF_TOPIC"
	for at := h.stateOffset; ; {
		r, err := h.client.PullMessages(ctx, h.addr, remoting.Pull{Group: "TOOLS_CONSUMER", Queue: remoting.Queue{Topic: topic}, Offset: at, Max: 32,
			Subscription: remoting.NewSubscription(topic, "", 0)})
		if err != nil {
			return err
		}
		for _, m := range r.Messages {
			if remoting.ParseProperties(m.Properties)["UNIQ_KEY"] == h.id {
				h.stateOffset, h.physical = m.QueueOffset, m.PhysicalOffset
			}
		}
		if r.Next <= at || r.Next >= r.Max {
			return nil
		}
		at = r.Next
	}
}

// End commits the transaction, or rolls it back.
func (h *Half) End(ctx context.Context, commit bool) error {
	how := remoting.SysRollback
	if commit {
		how = remoting.SysCommit
	}
	if err := h.find(ctx); err != nil {
		return err
	}
	return h.end(ctx, how)
}

// EndAgain rolls back what the broker has stored again of a transaction that has ended: it asks about one, too, that ends while it
// looks, and whoever began it has to answer.
func (h *Half) EndAgain(ctx context.Context) error {
	ended := h.stateOffset
	if err := h.find(ctx); err != nil || h.stateOffset == ended {
		return err
	}
	return h.end(ctx, remoting.SysRollback)
}

func (h *Half) end(ctx context.Context, how int) error {
	_, err := h.client.Call(ctx, h.addr, remoting.NewRequest(remoting.ReqEndTransaction, nil, "topic", h.topic, "producerGroup", halfGroup,
		"tranStateTableOffset", strconv.FormatInt(h.stateOffset, 10), "commitLogOffset", strconv.FormatInt(h.physical, 10),
		"commitOrRollback", strconv.Itoa(how), "fromTransactionCheck", "false", "msgId", h.id, "transactionId", h.id))
	return err
}
