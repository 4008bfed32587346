package producer

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Portable limits: what every kind of cluster can carry with the settings it comes with.
const (
	MaxMessage = 1_000_000 // bytes of key and body together
	MaxKey     = 7_000     // bytes of the key, which RocketMQ has among the headers
	MaxHeaders = 16_000    // bytes of all header names and values
)

// check says whether m may be sent. The portable limits do not apply to topics whose settings say so.
func (o *outlet) check(m *broker.Message) error {
	if m == nil {
		return fmt.Errorf("%w: message is nil", errs.ErrInvalid)
	}
	if err := o.wrongSide(o.topic.View()); err != nil {
		return err
	}
	if m.ID == "" && m.Headers == nil && m.Tag == "" && m.Delay == 0 && len(m.Body) > 0 && len(m.Key) <= MaxKey && len(m.Key)+len(m.Body) <= MaxMessage {
		return nil // the common case
	}
	var bad []error
	invalid := func(format string, args ...any) {
		bad = append(bad, fmt.Errorf("%w: "+format, append([]any{errs.ErrInvalid}, args...)...))
	}
	if m.ID != "" && !isID(m.ID) {
		invalid("ID %.40q: must be 32 lower-case hex digits, or empty", m.ID)
	}
	if strings.ContainsAny(m.Tag, " |\t\r\n\x01\x02") || len(m.Tag) > 128 || !utf8.ValidString(m.Tag) {
		invalid("Tag %.40q: must be one word of at most 128 bytes without '|'", m.Tag)
	}
	if m.Delay < 0 {
		invalid("Delay %v: must not be negative", m.Delay)
	}
	seen := make(map[string]bool, len(m.Headers))
	size := 0
	for _, h := range m.Headers {
		size += len(h.Name) + len(h.Value)
		switch {
		case h.Name == "":
			invalid("a header has no name")
		case broker.ReservedHeader(h.Name):
			invalid("header %q: the name is reserved, choose another", h.Name)
		case strings.ContainsAny(h.Name, "\x01\x02") || !utf8.ValidString(h.Name):
			invalid("header %.40q: the name must be UTF-8 without \\x01 and \\x02", h.Name)
		case seen[h.Name]:
			invalid("header %q: given twice, one value a name is allowed", h.Name)
		}
		seen[h.Name] = true
	}
	if o.portable() {
		if len(m.Body) == 0 {
			invalid("Body is empty: must be 1 byte or more (settings portable=false of the topic allow what its cluster can do)")
		}
		if n := len(m.Key) + len(m.Body); n > MaxMessage {
			bad = append(bad, fmt.Errorf("%w: key and body have %d bytes, at most %d are portable", errs.ErrTooLarge, n, MaxMessage))
		}
		if n := len(m.Key); n > MaxKey {
			bad = append(bad, fmt.Errorf("%w: the key has %d bytes, at most %d are portable", errs.ErrTooLarge, n, MaxKey))
		}
		if size > MaxHeaders {
			bad = append(bad, fmt.Errorf("%w: the headers have %d bytes, at most %d are portable", errs.ErrTooLarge, size, MaxHeaders))
		}
		if m.Delay > 0 {
			bad = append(bad, fmt.Errorf("%w: Delay %v: not every kind of cluster can delay; settings portable=false of the topic allow it where its cluster can", errs.ErrUnsupported, m.Delay))
		}
		for _, h := range m.Headers {
			if strings.ContainsAny(h.Value, "\x01\x02") || !utf8.ValidString(h.Value) {
				invalid("header %q: the value must be UTF-8 without \\x01 and \\x02", h.Name)
			}
		}
	}
	return errors.Join(bad...)
}

func isID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
