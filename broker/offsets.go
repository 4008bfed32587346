package broker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Offsets gives an offset to partitions, by name: Kafka "0", "1", …; RocketMQ "broker:queue". A nil map is "not
// said", an empty one names no partition; both are legal and differ.
//
// In JSON it is an array when the names are exactly 0 … n-1, else an object.
type Offsets map[string]int64

// MarshalJSON writes the shortest form.
func (o Offsets) MarshalJSON() ([]byte, error) {
	if o == nil {
		return []byte("null"), nil
	}
	list := make([]int64, len(o))
	for name, offset := range o {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(list) || strconv.Itoa(i) != name {
			return json.Marshal(map[string]int64(o))
		}
		list[i] = offset
	}
	return json.Marshal(list)
}

// UnmarshalJSON accepts both forms. Offsets are ≥ 0.
func (o *Offsets) UnmarshalJSON(b []byte) error {
	*o = nil
	switch b = bytes.TrimSpace(b); {
	case bytes.Equal(b, []byte("null")):
		return nil
	case len(b) > 0 && b[0] == '[':
		var list []int64
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		*o = make(Offsets, len(list))
		for i, offset := range list {
			(*o)[strconv.Itoa(i)] = offset
		}
	default:
		var m map[string]int64
		if err := json.Unmarshal(b, &m); err != nil {
			return err
		}
		*o = m
	}
	for name, offset := range *o {
		if offset < 0 {
			return fmt.Errorf("offset %d of partition %q: must be 0 or more", offset, name)
		}
	}
	return nil
}

// Clone returns a copy; nil stays nil.
func (o Offsets) Clone() Offsets { return maps.Clone(o) }

// Names are the partitions, numbers in their order.
func (o Offsets) Names() []string { return SortPartitions(slices.Collect(maps.Keys(o))) }

// Reached says whether every partition of end is at its offset or beyond in o. A partition at end 0 needs no position.
func (o Offsets) Reached(end Offsets) bool {
	for name, offset := range end {
		if offset > 0 && o[name] < offset {
			return false
		}
	}
	return true
}

// Missing sums what o lacks to end, partition by partition.
func (o Offsets) Missing(end Offsets) int64 {
	var n int64
	for name, offset := range end {
		n += max(0, offset-o[name])
	}
	return n
}

// SortPartitions sorts partition names in place, numbers by value, and returns them.
func SortPartitions(names []string) []string {
	slices.SortFunc(names, func(a, b string) int {
		i, erri := strconv.Atoi(a)
		j, errj := strconv.Atoi(b)
		if erri == nil && errj == nil {
			return i - j
		}
		if len(a) != len(b) && samePrefix(a, b) {
			return len(a) - len(b)
		}
		return bytes.Compare([]byte(a), []byte(b))
	})
	return names
}

// PerBroker is how many partitions a topic was created with: those of Kafka, or the queues of RocketMQ on the
// broker that has most.
func PerBroker(names []string) (most int) {
	of := map[string]int{}
	for _, name := range names {
		b := ""
		if _, err := strconv.Atoi(name); err != nil {
			b = name[:max(0, lastColon(name))]
		}
		of[b]++
		most = max(most, of[b])
	}
	return most
}

// samePrefix: two queues of one broker, which sort by number.
func samePrefix(a, b string) bool {
	i, j := lastColon(a), lastColon(b)
	return i >= 0 && i == j && a[:i] == b[:i]
}

func lastColon(s string) int { return bytes.LastIndexByte([]byte(s), ':') }
