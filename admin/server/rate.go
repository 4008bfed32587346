package server

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
)

const (
	// DefaultRate is how many requests a second a user may make of a server: some ten times what turnout apply makes.
	DefaultRate = 500
	burstOf     = 2 // seconds of the rate that may come at once
	burstLeast  = 20
	sweepEvery  = time.Minute // who could make all at once again is forgotten
)

// rates bounds the requests that each user makes of this server, by all sessions and tokens together.
type rates struct {
	perSecond float64

	mu    sync.Mutex
	of    map[string]*rate.Limiter // by user
	swept time.Time
}

// wait is how long a user has to wait; 0: not at all, and the request is counted.
func (l *rates) wait(user string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > sweepEvery {
		for name, b := range l.of {
			if b.TokensAt(now) >= float64(b.Burst()) {
				delete(l.of, name)
			}
		}
		l.swept = now
	}
	b := l.of[user]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(l.perSecond), max(burstLeast, int(math.Ceil(l.perSecond*burstOf))))
		l.of[user] = b
	}
	r := b.ReserveN(now, 1)
	after := r.DelayFrom(now)
	if after > 0 {
		r.CancelAt(now)
	}
	return after
}

// bounded refuses requests of who makes too many. Those of nobody are bounded by the limits on attempts to log in.
func (s *server) bounded(next http.Handler) http.Handler {
	if s.cfg.NoLogin || s.cfg.Rate < 0 {
		return next
	}
	l := &rates{perSecond: s.cfg.Rate, of: map[string]*rate.Limiter{}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user := people.From(r.Context()).Name; user != "" {
			if after := l.wait(user, time.Now()); after > 0 {
				s.fail(w, r, api.TooMany(fmt.Sprintf("%s makes more than %v requests a second, by all sessions and tokens together: ask more slowly, or have the setting request-rate changed", user, s.cfg.Rate), after))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
