// Package shadowack tells what running instances have made of the flags of shadow groups. The command line and the platform show and
// wait for the same.
package shadowack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/turnout-mq/turnout/metadata"
)

// Report is what an instance says of the shadow group of a group.
type Report struct {
	Instance string               `json:"instance"`
	State    metadata.ShadowState `json:"state" doc:"started, starting, failed, stopping, stopped, ignored; empty: it says nothing"`
	Since    time.Time            `json:"since,omitzero"`
	Tasks    []string             `json:"tasks" doc:"that enable it, as the instance knows them"`
	Reason   string               `json:"reason,omitempty"`
}

// Of tells of every instance; unflagged is the node below which there is no flag for the group, "" when there is one.
func Of(instances []metadata.InstanceEntry, group, unflagged string) []Report {
	list := []Report{}
	for _, i := range instances {
		r := i.Shadow[group]
		line := Report{Instance: i.ID, State: r.State, Since: r.At, Tasks: r.Tasks, Reason: r.Reason}
		if line.Tasks == nil {
			line.Tasks = []string{}
		}
		switch {
		case i.Err != nil:
			line.Reason = "its node is not valid: " + strings.ReplaceAll(strings.TrimSpace(i.Err.Error()), "\n", "; ")
		case r.State == "" && unflagged != "":
			line.Reason = "it reports nothing, because there is no flag for the group below " + unflagged
		case r.State == "":
			line.Reason = "it has not reported on the group yet: it or the flag is new, or its version has no shadow groups (" + i.SDK + ")"
		case r.State == metadata.ShadowIgnored:
			line.Reason = "it does not subscribe the group"
		}
		list = append(list, line)
	}
	return list
}

// NotStarted names the instances that have not started the shadow group of a group for task ("": for any). Those that do not
// subscribe the group are not waited for, if there is one that does.
func NotStarted(instances []metadata.InstanceEntry, group, task string) []string {
	var missing []string
	ignored := 0
	for _, i := range instances {
		r := i.Shadow[group]
		seen := task == "" && len(r.Tasks) > 0 || slices.Contains(r.Tasks, task)
		switch {
		case seen && r.State == metadata.ShadowStarted:
		case seen && r.State == metadata.ShadowIgnored:
			ignored++
		default:
			missing = append(missing, pending(i, group))
		}
	}
	if missing == nil && len(instances) > 0 && ignored == len(instances) {
		missing = []string{fmt.Sprintf("an instance that subscribes %s: none of %d does", group, ignored)}
	}
	return missing
}

// NotStopped names the instances that have not stopped the shadow group of a group. With goesOn, because other tasks enable it, they
// need only have seen that task does not.
func NotStopped(instances []metadata.InstanceEntry, group, task string, goesOn bool) []string {
	var missing []string
	for _, i := range instances {
		r := i.Shadow[group]
		stopped := r.State == "" || r.State == metadata.ShadowStopped || r.State == metadata.ShadowIgnored
		if slices.Contains(r.Tasks, task) || !goesOn && (!stopped || len(r.Tasks) > 0) {
			missing = append(missing, pending(i, group))
		}
	}
	return missing
}

func pending(i metadata.InstanceEntry, group string) string {
	r := i.Shadow[group]
	if r.State == "" {
		return fmt.Sprintf("%s of %s (its first report)", i.ID, group)
	}
	text := fmt.Sprintf("%s of %s (%s", i.ID, group, StateText(r.State))
	if r.Reason != "" {
		reason := r.Reason
		if strings.ContainsFunc(reason, func(c rune) bool { return !unicode.IsPrint(c) }) { // it may go to a terminal
			reason = strconv.Quote(reason)
		}
		text += ": " + reason
	}
	return text + ")"
}

// Count is like "2 started, 1 failed".
func Count(n map[metadata.ShadowState]int) string {
	var parts []string
	for _, state := range []metadata.ShadowState{metadata.ShadowStarted, metadata.ShadowStarting, metadata.ShadowFailed, metadata.ShadowStopping, metadata.ShadowStopped, metadata.ShadowIgnored, ""} {
		if n[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[state], StateText(state)))
		}
	}
	if parts == nil {
		return "none runs"
	}
	return strings.Join(parts, ", ")
}

// StateText names a state for people.
func StateText(s metadata.ShadowState) string {
	if s == "" {
		return "unreported"
	}
	return string(s)
}
