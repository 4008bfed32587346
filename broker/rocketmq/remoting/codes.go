package remoting

// Request codes.
const (
	ReqSendMessage             = 10
	ReqPullMessage             = 11
	ReqQueryConsumerOffset     = 14
	ReqUpdateConsumerOffset    = 15
	ReqUpdateTopic             = 17
	ReqUpdateBrokerConfig      = 25
	ReqGetBrokerConfig         = 26
	ReqGetBrokerRuntime        = 28
	ReqSearchOffset            = 29
	ReqGetMaxOffset            = 30
	ReqGetMinOffset            = 31
	ReqHeartbeat               = 34
	ReqUnregisterClient        = 35
	ReqSendBack                = 36
	ReqConsumerList            = 38
	ReqConsumerIDsChanged      = 40 // broker to client
	ReqLockQueues              = 41
	ReqUnlockQueues            = 42
	ReqDelayOffsets            = 45
	ReqRoute                   = 105
	ReqClusterInfo             = 106
	ReqUpdateSubscriptionGroup = 200
	ReqTopicStats              = 202
	ReqConsumerConnections     = 203
	ReqTopicList               = 206
	ReqConsumeStats            = 208
	ReqDeleteTopicInBroker     = 215
	ReqDeleteTopicInNameServer = 216
	ReqTopicConsumedByWhom     = 300
	ReqSendMessageV2           = 310
	ReqSendBatch               = 320
	ReqGetTopicConfig          = 351
)

// Response codes.
const (
	Success               = 0
	SystemError           = 1
	SystemBusy            = 2
	NotSupported          = 3
	FlushDiskTimeout      = 10
	SlaveNotAvailable     = 11
	FlushSlaveTimeout     = 12
	MessageIllegal        = 13
	ServiceNotAvailable   = 14
	NoPermission          = 16
	TopicNotExist         = 17
	PullNotFound          = 19
	PullRetryImmediately  = 20
	PullOffsetMoved       = 21
	QueryNotFound         = 22
	SubscriptionNotExist  = 24
	SubscriptionNotLatest = 25
	GroupNotExist         = 26
	InvalidParameter      = 29
	ConsumerNotOnline     = 206
	FlowControl           = 215
)

// Permission bits of a topic.
const (
	PermWrite = 2
	PermRead  = 4
)

// Versions as they stand in frames: the position in RocketMQ's list of releases.
const (
	V4_9_4 = 401 // from here on the name server writes standard JSON routes
	V5_0_0 = 413 // from here on QueryConsumerOffset tells "none" from 0
)
