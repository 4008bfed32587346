package fleet

import (
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/metadata"
)

// Instance is a running client of an application.
type Instance struct {
	ID      string    `json:"id" doc:"ip@-@pid@-@number"`
	App     string    `json:"app"`
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	SDK     string    `json:"sdk,omitempty" doc:"version of Turnout"`
	Topics  []Use     `json:"topics" doc:"what it says of each topic that it uses, as last looked at"`
	Stale   bool      `json:"stale" doc:"one of its topics is, or its document can not be read"`
	Error   string    `json:"error,omitempty" doc:"of its document"`
}

// Use is what an instance says of a topic.
type Use struct {
	Instance string    `json:"instance"`
	Topic    string    `json:"topic"`
	Seen     time.Time `json:"seen" doc:"when it was looked at"`
	Changed  time.Time `json:"changed,omitzero" doc:"when the instance last had something new to say"`
	Zxid     string    `json:"zxid" doc:"change number of the route that it has applied"`
	Applied  bool      `json:"applied" doc:"that is the route that is written"`
	// BehindSince is when it was first seen not to have applied the route, at the server that looks now.
	BehindSince time.Time                                    `json:"behindSince,omitzero" doc:"since when it was seen not to have applied it"`
	Write       string                                       `json:"write" doc:"cluster that its next send goes to"`
	Warm        []string                                     `json:"warm,omitempty" doc:"clusters that it has prepared"`
	Held        bool                                         `json:"held,omitempty" doc:"its sends pause"`
	Inflight    map[string]int64                             `json:"inflight,omitempty" doc:"by cluster: sends that have not ended"`
	Groups      map[string]map[string]metadata.Participation `json:"groups,omitempty" doc:"by group and cluster: attached or finished"`
	Error       string                                       `json:"error,omitempty" doc:"what keeps it from applying the route, or of its document"`
	Stale       bool                                         `json:"stale" doc:"it reports an error, or has been behind for too long"`
}

// Topic is a topic with its clusters, groups and instances.
type Topic struct {
	Topic     string           `json:"topic"`
	App       string           `json:"app,omitempty" doc:"who owns it"`
	Seen      time.Time        `json:"seen,omitzero" doc:"when it was looked at; absent: not yet"`
	Route     string           `json:"route,omitempty" doc:"change number of the route that is written"`
	Write     string           `json:"write,omitempty" doc:"cluster that sends go to"`
	Migration string           `json:"migration,omitempty" doc:"the migration that wrote the route"`
	Moved     *TopicMigration  `json:"moved,omitempty" doc:"how far that migration is; absent: the store does not have it"`
	Clusters  []TopicOnCluster `json:"clusters" doc:"those that the route has a stay on"`
	Groups    []GroupOnCluster `json:"groups" doc:"how far the groups that read it are"`
	Instances []Use            `json:"instances" doc:"who uses it"`
	Error     string           `json:"error,omitempty" doc:"why it could not be looked at in full"`
}

// TopicMigration is how far the migration of a route is, as the store has it now.
type TopicMigration struct {
	State   string        `json:"state" doc:"its state, as turnout migrate list shows it"`
	Ended   time.Time     `json:"ended,omitzero" doc:"when it ended; absent: it runs"`
	Outcome store.Outcome `json:"outcome,omitempty" doc:"how it ended"`
}

// TopicOnCluster is a topic on one of its clusters.
type TopicOnCluster struct {
	Topic    string           `json:"topic"`
	Cluster  string           `json:"cluster"`
	Physical string           `json:"physical" doc:"its name there"`
	Ends     map[string]int64 `json:"ends,omitempty" doc:"by partition: the offset that the next message gets"`
	Produced *float64         `json:"produced,omitempty" doc:"offsets written per second since the look before"`
	NoTopic  bool             `json:"noTopic,omitempty" doc:"the cluster does not have it"`
	Error    string           `json:"error,omitempty" doc:"why it is not known, or what is wrong"`

	at time.Time // when the ends were read
}

// GroupOnCluster is how far a group is with a topic on a cluster.
type GroupOnCluster struct {
	Group       string         `json:"group"`
	Topic       string         `json:"topic"`
	Cluster     string         `json:"cluster"`
	Seen        time.Time      `json:"seen"`
	Physical    string         `json:"physical" doc:"the group's name there"`
	Unread      int64          `json:"unread" doc:"offsets between position and end, over all partitions"`
	Expired     int64          `json:"expired,omitempty" doc:"offsets that were deleted before they were read"`
	Delayed     int64          `json:"delayed,omitempty" doc:"stored and not yet due"`
	Retries     int64          `json:"retries,omitempty" doc:"in the retry topic"`
	DeadLetters int64          `json:"deadLetters,omitempty"`
	Consumed    *float64       `json:"consumed,omitempty" doc:"offsets finished per second since the look before"`
	Partitions  []PartitionLag `json:"partitions"`
	NoTopic     bool           `json:"noTopic,omitempty" doc:"the cluster does not have the topic, so there is nothing to read"`
	Error       string         `json:"error,omitempty" doc:"why it is not known"`
}

// PartitionLag is how far a group is with a partition.
type PartitionLag struct {
	Partition string `json:"partition"`
	Position  int64  `json:"position" doc:"offset of the next message to be read"`
	End       int64  `json:"end"`
	Unread    int64  `json:"unread"`
}

// Group is a group with all that it reads.
type Group struct {
	Group       string           `json:"group"`
	App         string           `json:"app,omitempty" doc:"who owns it"`
	Topics      []string         `json:"topics"`
	Paused      bool             `json:"paused"`
	Unread      int64            `json:"unread" doc:"over all topics and clusters"`
	Retries     int64            `json:"retries"`
	DeadLetters int64            `json:"deadLetters"`
	Consumed    *float64         `json:"consumed,omitempty" doc:"offsets finished per second; absent: not known of any"`
	Parts       []GroupOnCluster `json:"parts" doc:"by topic and cluster"`
	Error       string           `json:"error,omitempty" doc:"some of it is not known; see the parts"`
}

// Snapshot is what this server has seen itself: of the shards that it looks at. Over all servers that is everything once, but for the
// moments in which shards go from one to another. It must not be changed.
type Snapshot struct {
	Shards []ShardLook
	Topics []*Topic
}

// ShardLook is the last look at a shard.
type ShardLook struct {
	Index, Of int
	At        time.Time     // when it began
	Took      time.Duration // until all of it was stored
	Topics    int
	Failed    int // topics that could not be looked at in full
}
