package rmqserver

// Messages for tools: 12 by key, 33 by message id.
//
// Not done: 321 (raw consume queues).

import (
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// maxUnique is how many messages are looked up by a unique key.
const maxUnique = 32

func (b *Broker) queryMessage(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic, key, most := f.text("topic"), f.text("key"), f.int("maxNum")
	from, to := f.int("beginTimestamp"), f.int("endTimestamp")
	if f.err != nil {
		return nil, f.err
	}
	if f.bool("_UNIQUE_KEY_QUERY") {
		most = maxUnique
	}
	var out []byte
	last := &record{}
	for _, rec := range b.store.byKey[topicKey{topic, key}] {
		if rec.at >= from && rec.at <= to && most > 0 {
			out = append(out, rec.stored...)
			last = rec
			most--
		}
	}
	if len(out) == 0 {
		return nil, refuse(remoting.QueryNotFound, "can not find message, maybe time range not correct")
	}
	return r.Answer(remoting.Success, "", out, "indexLastUpdateTimestamp", str(last.at), "indexLastUpdatePhyoffset", str(last.physical)), nil
}

func (b *Broker) viewMessage(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	offset := f.int("offset")
	if f.err != nil {
		return nil, f.err
	}
	rec := b.store.at(offset)
	if rec == nil {
		return nil, refuse(remoting.SystemError, "can not find message by the offset, %d", offset)
	}
	return r.Answer(remoting.Success, "", rec.stored), nil
}
