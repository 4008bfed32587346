package history

import "time"

// Rates counts events per cluster in spans of time of one width, as they come. It is for one goroutine.
type Rates struct {
	width   int64
	first   int64 // number of the first bucket since 1970
	buckets []Bucket
	begun   map[string]int64 // t of the sends without outcome
}

// Bucket is one span of time.
type Bucket struct {
	Start    time.Time       `json:"start"`
	Clusters map[string]Rate `json:"clusters"` // nil: nothing happened
	Errors   int             `json:"errors"`   // outcomes other than ok
	Longest  time.Duration   `json:"longestSendNs"`
}

// Rate is what one cluster did in one span.
type Rate struct {
	Acknowledged int `json:"acknowledged"` // outcomes ok
	Received     int `json:"received"`     // handlings begun, all groups
}

// maxBuckets bounds what a wrong clock can make Rates allocate.
const maxBuckets = 1 << 20

// NewRates counts in spans of width, which is at least a millisecond; shorter ones are made so long.
func NewRates(width time.Duration) *Rates {
	return &Rates{width: int64(max(width, time.Millisecond)), begun: map[string]int64{}}
}

// Add counts events. An event of a time before the first one's span, or further than a million spans after it, is not
// counted.
func (r *Rates) Add(events ...Event) {
	for _, e := range events {
		switch e.Op {
		case OpSend:
			r.begun[e.ID] = e.T
		case OpOK:
			if b := r.bucket(e.T); b != nil {
				b.add(e.Cluster, Rate{Acknowledged: 1})
				r.answered(b, e)
			}
		case OpFail, OpUnknown:
			if b := r.bucket(e.T); b != nil {
				b.Errors++
				r.answered(b, e)
			}
		case OpRecv:
			if b := r.bucket(e.T); b != nil {
				b.add(e.Cluster, Rate{Received: 1})
			}
		default: // nothing to count
		}
	}
}

// Buckets are the spans from the first event to the last, also those in which nothing happened. The slice is valid
// until the next Add.
func (r *Rates) Buckets() []Bucket { return r.buckets }

func (r *Rates) bucket(t int64) *Bucket {
	n := t / r.width
	if len(r.buckets) == 0 {
		r.first = n
	}
	i := n - r.first
	if i < 0 || i >= maxBuckets {
		return nil
	}
	for int64(len(r.buckets)) <= i {
		start := (r.first + int64(len(r.buckets))) * r.width
		r.buckets = append(r.buckets, Bucket{Start: time.Unix(0, start)})
	}
	return &r.buckets[i]
}

func (r *Rates) answered(b *Bucket, e Event) {
	if t, ok := r.begun[e.ID]; ok {
		b.Longest = max(b.Longest, time.Duration(e.T-t))
		delete(r.begun, e.ID)
	}
}

func (b *Bucket) add(cluster string, n Rate) {
	if b.Clusters == nil {
		b.Clusters = map[string]Rate{}
	}
	rate := b.Clusters[cluster]
	rate.Acknowledged += n.Acknowledged
	rate.Received += n.Received
	b.Clusters[cluster] = rate
}

// FirstAck is the first acknowledgement by cluster at or after a time; false: there is none. The events are in the order
// of time.
func FirstAck(events []Event, cluster string, after time.Time) (Event, bool) {
	for _, e := range events {
		if e.Op == OpOK && e.Cluster == cluster && e.T >= after.UnixNano() {
			return e, true
		}
	}
	return Event{}, false
}
