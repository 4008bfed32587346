package remoting

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// unmarshal reads the JSON of a Java server, which is not always JSON: map keys may be numbers, {0:"addr"}, or whole
// objects, {{"queueId":0}:{…}}. Such a key arrives as the string of its text.
func unmarshal(b []byte, v any) error {
	if json.Unmarshal(b, v) == nil {
		return nil
	}
	s, err := standardJSON(b)
	if err != nil {
		return err
	}
	return json.Unmarshal(s, v)
}

const maxDepth = 64

func standardJSON(b []byte) ([]byte, error) {
	r := relaxed{in: b}
	r.value(0)
	r.space()
	if r.err == nil && r.at < len(r.in) {
		r.fail("more after the end")
	}
	return r.out.Bytes(), r.err
}

type relaxed struct {
	in  []byte
	at  int
	out bytes.Buffer
	err error
}

func (r *relaxed) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("JSON at byte %d: %s", r.at, what)
	}
}

func (r *relaxed) space() {
	for r.at < len(r.in) && strings.IndexByte(" \t\r\n", r.in[r.at]) >= 0 {
		r.at++
	}
}

// peek is the next byte that is no space; 0 at the end or after a failure.
func (r *relaxed) peek() byte {
	r.space()
	if r.err != nil || r.at >= len(r.in) {
		return 0
	}
	return r.in[r.at]
}

func (r *relaxed) take(c byte) {
	if r.peek() != c {
		r.fail(fmt.Sprintf("%q expected", c))
		return
	}
	r.at++
	r.out.WriteByte(c)
}

func (r *relaxed) value(depth int) {
	if depth > maxDepth {
		r.fail("too deep")
		return
	}
	switch r.peek() {
	case '{':
		r.list('{', '}', func() {
			r.key(depth)
			r.take(':')
			r.value(depth + 1)
		})
	case '[':
		r.list('[', ']', func() { r.value(depth + 1) })
	case '"':
		r.text()
	default:
		r.out.Write(r.token())
	}
}

func (r *relaxed) list(open, end byte, item func()) {
	r.take(open)
	for first := true; r.err == nil && r.peek() != end; first = false {
		if !first {
			r.take(',')
		}
		item()
	}
	r.take(end)
}

func (r *relaxed) key(depth int) {
	var key []byte
	switch r.peek() {
	case '"':
		r.text()
		return
	case '{', '[':
		outer := r.out
		r.out = bytes.Buffer{}
		r.value(depth + 1)
		key = r.out.Bytes()
		r.out = outer
	default:
		key = r.token()
	}
	quoted, err := json.Marshal(string(key))
	if err != nil {
		r.fail(err.Error())
	}
	r.out.Write(quoted)
}

func (r *relaxed) text() {
	start := r.at
	for r.at++; r.at < len(r.in) && r.in[r.at] != '"'; r.at++ {
		if r.in[r.at] == '\\' {
			r.at++
		}
	}
	if r.at >= len(r.in) {
		r.fail("string without end")
		return
	}
	r.at++
	r.out.Write(r.in[start:r.at])
}

func (r *relaxed) token() []byte {
	start := r.at
	for r.at < len(r.in) && strings.IndexByte(" \t\r\n,:{}[]\"", r.in[r.at]) < 0 {
		r.at++
	}
	if start == r.at {
		r.fail("value expected")
	}
	return r.in[start:r.at]
}
