// Package carrier reads and writes the stress mark where a request carries it: in the header (gRPC: metadata) shadow.Header,
// and as a member of the W3C header baggage.
package carrier

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/shadow"
)

// Baggage is the name of the W3C header.
const Baggage = "baggage"

// Marked says whether a request carries the mark; values returns all values of a header. An error: a mark is there that is
// neither shadow.HeaderValue nor a clear no (empty, 0). Whoever sent it meant something, so it must not pass for
// production traffic.
func Marked(values func(header string) []string) (bool, error) {
	marks := slices.Clone(values(shadow.Header))
	for _, member := range members(values(Baggage)) {
		if key, value := split(member); key == shadow.BaggageKey {
			marks = append(marks, value)
		}
	}
	var unclear error
	for _, mark := range marks {
		switch mark = strings.TrimSpace(mark); mark {
		case shadow.HeaderValue:
			return true, nil
		case "", "0":
		default:
			unclear = fmt.Errorf("%s %.40q: must be %q for stress traffic; leave it out for production traffic", shadow.Header, mark, shadow.HeaderValue)
		}
	}
	return false, unclear
}

// WithMember returns a value of the header baggage: what is in values, with the member of the mark. It comes first, for who
// receives more than it takes drops what comes last.
func WithMember(values []string) string {
	all := slices.DeleteFunc(members(values), func(member string) bool {
		key, _ := split(member)
		return key == shadow.BaggageKey
	})
	return strings.Join(slices.Insert(all, 0, shadow.BaggageKey+"="+shadow.HeaderValue), ",")
}

// members are those of a list that are not blank. They are cut apart and not parsed, so that one that breaks the standard
// costs neither the mark nor the others.
func members(values []string) (all []string) {
	for member := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if member = strings.TrimSpace(member); member != "" {
			all = append(all, member)
		}
	}
	return all
}

// split cuts a member into its key and its value, without properties.
func split(member string) (key, value string) {
	member, _, _ = strings.Cut(member, ";")
	key, value, _ = strings.Cut(member, "=")
	value = strings.TrimSpace(value)
	if plain, err := url.PathUnescape(value); err == nil {
		value = plain
	}
	return strings.TrimSpace(key), value
}
