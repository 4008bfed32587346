package topics

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// sayPause is the least time between two writes of the participant node, so that a flood of changes is no load.
const sayPause = 20 * time.Millisecond

// sendsPause is the least time between two writes that tell nothing but newer numbers of sends.
const sendsPause = 2 * time.Second

// saying is what the participant node was last told, and when to look again.
type saying struct {
	doc     metadata.Participant
	at      time.Time
	session int64
	again   <-chan time.Time
	counted time.Time // since when doc.Sends are as they are
}

// say brings the participant node up to date.
func (t *Topic) say(last saying) saying {
	session := t.set.store.Session()
	doc := t.participant()
	counted := time.Now()
	if age := counted.Sub(last.counted); doc.Sends != nil && last.doc.Sends != nil && age < sendsPause {
		doc.Sends, counted = last.doc.Sends, last.counted
	}
	var again <-chan time.Time
	if doc.Sends != nil {
		again = time.After(sendsPause - time.Since(counted))
	}
	if same := doc; session.ID == last.session {
		same.At = last.doc.At
		if reflect.DeepEqual(same, last.doc) {
			last.again, last.counted = again, counted
			return last
		}
	}
	if !session.Connected {
		last.again = nil
		return last // a reconnect wakes the loop
	}
	if wait := sayPause - time.Since(last.at); wait > 0 {
		last.again = time.After(wait)
		return last
	}
	ctx, cancel := context.WithTimeout(t.ctx, writeLimit)
	defer cancel()
	next := saying{doc: doc, at: time.Now(), session: session.ID, again: again, counted: counted}
	err := t.reg.Set(ctx, encode(doc))
	if errors.Is(err, errs.ErrNotFound) {
		err = t.settle(ctx) // a new session, or somebody has deleted it
	}
	if err != nil {
		if t.ctx.Err() == nil {
			t.log.Debug("participant node not written", zap.Error(err))
		}
		last.at, last.again = next.at, time.After(500*time.Millisecond)
		return last
	}
	return next
}

// document is the participant node's content now.
func (t *Topic) document() []byte { return encode(t.participant()) }

func encode(p metadata.Participant) []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic("a participant is always JSON: " + err.Error())
	}
	return b
}

// participant joins what the parts report: what all of them have applied, and what any of them is doing.
func (t *Topic) participant() metadata.Participant {
	t.mu.Lock()
	parts := slices.Collect(maps.Values(t.parts))
	var troubles []string
	for _, err := range []error{t.notWarmed, t.notSaved} {
		if err != nil {
			troubles = append(troubles, err.Error())
		}
	}
	for _, node := range []struct {
		known bool
		err   error
	}{{t.wish.Known, t.wish.Err}, {t.route.Known, t.route.Err}, {t.conf.Known, t.conf.Err}} {
		// That there is none is a trouble only where there was one.
		if node.err != nil && (node.known || !errors.Is(node.err, errs.ErrNotFound)) {
			troubles = append(troubles, node.err.Error())
		}
	}
	t.mu.Unlock()

	p := metadata.Participant{V: 1, Inflight: map[string]int64{}, Warm: []string{}, Groups: map[string]map[string]metadata.Participation{}, At: time.Now().UTC()}
	applied := metadata.Zxid(math.MaxInt64)
	if v := t.View(); v != nil {
		p.Write = v.Route.WriteOf(t.set.instance)
		applied = v.Zxid
		for _, cluster := range v.Route.Clusters() {
			if err := t.set.pool.Problem(cluster); err != nil {
				troubles = append(troubles, err.Error())
			}
		}
	}
	for _, part := range parts {
		r := part.Report()
		applied = min(applied, r.Zxid)
		if r.Write != "" {
			p.Write, p.Canary, p.Sender = r.Write, r.Canary, true
		}
		p.Held = p.Held || r.Held
		p.Warm = append(p.Warm, r.Warm...)
		for cluster, n := range r.Inflight {
			p.Inflight[cluster] += n
		}
		maps.Copy(p.Groups, r.Groups)
		if r.Sends != nil && p.Sends == nil {
			p.Sends = map[string]metadata.Sends{}
		}
		for cluster, s := range r.Sends {
			p.Sends[cluster] = p.Sends[cluster].Plus(s)
		}
		if r.Err != "" {
			troubles = append(troubles, r.Err)
		}
	}
	if len(parts) > 0 {
		p.Zxid = applied
	}
	slices.Sort(p.Warm)
	p.Warm = slices.Compact(p.Warm)
	slices.Sort(troubles)
	p.Error = strings.Join(slices.Compact(troubles), "; ")
	return p
}
