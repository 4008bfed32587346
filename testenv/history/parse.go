package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// parse reads one line into e, which is empty.
func (e *Event) parse(line []byte, names map[string]string) error {
	if !e.parsePlain(line, names) {
		*e = Event{}
		if err := json.Unmarshal(line, e); err != nil {
			return err
		}
		e.intern(names)
	}
	return e.check()
}

// check says what the event lacks.
func (e *Event) check() error {
	if e.T <= 0 {
		return fmt.Errorf("t is %d: must be nanoseconds since 1970", e.T)
	}
	missing := func(fields ...string) error {
		for i := 0; i < len(fields); i += 2 {
			if fields[i+1] == "" {
				return fmt.Errorf("no %s: a line with op %q needs it", fields[i], e.Op)
			}
		}
		return nil
	}
	switch e.Op {
	case OpSend, OpOK, OpFail, OpUnknown, OpRecv, OpDone, OpRetry, OpRescue:
		if e.ID == "" {
			return errors.New("no id")
		}
		return nil
	case OpRoute, OpFence, OpOpen:
		return missing("topic", e.Topic, "cluster", e.Cluster)
	case OpSeal:
		if e.Offsets == nil {
			return errors.New(`no offsets: a seal says where each partition ends, such as {"0":9120,"1":8841}`)
		}
		return missing("topic", e.Topic, "cluster", e.Cluster)
	case OpMove:
		return missing("topic", e.Topic, "move", e.Move, "state", e.State)
	case OpKill:
		return missing("member", e.Member)
	case OpGroup:
		return missing("group", e.Group)
	}
	return fmt.Errorf("unknown op %q", e.Op)
}

// intern keeps one copy of each word that comes again and again.
func (e *Event) intern(names map[string]string) {
	for _, word := range []*string{&e.Topic, &e.Key, &e.Producer, &e.Group, &e.Member, &e.Cluster, &e.Partition, &e.Route, &e.Move, &e.State} {
		known, ok := names[*word]
		if !ok {
			known = *word
			names[known] = known
		}
		*word = known
	}
}

// parsePlain reads what the Recorder writes of nearly every event, several times faster than encoding/json: one object of
// known names in lower case, with whole numbers, booleans, and strings of ASCII without escapes. false: the line is something
// else, or damaged, and e may have been touched; encoding/json decides.
func (e *Event) parsePlain(line []byte, names map[string]string) bool {
	if len(line) < 2 || line[0] != '{' {
		return false
	}
	rest := line[1:]
	for {
		name, after, ok := plainString(rest)
		if !ok || len(after) == 0 || after[0] != ':' {
			return false
		}
		if rest, ok = e.setPlain(string(name), after[1:], names); !ok || len(rest) == 0 {
			return false
		}
		switch {
		case rest[0] == ',':
			rest = rest[1:]
		case rest[0] == '}' && len(rest) == 1:
			return true
		default:
			return false
		}
	}
}

// setPlain sets one field from the beginning of b.
func (e *Event) setPlain(name string, b []byte, names map[string]string) (rest []byte, ok bool) {
	word := func(p *string) {
		var text []byte
		if text, rest, ok = plainString(b); !ok {
			return
		}
		known, seen := names[string(text)]
		if !seen {
			known = string(text)
			names[known] = known
		}
		*p = known
	}
	var n int64
	switch name {
	case "t":
		e.T, rest, ok = plainNumber(b)
	case "seq":
		e.Seq, rest, ok = plainNumber(b)
	case "offset":
		e.Offset, rest, ok = plainNumber(b)
	case "attempt":
		n, rest, ok = plainNumber(b)
		e.Attempt = int(n)
		ok = ok && int64(e.Attempt) == n
	case "op":
		var text string
		word(&text)
		e.Op = Op(text)
	case "id":
		var text []byte
		text, rest, ok = plainString(b)
		e.ID = string(text)
	case "topic":
		word(&e.Topic)
	case "key":
		word(&e.Key)
	case "producer":
		word(&e.Producer)
	case "group":
		word(&e.Group)
	case "member":
		word(&e.Member)
	case "cluster":
		word(&e.Cluster)
	case "partition":
		word(&e.Partition)
	case "route":
		word(&e.Route)
	case "shadow":
		e.Shadow = true
		rest, ok = bytes.CutPrefix(b, []byte("true"))
	}
	return rest, ok
}

// plainString cuts a string of printable ASCII without escapes from the beginning of b.
func plainString(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i, c := range b[1:] {
		switch {
		case c == '"':
			return b[1 : i+1], b[i+2:], true
		case c < ' ' || c >= 0x7f || c == '\\':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// plainNumber cuts a whole number from the beginning of b. One of 19 digits that is too large shows as a negative n.
func plainNumber(b []byte) (n int64, rest []byte, ok bool) {
	i, negative := 0, false
	if len(b) > 0 && b[0] == '-' {
		i, negative = 1, true
	}
	first := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + int64(b[i]-'0')
		i++
		if i-first > 19 {
			return 0, nil, false
		}
	}
	if i == first || b[first] == '0' && i-first > 1 || n < 0 {
		return 0, nil, false
	}
	if negative {
		n = -n
	}
	return n, b[i:], true
}
