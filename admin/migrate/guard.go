package migrate

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Guard is a limit that a migration is watched by, and what is done when it is exceeded.
type Guard struct {
	State State    `json:"state,omitempty" doc:"the state that it watches; any or empty: every one" example:"draining"`
	What  Watched  `json:"what" enum:"time,errors,p99,lag" doc:"time: in the state. errors: share of attempts to send to the new cluster that fail; in the state canary, what it is above that of the cluster that is left. p99: how many times that of the cluster that is left the time is in which the new one takes 99 % of the attempts. lag: unread messages of any group on all clusters of the topic"`
	Limit string   `json:"limit" doc:"what is more is a breach. time: a duration of 1s or more, 30m; errors: 1%; p99: a factor above 1; lag: messages" example:"30m"`
	Do    Reaction `json:"do" enum:"page,pause,rollback" doc:"page: an event, and the webhook is told. pause and rollback: that, and as if somebody had asked for it"`
}

// Watched is what a guard looks at.
type Watched string

// What guards look at.
const (
	WatchTime   Watched = "time"
	WatchErrors Watched = "errors"
	WatchP99    Watched = "p99"
	WatchLag    Watched = "lag"
)

// Reaction is what a guard does.
type Reaction string

// The reactions.
const (
	Page         Reaction = "page"
	PauseIt      Reaction = "pause"
	RollBackToIt Reaction = "rollback"
)

const anyState = "any"

// ParseGuard reads what String writes: STATE:WHAT=LIMIT:DO, such as draining:time=30m:pause. ErrInvalid names what is wrong.
func ParseGuard(text string) (Guard, error) {
	parts := strings.Split(text, ":")
	what, limit, found := "", "", false
	if len(parts) == 3 {
		what, limit, found = strings.Cut(parts[1], "=")
	}
	if !found {
		return Guard{}, fmt.Errorf("%w: guard %q: must be STATE:WHAT=LIMIT:DO, such as draining:time=30m:pause or any:errors=5%%:rollback", errs.ErrInvalid, text)
	}
	g := Guard{State: State(parts[0]), What: Watched(what), Limit: limit, Do: Reaction(parts[2])}
	if g.State == "" {
		return Guard{}, fmt.Errorf("%w: guard %q: names no state: write any for every one", errs.ErrInvalid, text)
	}
	return g, g.Check()
}

// String is the guard as ParseGuard takes it.
func (g Guard) String() string {
	state := g.State
	if state == "" {
		state = anyState
	}
	return fmt.Sprintf("%s:%s=%s:%s", state, g.What, g.Limit, g.Do)
}

// Check is nil, or ErrInvalid with the field, its value and what it may be.
func (g Guard) Check() error {
	bad := func(field string, value any, remedy string) error {
		return fmt.Errorf("%w: guard %s: %s is %q: %s", errs.ErrInvalid, g, field, value, remedy)
	}
	if states := watchable(); !g.always() && !slices.Contains(states, string(g.State)) {
		remedy := "must be any, " + strings.Join(states, ", ")
		if g.State == Holding || g.State == Fencing {
			remedy = "how long sends may pause is limited by hold; then it goes back by itself"
		}
		return bad("state", g.State, remedy)
	}
	limit, err := g.limit()
	switch g.What {
	case WatchTime:
		if err != nil || limit < 1 {
			return bad("limit", g.Limit, "must be a duration of 1s or more, such as 30m")
		}
	case WatchErrors:
		if err != nil || limit <= 0 || limit >= 1 {
			return bad("limit", g.Limit, "must be above 0% and below 100%, such as 1%")
		}
	case WatchP99:
		if err != nil || limit <= 1 {
			return bad("limit", g.Limit, "must be a factor above 1, such as 2.5")
		}
	case WatchLag:
		if err != nil || limit < 0 || limit != math.Trunc(limit) {
			return bad("limit", g.Limit, "must be a number of messages, such as 100000")
		}
	default:
		return bad("what", g.What, "must be time, errors, p99 or lag")
	}
	if g.What != WatchTime && g.State == Planned || (g.What == WatchErrors || g.What == WatchP99) && slices.Contains([]State{Preparing, Reverting}, g.State) {
		return bad("what", g.What, fmt.Sprintf("nothing is sent to the new cluster in the state %s: watch another state, or its time", g.State))
	}
	switch g.Do {
	case Page, PauseIt:
	case RollBackToIt:
		if g.State == Closing || g.State == Reverting {
			return bad("do", g.Do, fmt.Sprintf("there is no way back from the state %s: use page or pause", g.State))
		}
	default:
		return bad("do", g.Do, "must be page, pause or rollback")
	}
	return nil
}

// watchable are the states that a guard may watch.
func watchable() (states []string) {
	for s := range edges {
		if s.guarded() {
			states = append(states, string(s))
		}
	}
	slices.Sort(states)
	return states
}

// guarded: guards look in this state. How long sends pause is limited by hold.
func (s State) guarded() bool { return s != Holding && s != Fencing && s != Done }

func (g Guard) always() bool { return g.State == "" || g.State == anyState }

// in says whether the guard watches a state.
func (g Guard) in(s State) bool { return s.guarded() && (g.always() || g.State == s) }

// limit is Limit as a number: seconds, a share, a factor, messages.
func (g Guard) limit() (float64, error) {
	if g.What == WatchTime {
		d, err := time.ParseDuration(g.Limit)
		return d.Seconds(), err
	}
	text, percent := g.Limit, 1.0
	if g.What == WatchErrors {
		var found bool
		if text, found = strings.CutSuffix(text, "%"); !found {
			return 0, strconv.ErrSyntax
		}
		percent = 100
	}
	n, err := strconv.ParseFloat(text, 64)
	if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
		err = strconv.ErrRange
	}
	return n / percent, err
}

// CheckGuards is nil, or ErrInvalid with all that is wrong with the guards of a plan.
func CheckGuards(guards []Guard) error {
	const most = 32
	if len(guards) > most {
		return fmt.Errorf("%w: guards: there are %d: give at most %d", errs.ErrInvalid, len(guards), most)
	}
	for i, g := range guards {
		if err := g.Check(); err != nil {
			return fmt.Errorf("guards[%d]: %w", i, err)
		}
		for _, other := range guards[:i] {
			if other.String() == g.String() {
				return fmt.Errorf("%w: guards[%d]: guard %s is there twice: leave one out", errs.ErrInvalid, i, g)
			}
		}
	}
	return nil
}
