package rmqserver

import "strings"

// Properties that brokers read or write.
const (
	propTags          = "TAGS"
	propKeys          = "KEYS"
	propUniqueKey     = "UNIQ_KEY"
	propDelay         = "DELAY"
	propWait          = "WAIT"
	propRealTopic     = "REAL_TOPIC"
	propRealQueue     = "REAL_QID"
	propRetryTopic    = "RETRY_TOPIC"
	propOriginMessage = "ORIGIN_MESSAGE_ID"
	propPrepared      = "TRAN_MSG"
	propProducerGroup = "PGROUP"
	propTransaction   = "__transactionId__"
	propChecks        = "TRANSACTION_CHECK_TIMES"
	propTimerOut      = "TIMER_OUT_MS"
	propImmunity      = "CHECK_IMMUNITY_TIME_IN_SECONDS"
	propRegion        = "MSG_REGION"
	propTrace         = "TRACE_ON"
	propCluster       = "CLUSTER"
	propPopCheck      = "POP_CK"
)

const (
	nameEnd     = "\x01"
	propertyEnd = "\x02"
)

// properties is a property string, name \x01 value \x02 …. The last property of
// a name counts.
type properties string

func (p properties) get(name string) string {
	value := ""
	for item := range strings.SplitSeq(string(p), propertyEnd) {
		if n, v, found := strings.Cut(item, nameEnd); found && n == name {
			value = v
		}
	}
	return value
}

// without is p with no property of this name.
func (p properties) without(name string) properties {
	if !strings.Contains(string(p), name+nameEnd) {
		return p
	}
	var out strings.Builder
	for item := range strings.SplitSeq(string(p), propertyEnd) {
		if item != "" && !strings.HasPrefix(item, name+nameEnd) {
			out.WriteString(item)
			out.WriteString(propertyEnd)
		}
	}
	return properties(out.String())
}

// with is p with this value as the only one of the name.
func (p properties) with(name, value string) properties {
	p = p.without(name)
	if p != "" && !strings.HasSuffix(string(p), propertyEnd) {
		p += propertyEnd
	}
	return p + properties(name+nameEnd+value+propertyEnd)
}
