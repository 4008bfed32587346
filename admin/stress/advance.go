package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// farewell is for giving up a lock.
const farewell = 2 * time.Second

// flag reads the node of a flag as it is now.
func (s *Service) flag(ctx context.Context, t *store.StressTask, f store.StressFlag) (metadata.Node, error) {
	path := s.meta.ShadowPath(f.App, t.Name, f.Group)
	if err := s.meta.Sync(ctx, path); err != nil {
		return metadata.Node{}, err
	}
	return s.meta.Read(ctx, path)
}

// changeOf tells what was written last; "": there is no node.
func changeOf(n metadata.Node) string {
	if !n.Exists {
		return ""
	}
	return n.Mzxid.String()
}

// advance makes flags and shadow topics what the state of a task asks for, alone on the task. An error: it has to be called again.
func (s *Service) advance(ctx context.Context, id string) error {
	lock, err := coord.Lock(ctx, s.meta, "stress-"+id)
	if err != nil {
		return err
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if err := lock.Unlock(leaving); err != nil {
			s.log.Warn("the lock is given up as soon as ZooKeeper answers", zap.String("task", id), zap.Error(err))
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(lock.Context(), cancel)()
	t, err := s.db.StressTask(ctx, id)
	if err != nil {
		return err
	}
	switch t.State {
	case store.StressStarting:
		err = s.switchOn(ctx, lock, t)
	case store.StressStopping:
		err = s.switchOff(ctx, lock, t)
	case store.StressRemoving:
		err = s.remove(ctx, lock, t)
	default: // it waits for people, or somebody else was faster
	}
	if err != nil && !errors.Is(err, errs.ErrConflict) && ctx.Err() == nil {
		err = errors.Join(err, s.waits(ctx, id, flat(err)))
	}
	return err
}

// waits notes what keeps a task from going on. What the try has made of the task in memory was not stored, so it is read anew.
func (s *Service) waits(ctx context.Context, id, why string) error {
	t, err := s.db.StressTask(ctx, id)
	if err != nil || t.Waiting == why {
		return err
	}
	t.Waiting = why
	return s.db.UpdateStressTask(ctx, t, store.StressChanges{})
}

// write writes a flag that is as it was read, while the lock is held, and returns what is there then.
func (s *Service) write(ctx context.Context, lock *coord.Held, n metadata.Node, enable bool) (metadata.Node, error) {
	flag := metadata.ParseShadowFlag(n.Data)
	flag.Enabled = enable
	data, err := json.Marshal(flag)
	if err != nil {
		return n, err
	}
	if !n.Exists { // off is what no node is, too
		if err := s.meta.Create(ctx, n.Path, off); err != nil && !errors.Is(err, errs.ErrConflict) {
			return n, err
		}
		if n, err = s.meta.Read(ctx, n.Path); err != nil {
			return n, err
		}
	}
	if !bytes.Equal(n.Data, data) {
		if err := s.meta.Multi(ctx, lock.Guard(), metadata.SetOp(n.Path, data, n.Version)); err != nil {
			return n, err
		}
		if n, err = s.meta.Read(ctx, n.Path); err != nil {
			return n, err
		}
	}
	return n, nil
}

// off is a flag as it is made.
var off = []byte(`{"enable":"0"}`)

// audited is the change of a flag. What people have put beside it is not ours to keep, and may be anything: only what decides is told.
func audited(path string, before, after bool) store.Audit {
	doc := func(on bool) json.RawMessage {
		data, _ := metadata.ShadowFlag{Enabled: on}.MarshalJSON() // never fails without other fields
		return data
	}
	return store.Audit{Action: "set", Kind: "flag", Subject: path, Before: doc(before), After: doc(after)}
}

// switchOn writes the flags of a task that starts. One that somebody has written since is left as it is.
func (s *Service) switchOn(ctx context.Context, lock *coord.Held, t *store.StressTask) error {
	if !time.Now().Before(*t.EndsAt) { // nobody could do it for so long
		return s.endAtLimit(ctx, t)
	}
	ch := store.StressChanges{}
	on := 0
	for i := range t.Flags {
		f := &t.Flags[i]
		n, err := s.flag(ctx, t, *f)
		if err != nil {
			return err
		}
		enabled := metadata.ParseShadowFlag(n.Data).Enabled
		switch {
		case enabled: // by an earlier try, or by hand
		case changeOf(n) == f.Change:
			if n, err = s.write(ctx, lock, n, true); err != nil {
				return err
			}
			enabled = true
		default:
			ch.Events = append(ch.Events, edited(s.meta.ShadowPath(f.App, t.Name, f.Group), n))
		}
		if enabled {
			on++
			ch.Audits = append(ch.Audits, audited(n.Path, false, true))
		}
		f.Enabled, f.Change = enabled, changeOf(n)
	}
	if on == 0 {
		return s.end(ctx, t, endedByHand, ch.Events...)
	}
	t.State, t.Waiting = store.StressRunning, ""
	ch.Events = append(ch.Events, store.StressEvent{Kind: "started", Text: fmt.Sprintf("%d of %s on", on, count.Of(len(t.Flags), "flag is", "flags are"))})
	return s.db.UpdateStressTask(ctx, t, ch)
}

// endedByHand is why a run ended whose flags were all switched off past the platform.
const endedByHand = "by hand: none of its flags is on any more"

// edited is a change of a flag past the platform.
func edited(path string, n metadata.Node) store.StressEvent {
	is := "switched off"
	flag := metadata.ParseShadowFlag(n.Data)
	switch {
	case !n.Exists:
		is = "deleted"
	case flag.Enabled:
		is = "switched on"
	case flag.Problem != "":
		is = "written so that it does not count"
	}
	return store.StressEvent{Kind: "edited", Text: fmt.Sprintf("the flag %s was %s by hand", path, is)}
}

// endAtLimit ends a run whose time is over.
func (s *Service) endAtLimit(ctx context.Context, t *store.StressTask) error {
	return s.end(ctx, t, fmt.Sprintf("limit: its time was over at %s", t.EndsAt.Format(time.RFC3339)))
}

// switchOff writes the flags of a task that ends, whatever is in them.
func (s *Service) switchOff(ctx context.Context, lock *coord.Held, t *store.StressTask) error {
	ch := store.StressChanges{}
	for i := range t.Flags {
		f := &t.Flags[i]
		n, err := s.flag(ctx, t, *f)
		if err != nil {
			return err
		}
		if n.Exists {
			if n, err = s.write(ctx, lock, n, false); err != nil {
				return err
			}
		}
		if f.Enabled {
			ch.Audits = append(ch.Audits, audited(s.meta.ShadowPath(f.App, t.Name, f.Group), true, false))
		}
		f.Enabled, f.Change = false, changeOf(n)
	}
	spec, err := requests.ParseStress(t.Spec)
	if err != nil {
		return err
	}
	t.State, t.Waiting = store.StressStopped, ""
	ch.Events = append(ch.Events, store.StressEvent{Kind: "stopped", Text: t.Reason})
	if spec.Remove {
		t.State, ch.Action = store.StressRemoving, "remove"
		ch.Events = append(ch.Events, store.StressEvent{Kind: "remove", Text: "as its request asks for"})
	}
	return s.db.UpdateStressTask(ctx, t, ch)
}

// errWaits: others have to do something first.
var errWaits = errors.New("waits")

// remove removes what was made for a task. errWaits: somebody still uses a shadow topic.
func (s *Service) remove(ctx context.Context, lock *coord.Held, t *store.StressTask) error {
	if err := s.removeFlags(ctx, lock, t); err != nil {
		return err
	}
	used, err := s.usedByOthers(ctx, t)
	if err != nil {
		return err
	}
	ch := store.StressChanges{Action: "removed"}
	for _, topic := range t.Topics {
		if !topic.Made {
			continue
		}
		if by := used[topic.ShadowTopic]; by != "" {
			ch.Events = append(ch.Events, store.StressEvent{Kind: "kept", Text: fmt.Sprintf("shadow topic %s, because %s needs it", topic.ShadowTopic, by)})
			continue
		}
		if err := s.removeTopic(ctx, lock, topic); err != nil {
			return err
		}
		where := "from ZooKeeper"
		if topic.MadeThere {
			where += " and cluster " + topic.Cluster
		}
		ch.Events = append(ch.Events, store.StressEvent{Kind: "removed", Text: fmt.Sprintf("shadow topic %s %s", topic.ShadowTopic, where)})
	}
	t.State, t.Waiting = store.StressRemoved, ""
	ch.Events = append(ch.Events, store.StressEvent{Kind: "removed"})
	return s.db.UpdateStressTask(ctx, t, ch)
}

// removeFlags deletes the flags, and the node above them if nothing is left in it and below it.
func (s *Service) removeFlags(ctx context.Context, lock *coord.Held, t *store.StressTask) error {
	var ch store.StressChanges
	for i := range t.Flags {
		f := &t.Flags[i]
		n, err := s.flag(ctx, t, *f)
		if err != nil {
			return err
		}
		if n.Exists {
			if err := s.meta.Multi(ctx, lock.Guard(), metadata.DeleteOp(n.Path, n.Version)); err != nil {
				return err
			}
		}
		if n.Exists || f.Change != "" { // by an earlier try, or by hand
			ch.Audits = append(ch.Audits, store.Audit{Action: "delete", Kind: "flag", Subject: n.Path, Before: off})
		}
		f.Enabled, f.Change = false, ""
	}
	for _, app := range t.Apps {
		path := s.meta.ShadowRoot + "/" + app + "/" + t.Name
		n, err := s.meta.Read(ctx, path)
		if err == nil && n.Exists && n.NumChildren == 0 && len(bytes.TrimSpace(n.Data)) == 0 {
			err = s.meta.Delete(ctx, path, n.Version)
		}
		if err != nil && !errors.Is(err, errs.ErrConflict) && !errors.Is(err, errs.ErrNotFound) { // somebody uses it, or was faster
			return err
		}
	}
	if len(ch.Audits) == 0 {
		return nil
	}
	return s.db.UpdateStressTask(ctx, t, ch)
}

// usedByOthers are the shadow topics that other tasks need, with one of those.
func (s *Service) usedByOthers(ctx context.Context, t *store.StressTask) (map[string]string, error) {
	others, err := s.db.StressTasks(ctx, store.StressFilter{States: []store.StressState{
		store.StressPreparing, store.StressReady, store.StressStarting, store.StressRunning, store.StressStopping, store.StressStopped,
	}})
	used := map[string]string{}
	for _, other := range others {
		for _, topic := range other.Topics {
			if other.ID != t.ID {
				used[topic.ShadowTopic] = other.ID
			}
		}
	}
	return used, err
}

// removeTopic takes a shadow topic out of ZooKeeper, which refuses one that is used, and then off its cluster, with the shadow groups that
// have read it.
func (s *Service) removeTopic(ctx context.Context, lock *coord.Held, topic store.StressTopic) error {
	if err := lock.Err(); err != nil {
		return err
	}
	err := s.meta.DeleteTopic(ctx, topic.ShadowTopic)
	switch {
	case errors.Is(err, errs.ErrConflict):
		return fmt.Errorf("%w: %s", errWaits, flat(err))
	case err != nil && !errors.Is(err, errs.ErrUnknownTopic):
		return err
	case !topic.MadeThere:
		return nil
	}
	err = s.on(ctx, topic.Cluster, func(ctx context.Context, c *clusters.Conn) error {
		for _, group := range topic.Groups {
			if err := c.DeleteGroup(ctx, group); err != nil {
				return err
			}
		}
		return c.DeleteTopic(ctx, topic.Physical)
	})
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		return nil
	case errors.Is(err, errs.ErrConflict): // members that have not left yet
		return fmt.Errorf("%w: %s", errWaits, flat(err))
	}
	return err
}

// flat is an error in one line.
func flat(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
