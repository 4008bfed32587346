package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/count"
)

// stressResult is what "stress run" prints.
type stressResult struct {
	Clean         bool             `json:"clean"`
	Reasons       []string         `json:"reasons"` // why not
	Interrupted   bool             `json:"interrupted"`
	Topic         string           `json:"topic"`
	ShadowTopic   string           `json:"shadowTopic"`
	Sent          int64            `json:"sent"`
	Acknowledged  int64            `json:"acknowledged"`
	Failed        int64            `json:"failed"`
	Bytes         int64            `json:"bytes"` // of keys and bodies
	Seconds       float64          `json:"seconds"`
	RateAsked     float64          `json:"rateAsked"`
	RateHeld      float64          `json:"rateHeld"`      // sends begun
	LongestLateMS float64          `json:"longestLateMs"` // the longest that a send began after it was due
	FirstMS       float64          `json:"firstMs"`       // the first send, before the clock started
	P50MS         float64          `json:"p50Ms"`         // from when a message was due to its acknowledgement
	P99MS         float64          `json:"p99Ms"`
	MaxMS         float64          `json:"maxMs"`
	Clusters      map[string]int64 `json:"clusters"` // acknowledged, by cluster
	Errors        []stressError    `json:"errors"`
	Groups        []stressGroup    `json:"groups"` // the shadow groups of the topic, by the group that each is of

	ended time.Time // when the last send was answered
}

// take takes the counts. No send is under way any more.
func (r *stressResult) take(s *loadStats) {
	r.Errors = s.failures()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Sent, r.Acknowledged, r.Failed, r.Bytes, r.Clusters = s.sent, s.answered, s.failed, s.bytes, s.clusters
	r.LongestLateMS, r.P50MS, r.P99MS, r.MaxMS = ms(s.late), ms(s.all.quantile(0.5)), ms(s.all.quantile(0.99)), ms(s.all.max)
}

// judge gives the verdict; drain is how long the groups had, unknown why it is not known how far they are.
func (r *stressResult) judge(drain time.Duration, unknown error) {
	r.Reasons = []string{}
	add := func(format string, args ...any) { r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...)) }
	if r.Failed > 0 {
		add("%d of %d sends failed", r.Failed, r.Sent)
	}
	missing := r.RateAsked*r.Seconds - float64(r.Sent-1) // the first one was sent before the clock started
	if r.RateHeld < (1-stressMissed)*r.RateAsked && missing > 1 {
		add("the rate held was %.1f of %g a second", r.RateHeld, r.RateAsked)
	}
	if unknown != nil {
		r.Groups = []stressGroup{} // [] in JSON, not null
		add("how far the shadow groups have come is not known: %s", flat(unknown))
	}
	for _, g := range r.Groups {
		if g.DeadLetters > 0 {
			add("the shadow group of %s has %d dead letters of this run", g.Group, g.DeadLetters)
		}
		switch {
		case len(g.EnabledBy) == 0 || drain == 0 || r.Interrupted || g.DrainedMS >= 0:
		case g.Error != "":
			add("how far the shadow group of %s has come is not known: %s", g.Group, g.Error)
		default:
			add("the shadow group of %s has not finished %s %v after the last one", g.Group, count.Of(g.left(), "message", "messages"), drain)
		}
	}
	r.Clean = len(r.Reasons) == 0
}

func (r *stressResult) text(w io.Writer) {
	verdict := "CLEAN: every send was acknowledged and the rate was held"
	if !r.Clean {
		verdict = "NOT CLEAN: " + strings.Join(r.Reasons, "; ")
	}
	if r.Interrupted {
		verdict += " (interrupted)"
	}
	fmt.Fprintf(w, "Verdict: %s\n\n", verdict)
	line := func(name, value, note string) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-14s %12s   %s", name, value, note), " "))
	}
	var on []string
	for _, cluster := range slices.Sorted(maps.Keys(r.Clusters)) {
		on = append(on, fmt.Sprintf("%d on %s", r.Clusters[cluster], cluster))
	}
	line("sent", fmt.Sprint(r.Sent), fmt.Sprintf("to %s in %.1f s, %d kB", r.ShadowTopic, r.Seconds, (r.Bytes+999)/1000))
	line("acknowledged", fmt.Sprint(r.Acknowledged), strings.Join(on, ", "))
	line("failed", fmt.Sprint(r.Failed), "")
	for _, e := range r.Errors {
		line("", fmt.Sprint(e.Count), e.Kind+", the first: "+oneLine([]byte(e.First)))
	}
	line("rate held", fmt.Sprintf("%.1f/s", r.RateHeld), fmt.Sprintf("of %g/s", r.RateAsked))
	line("latest", fmt.Sprintf("%.1f ms", r.LongestLateMS), "that a send began after it was due")
	line("latency", fmt.Sprintf("%.1f ms", r.P50MS), fmt.Sprintf("p50; p99 %.1f ms, longest %.1f ms, from when a message was due", r.P99MS, r.MaxMS))
	line("first", fmt.Sprintf("%.1f ms", r.FirstMS), "before the clock started; it opens the connections")
	if len(r.Groups) == 0 {
		return
	}
	fmt.Fprintln(w)
	row(w, "SHADOW GROUP OF", "ON BY", "UNREAD", "DELAYED", "RETRIES", "DEAD LETTERS", "FINISHED")
	for _, g := range r.Groups {
		finished := "no"
		switch {
		case g.Error != "":
			finished = oneLine([]byte(g.Error))
		case g.DrainedMS >= 0:
			finished = fmt.Sprintf("%.1f s after the last send", g.DrainedMS/1000)
		}
		row(w, g.Group, strings.Join(g.EnabledBy, ", "), g.Unread, g.Delayed, g.Retries, g.DeadLetters, finished)
	}
}

func msText(d time.Duration) string { return fmt.Sprintf("%.1f ms", ms(d)) }
