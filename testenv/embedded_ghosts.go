package testenv

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const rebalanceInProgress = 27 // the error code, https://kafka.apache.org/protocol#protocol_error_codes

// expelGhosts makes kfake notice members that have died while their JoinGroup was under way. Apache Kafka expects the first
// heartbeat of every member that has joined; kfake does of those whose connection took the answer, so the partitions of another
// would be nobody's for good. When a stable group has a member that is not heard of for two sessions, the others are told to
// join again, and who does not is left out.
func expelGhosts(c *kfake.Cluster) {
	type group struct {
		session time.Duration
		epoch   int32
		heard   map[string]time.Time // of the members of that epoch
	}
	var mu sync.Mutex
	groups := map[string]*group{}
	c.ControlKey(int16(kmsg.JoinGroup), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.JoinGroupRequest)
		mu.Lock()
		defer mu.Unlock()
		if groups[req.Group] == nil {
			groups[req.Group] = &group{}
		}
		g := groups[req.Group]
		g.session = max(g.session, time.Duration(req.SessionTimeoutMillis)*time.Millisecond)
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.Heartbeat), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.HeartbeatRequest)
		info := c.GroupInfo(req.Group)
		mu.Lock()
		defer mu.Unlock()
		g, now := groups[req.Group], time.Now()
		if g == nil || info == nil || info.State != "Stable" {
			return nil, nil, false
		}
		if g.heard == nil || g.epoch != info.Epoch {
			g.epoch, g.heard = info.Epoch, map[string]time.Time{}
			for _, m := range info.Members {
				g.heard[m.MemberID] = now
			}
		}
		g.heard[req.MemberID] = now
		for _, m := range info.Members {
			if now.Sub(g.heard[m.MemberID]) > 2*g.session {
				resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
				resp.ErrorCode = rebalanceInProgress
				return resp, nil, true
			}
		}
		return nil, nil, false
	})
}
