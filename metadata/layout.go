package metadata

// Default roots of a Layout.
const (
	DefaultRoot       = "/turnout"
	DefaultShadowRoot = "/zpt"
)

// Layout says where things are in ZooKeeper. A Store has one embedded.
type Layout struct {
	Root       string // e.g. "/turnout"
	ShadowRoot string // e.g. "/zpt"
}

// EnsemblePath is the node that says which ZooKeeper this is.
func (l Layout) EnsemblePath() string { return l.Root + "/ensemble" }

// TopicsPath is the parent of all wishes.
func (l Layout) TopicsPath() string { return l.Root + "/topics" }

// TopicPath is the wish of a topic.
func (l Layout) TopicPath(topic string) string { return l.TopicsPath() + "/" + topic }

// RoutePath is the route of a topic.
func (l Layout) RoutePath(topic string) string { return l.TopicPath(topic) + "/route" }

// SettingsPath is the settings of a topic.
func (l Layout) SettingsPath(topic string) string { return l.TopicPath(topic) + "/settings" }

// ClustersPath is the parent of all clusters.
func (l Layout) ClustersPath() string { return l.Root + "/clusters" }

// ClusterPath is one cluster.
func (l Layout) ClusterPath(cluster string) string { return l.ClustersPath() + "/" + cluster }

// GroupsPath is the parent of all groups.
func (l Layout) GroupsPath() string { return l.Root + "/groups" }

// GroupPath is one group.
func (l Layout) GroupPath(group string) string { return l.GroupsPath() + "/" + group }

// AppsPath is the parent of all applications.
func (l Layout) AppsPath() string { return l.Root + "/apps" }

// InstancesPath is the parent of an application's instances.
func (l Layout) InstancesPath(app string) string { return l.AppsPath() + "/" + app + "/instances" }

// InstancePath is one instance.
func (l Layout) InstancePath(app, id string) string { return l.InstancesPath(app) + "/" + id }

// ParticipantsPath is the parent of a topic's participants.
func (l Layout) ParticipantsPath(topic string) string { return l.Root + "/participants/" + topic }

// ParticipantPath is one participant.
func (l Layout) ParticipantPath(topic, id string) string { return l.ParticipantsPath(topic) + "/" + id }

// ShadowPath is the flag that starts and stops a shadow group.
func (l Layout) ShadowPath(app, task, group string) string {
	return l.ShadowRoot + "/" + app + "/" + task + "/" + group
}
