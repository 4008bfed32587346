package migrate

import (
	"slices"

	"github.com/turnout-mq/turnout/metadata"
)

// wanted is the route that a migration's state asks for, made of the one that is in force: a pure function, so that
// whoever leads writes the same one again or finds it there (R2).
func (m *migration) wanted(now metadata.Route) metadata.Route {
	d := &m.data
	r := now.Clone()
	r.Migration = m.ID
	r.Hold, r.Canary, r.Warm = nil, nil, nil
	r.Dead = d.dead()
	r.Stays = slices.DeleteFunc(r.Stays, func(s metadata.Stay) bool {
		return s.Cluster != r.Write && s.Cluster != d.Target.Cluster && d.lost(s.Cluster)
	})
	switch m.state() {
	case Preparing:
		r.Warm = []string{d.Target.Cluster}
		m.openTarget(&r)
	case Holding:
		r.Warm = []string{d.Target.Cluster}
		r.Hold = &metadata.Hold{MS: m.plan.Hold}
		m.canaryHold(&r)
	case Canarying:
		m.openTarget(&r)
		m.canaryRoute(&r)
	case Fencing:
		r.Warm, r.Hold, r.Canary = now.Warm, now.Hold, now.Canary
	case Switching:
		m.openTarget(&r)
		r.Write = d.Target.Cluster
		if m.ordered() {
			m.seal(&r) // R19, R20
		}
	case Pending, Sealing, Draining, Shutting:
		r.Write = d.Target.Cluster
		if m.plan.Force && !d.Reverse { // an edit of the wish puts the target last
			m.openTarget(&r)
		}
		m.seal(&r)
	case Closing:
		r.Write = d.Target.Cluster
		m.seal(&r)
		r.Stays = slices.DeleteFunc(r.Stays, func(s metadata.Stay) bool {
			src := d.source(s.Cluster)
			return src != nil && s.Cluster != r.Write && len(src.Sleeping) == 0
		})
	case Planned, Done: // nothing is asked for
	case Reverting:
		if !d.Target.Listed && r.Write != d.Target.Cluster {
			r.Stays = slices.DeleteFunc(r.Stays, func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster && s.Open() })
		}
	}
	return r
}

// openTarget puts an open stay of the target last; by force first: what is sealed, or will be when it is back, keeps nobody from
// reading the target, because the order is suspended anyhow. On the way back of an unordered topic the stay that was sealed
// is open again: its positions are right as they are (R32).
func (m *migration) openTarget(r *metadata.Route) {
	d := &m.data
	is := func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster && s.Open() }
	stay := metadata.Stay{Cluster: d.Target.Cluster, Start: d.Target.Start.Clone()}
	forced := m.plan.Force && !d.Reverse
	if i := slices.IndexFunc(r.Stays, is); i >= 0 {
		if forced && i == 0 || !forced && i == len(r.Stays)-1 {
			return
		}
		stay = r.Stays[i]
		r.Stays = slices.Delete(r.Stays, i, i+1)
	} else if d.Reverse && !m.Ordered {
		if i := slices.IndexFunc(r.Stays, func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster }); i >= 0 {
			stay = r.Stays[i]
			stay.End = nil
			r.Stays = slices.DeleteFunc(r.Stays, func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster })
		}
	}
	if forced {
		r.Stays = slices.Insert(r.Stays, 0, stay)
		return
	}
	r.Stays = append(r.Stays, stay)
}

// seal gives the open stays of the sources the end that was read behind the fence.
func (m *migration) seal(r *metadata.Route) {
	for i, s := range r.Stays {
		if src := m.data.source(s.Cluster); src != nil && src.Seal != nil && !src.Emptied && s.Open() && s.Cluster != r.Write {
			r.Stays[i].End = src.Seal.Clone()
		}
	}
}
