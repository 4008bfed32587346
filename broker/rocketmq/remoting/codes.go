package remoting

// Request codes.
const (
	ReqSendMessage             = 10
	ReqPullMessage             = 11
	ReqQueryMessage            = 12
	ReqQueryConsumerOffset     = 14
	ReqUpdateConsumerOffset    = 15
	ReqUpdateTopic             = 17
	ReqGetTopics               = 21
	ReqUpdateBrokerConfig      = 25
	ReqGetBrokerConfig         = 26
	ReqGetBrokerRuntime        = 28
	ReqSearchOffset            = 29
	ReqGetMaxOffset            = 30
	ReqGetMinOffset            = 31
	ReqEarliestStoreTime       = 32
	ReqViewMessage             = 33
	ReqHeartbeat               = 34
	ReqUnregisterClient        = 35
	ReqSendBack                = 36
	ReqEndTransaction          = 37
	ReqConsumerList            = 38
	ReqCheckTransaction        = 39 // broker to client
	ReqConsumerIDsChanged      = 40 // broker to client
	ReqLockQueues              = 41
	ReqUnlockQueues            = 42
	ReqConsumerOffsets         = 43
	ReqDelayOffsets            = 45
	ReqCheckClientConfig       = 46
	ReqTimerMetrics            = 61
	ReqPutKV                   = 100
	ReqGetKV                   = 101
	ReqDeleteKV                = 102
	ReqRoute                   = 105
	ReqClusterInfo             = 106
	ReqUpdateSubscriptionGroup = 200
	ReqSubscriptionGroups      = 201
	ReqTopicStats              = 202
	ReqConsumerConnections     = 203
	ReqProducerConnections     = 204
	ReqTopicList               = 206
	ReqDeleteSubscriptionGroup = 207
	ReqConsumeStats            = 208
	ReqDeleteTopicInBroker     = 215
	ReqDeleteTopicInNameServer = 216
	ReqKVList                  = 219
	ReqTopicsOfCluster         = 224
	ReqTopicConsumedByWhom     = 300
	ReqSendMessageV2           = 310
	ReqSendBatch               = 320
	ReqTopicsOfConsumer        = 343
	ReqGetTopicConfig          = 351
	ReqGetSubscriptionGroup    = 352
	ReqLitePullMessage         = 361
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
	SubscriptionParse     = 23
	SubscriptionNotExist  = 24
	SubscriptionNotLatest = 25
	GroupNotExist         = 26
	InvalidParameter      = 29
	ConsumerNotOnline     = 206
	FlowControl           = 215
)

// Flags of a pull.
const (
	PullCommit       = 1 // commitOffset is the group's position
	PullSuspend      = 2 // wait for a message
	PullSubscription = 4 // filter by what the request says, not by the group's heartbeats
)

// Permission bits of a topic.
const (
	PermInherit = 1 // topics that are made by a send may be made after this one
	PermWrite   = 2
	PermRead    = 4
)

// Versions as they stand in frames: the position in RocketMQ's list of releases.
const (
	V4_9_3 = 399
	V4_9_4 = 401 // from here on the name server writes standard JSON routes
	V5_0_0 = 413 // from here on QueryConsumerOffset tells "none" from 0
	V5_5_0 = 513
)
