package metadata

import (
	"fmt"
	"maps"
	"slices"
)

// TopicSettings are the settings of a topic. Node: topics/{topic}/settings; without one DefaultTopicSettings are in force.
type TopicSettings struct {
	V        int               `json:"v"`
	App      string            `json:"app"`               // who owns the topic; may be ""
	Names    map[string]string `json:"names"`             // cluster → name of the topic there, where it differs
	Shadow   ShadowTopic       `json:"shadow"`            // where messages with the stress mark go
	ShadowOf string            `json:"shadowOf,omitzero"` // the topic that this one is the shadow topic of; not needed when the name has ShadowPrefix
	Portable bool              `json:"portable"`          // refuse what not every kind of cluster can carry. Default true
	Extra    Extra             `json:"-"`
}

// DefaultTopicSettings are the settings of a topic that has none.
func DefaultTopicSettings() TopicSettings {
	return TopicSettings{V: version, Portable: true, Shadow: ShadowTopic{Enabled: true}}
}

// ParseTopicSettings reads TopicSettings.
func ParseTopicSettings(data []byte) (TopicSettings, error) {
	s := DefaultTopicSettings()
	err := parseDocument("settings", data, &s, true)
	return s, err
}

// Physical is the name of topic on cluster.
func (s TopicSettings) Physical(topic, cluster string) string {
	if name := s.Names[cluster]; name != "" {
		return name
	}
	return topic
}

// Validate names every bad field.
func (s TopicSettings) Validate() error {
	var p problems
	p.version(s.V)
	if s.App != "" {
		p.name("app", s.App)
	}
	for _, cluster := range slices.Sorted(maps.Keys(s.Names)) {
		p.name("names", cluster)
		p.physical(fmt.Sprintf("names[%q]", cluster), s.Names[cluster])
	}
	if s.Shadow.Topic != "" {
		p.name("shadow.topic", s.Shadow.Topic)
	}
	if s.ShadowOf != "" {
		p.name("shadowOf", s.ShadowOf)
	}
	return p.err("settings")
}

// MarshalJSON writes the document with its Extra.
func (s TopicSettings) MarshalJSON() ([]byte, error) { return encodeObject(s, s.Extra) }

// UnmarshalJSON reads it without validating.
func (s *TopicSettings) UnmarshalJSON(b []byte) (err error) {
	s.Extra, err = decodeObject(b, s)
	return err
}
