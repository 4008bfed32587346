package rmqserver

// A broker's settings and counters: 25 change settings, 26 read them, 28
// counters; 306, 316 and 329 remove what is no longer needed, which is nothing.
//
// These settings act when they are changed: brokerPermission (which also makes
// the broker register), autoCreateSubscriptionGroup, maxMessageSize and traceOn.
// Others of those that the broker has are kept and change nothing; names that it
// does not have are ignored, as a real broker does. Rates and queue lengths are
// 0.

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

func (b *Broker) updateSettings(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	changed := false
	for line := range strings.Lines(string(r.Body)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found || strings.HasPrefix(name, "#") {
			continue
		}
		if _, known := b.settings[name]; known {
			b.settings[name] = value
		}
		changed = changed || name == "brokerPermission"
	}
	if changed {
		b.register(true)
	}
	return ok(r)
}

func (b *Broker) getSettings(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var text strings.Builder
	all := maps.Clone(b.settings)
	all["listenPort"] = str(b.port)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text.WriteString(name + "=" + all[name] + "\n")
	}
	return r.Answer(remoting.Success, "", []byte(text.String()), "version", "{}"), nil
}

// clean finds nothing that it could remove: messages stay, and a queue goes with
// its topic.
func (b *Broker) clean(_ *conn, r *remoting.Command) (*remoting.Command, error) { return ok(r) }

func (b *Broker) maxMessageSize() int {
	n, err := strconv.Atoi(b.settings["maxMessageSize"])
	if err != nil {
		return 4 << 20
	}
	return n
}

// duration is a setting in milliseconds.
func (b *Broker) duration(name string, otherwise time.Duration) time.Duration {
	n, err := strconv.Atoi(b.settings[name])
	if err != nil {
		return otherwise
	}
	return time.Duration(n) * time.Millisecond
}

func (b *Broker) runtime(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	earliest := int64(-1)
	if len(b.store.log) > 0 {
		earliest = b.store.log[0].at
	}
	table := map[string]string{
		"brokerVersionDesc": "V5_5_0", "brokerVersion": str(remoting.V5_5_0), "brokerActive": "true",
		"bootTimestamp": str(b.began.UnixMilli()), "runtime": time.Since(b.began).String(),
		"commitLogMinOffset": "0", "commitLogMaxOffset": str(b.store.end), "dispatchBehindBytes": "0",
		"commitLogDiskRatio": "0.0", "consumeQueueDiskRatio": "0.0", "earliestMessageTimeStamp": str(earliest),
		"putTps": "0.0 0.0 0.0", "getTransferredTps": "0.0 0.0 0.0", "getTotalTps": "0.0 0.0 0.0", "getFoundTps": "0.0 0.0 0.0", "getMissTps": "0.0 0.0 0.0",
		"timerReadBehind": "0", "timerOffsetBehind": "0", "timerCongestNum": "0", "timerEnqueueTps": "0.0", "timerDequeueTps": "0.0",
		"msgPutTotalTodayNow": str(len(b.store.log)), "msgGetTotalTodayNow": "0",
	}
	for _, zero := range []string{"sendThreadPoolQueueSize", "pullThreadPoolQueueSize", "sendThreadPoolQueueHeadWaitTimeMills",
		"pullThreadPoolQueueHeadWaitTimeMills", "pageCacheLockTimeMills", "msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning",
		"ackThreadPoolQueueSize", "ackThreadPoolQueueHeadWaitTimeMills", "msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning", "remainTransientStoreBufferNumbs"} {
		table[zero] = "0"
	}
	for level := range b.levels {
		table["scheduleMessageOffset_"+str(level+1)] = str(b.store.delivered[level+1]) + "," + str(b.store.queue(scheduleTopic, level).end())
	}
	return body(r, map[string]any{"table": table})
}
