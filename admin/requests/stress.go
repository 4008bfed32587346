package requests

import (
	"encoding/json"
	"fmt"

	"github.com/turnout-mq/turnout/metadata"
)

// What a stress task may have.
const (
	StressMostSeconds  = 7 * 24 * 3600
	StressBlindSeconds = 60 // how long a guard may not be able to look, if nothing else is said
	stressLeastBlind   = 10
	stressMostThings   = 100
)

// StressSpec asks for a stress task: shadow groups that are started and stopped together. Package stress carries it out.
type StressSpec struct {
	Task         string            `json:"task" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"its name in ZooKeeper" example:"zpt_task_1"`
	Groups       []StressGroupSpec `json:"groups" minItems:"1" maxItems:"100" doc:"the groups whose shadow groups run while it runs"`
	Topics       []StressTopicSpec `json:"topics,omitempty" maxItems:"100" doc:"topics that need a shadow topic although none of the groups reads them, because listeners send to them; and topics of the groups whose shadow topic gets another cluster or other partitions than the topic"`
	LimitSeconds int64             `json:"limitSeconds" minimum:"1" maximum:"604800" doc:"it is stopped so long after each start at the latest"`
	Guards       []StressGuardSpec `json:"guards,omitempty" maxItems:"100" doc:"it is stopped when one of these trips"`
	BlindSeconds int64             `json:"blindSeconds,omitempty" minimum:"0" maximum:"3600" doc:"a guard that can not be looked at for so long trips; 0: 60, else 10 or more"`
	Provision    *bool             `json:"provision,omitempty" doc:"create the shadow topics that are missing; false: all must be there; default true"`
	Remove       bool              `json:"remove,omitempty" doc:"remove what was created for it, and the task, when its first run has ended"`
}

// StressGroupSpec is a group of a stress task.
type StressGroupSpec struct {
	Group string `json:"group" pattern:"^[a-zA-Z0-9_-]{1,120}$" example:"order_bil_group"`
	App   string `json:"app,omitempty" doc:"the application that subscribes it; empty: the one that the group belongs to"`
}

// StressTopicSpec is a topic of a stress task.
type StressTopicSpec struct {
	Topic      string `json:"topic" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"the topic of production"`
	Cluster    string `json:"cluster,omitempty" doc:"where its shadow topic is created; empty: where the topic is"`
	Partitions int    `json:"partitions,omitempty" minimum:"0" maximum:"10000" doc:"with which it is created; 0: as many as the topic has"`
}

// StressGuardSpec stops a stress task when a group of production fares badly. At least one of the two limits is given.
type StressGuardSpec struct {
	Group     string `json:"group" pattern:"^[a-zA-Z0-9_-]{1,120}$" doc:"a group of production"`
	MaxUnread *int64 `json:"maxUnread,omitempty" minimum:"0" doc:"unread messages over all its topics and clusters"`
	MaxErrors *int64 `json:"maxErrors,omitempty" minimum:"0" doc:"dead letters and retries that come within a minute"`
}

// ParseStress reads the spec of a stress task. ErrInvalid says all that is wrong with it.
func ParseStress(raw json.RawMessage) (StressSpec, error) {
	spec, err := decode[StressSpec](KindStress, raw)
	if err == nil {
		err = spec.Validate()
	}
	return spec, err
}

// Validate is ErrInvalid with all that is wrong.
func (s StressSpec) Validate() error {
	var p problems
	p.name("task", s.Task)
	for field, n := range map[string]int{"groups": len(s.Groups), "topics": len(s.Topics), "guards": len(s.Guards)} {
		least := 0
		if field == "groups" {
			least = 1
		}
		p.between("number of "+field, n, least, stressMostThings)
	}
	known := map[string]bool{}
	once := func(field, kind, name string) {
		p.production(field, name)
		if known[kind+name] {
			p.add(field, name, "is named twice")
		}
		known[kind+name] = true
	}
	for i, g := range s.Groups {
		once(fmt.Sprintf("groups[%d].group", i), "group ", g.Group)
		if g.App != "" {
			p.name(fmt.Sprintf("groups[%d].app", i), g.App)
		}
	}
	for i, t := range s.Topics {
		once(fmt.Sprintf("topics[%d].topic", i), "topic ", t.Topic)
		if t.Cluster != "" {
			p.name(fmt.Sprintf("topics[%d].cluster", i), t.Cluster)
		}
		p.between(fmt.Sprintf("topics[%d].partitions", i), t.Partitions, 0, maxPartitions)
	}
	for i, g := range s.Guards {
		once(fmt.Sprintf("guards[%d].group", i), "guard ", g.Group)
		if g.MaxUnread == nil && g.MaxErrors == nil {
			p.add(fmt.Sprintf("guards[%d]", i), g.Group, "must have maxUnread, maxErrors or both")
		}
		for field, limit := range map[string]*int64{"maxUnread": g.MaxUnread, "maxErrors": g.MaxErrors} {
			if limit != nil && *limit < 0 {
				p.add(fmt.Sprintf("guards[%d].%s", i, field), *limit, "must be 0 or more")
			}
		}
	}
	if s.LimitSeconds < 1 || s.LimitSeconds > StressMostSeconds {
		p.add("limitSeconds", s.LimitSeconds, "must be 1 to %d", StressMostSeconds)
	}
	if s.BlindSeconds != 0 && (s.BlindSeconds < stressLeastBlind || s.BlindSeconds > 3600) {
		p.add("blindSeconds", s.BlindSeconds, "must be %d to 3600, or 0 for %d", stressLeastBlind, StressBlindSeconds)
	}
	return p.err(KindStress)
}

// production is the name of something that is no shadow.
func (p *problems) production(field, name string) {
	p.name(field, name)
	if len(name) >= len(metadata.ShadowPrefix) && name[:len(metadata.ShadowPrefix)] == metadata.ShadowPrefix {
		p.add(field, name, "is a shadow itself: name what it is the shadow of")
	}
}
