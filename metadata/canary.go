package metadata

import "slices"

// Canary sends part of the traffic to another cluster, which has a stay without end. Instances and Keys are what is obeyed;
// both together: the keys of these instances are not asked for, all of their sends go there.
type Canary struct {
	Write     string   `json:"write"`
	Percent   int      `json:"percent"`   // of the instances that send; Instances has those that it is just now
	Instances []string `json:"instances"` // all sends of these instances
	Keys      []int    `json:"keys"`      // empty, or first and last of a range of 0 … 65535: sends with a key whose KeyHash is in it
	Extra     Extra    `json:"-"`
}

// KeyHash is where a key lies in the ranges of Canary and Hold: its 32-bit FNV-1a hash, the upper half xor the lower. A
// message without a key is in no range.
func KeyHash(key []byte) int {
	h := uint32(2166136261)
	for _, b := range key {
		h = (h ^ uint32(b)) * 16777619
	}
	return int(h>>16 ^ h&0xffff)
}

// InRange says whether a key is in a range of hashes, first and last; none is in an empty one.
func InRange(keys []int, key []byte) bool {
	if len(keys) != 2 || len(key) == 0 {
		return false
	}
	h := KeyHash(key)
	return keys[0] <= h && h <= keys[1]
}

// Pauses says whether sends with that key pause. A nil Hold pauses none.
func (h *Hold) Pauses(key []byte) bool {
	return h != nil && (len(h.Keys) == 0 || InRange(h.Keys, key))
}

// WriteOf is the cluster to which an instance sends what is not in the canary's range of keys.
func (r *Route) WriteOf(instance string) string {
	if r.Canary != nil && slices.Contains(r.Canary.Instances, instance) {
		return r.Canary.Write
	}
	return r.Write
}

// Writes says whether anybody sends to the cluster by this route.
func (r *Route) Writes(cluster string) bool {
	return cluster == r.Write || r.Canary != nil && cluster == r.Canary.Write
}

func (r *Route) validateCanary(p *problems) {
	c := r.Canary
	if c == nil {
		return
	}
	p.name("canary.write", c.Write)
	if c.Percent < 0 || c.Percent > 100 {
		p.add("canary.percent", c.Percent, "must be 0 to 100")
	}
	p.keys("canary.keys", c.Keys)
	if ValidName(c.Write) && (c.Write == r.Write || r.openStay(c.Write) < 0) {
		p.add("canary.write", c.Write, "must be another cluster than write, with a stay without end, or what is sent there is never read")
	}
}

// keys checks a range of key hashes.
func (p *problems) keys(field string, k []int) {
	if len(k) != 0 && (len(k) != 2 || k[0] < 0 || k[1] > 65535 || k[0] > k[1]) {
		p.add(field, k, "must be [] or [first,last] with 0 ≤ first ≤ last ≤ 65535")
	}
}

// MarshalJSON writes the canary with its Extra.
func (c Canary) MarshalJSON() ([]byte, error) { return encodeObject(c, c.Extra) }

// UnmarshalJSON reads it without validating.
func (c *Canary) UnmarshalJSON(b []byte) (err error) {
	c.Extra, err = decodeObject(b, c)
	return err
}
