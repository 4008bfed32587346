package broker

import "strings"

// ReservedHeader says whether applications must not use name for a header: it is Turnout's, or RocketMQ gives it a
// meaning of its own (org.apache.rocketmq.common.message.MessageConst) and it would not survive there.
func ReservedHeader(name string) bool {
	if len(name) >= len("turnout-") && strings.EqualFold(name[:len("turnout-")], "turnout-") {
		return true
	}
	return rocketMQProperties[name] || strings.HasPrefix(name, "TIMER_") || strings.HasPrefix(name, "POP_") || strings.HasPrefix(name, "__")
}

// Marked says whether the header turnout-shadow with this value marks a message of a stress test. Whoever wrote anything but "0" there
// meant to mark it, so it must not pass for production.
func Marked(value string) bool { return value != "" && value != "0" }

var rocketMQProperties = func() map[string]bool {
	names := strings.Fields(`KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET
		BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME MSG_REGION TRACE_ON UNIQ_KEY
		EXTEND_UNIQ_INFO MAX_RECONSUME_TIMES CONSUME_START_TIME INNER_NUM INNER_BASE DUP_INFO CHECK_IMMUNITY_TIME_IN_SECONDS
		TRAN_PREPARED_QUEUE_OFFSET TRANSACTION_CHECK_TIMES CLUSTER INSTANCE_ID CORRELATION_ID REPLY_TO_CLIENT TTL
		ARRIVE_TIME PUSH_REPLY_TIME MSG_TYPE TRACE_CONTEXT LMQ_OFFSET LMQ_QUEUE_ID INNER_MULTI_DISPATCH INNER_MULTI_QUEUE_OFFSET
		PROPERTY_FORWARD_QUEUE_ID REDIRECT DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID CRC32 1ST_POP_TIME LMQ_KEY RPCCODE BORN_TIMESTAMP`)
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}()
