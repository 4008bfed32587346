package remoting

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// The JSON codec's header. Almost all headers are flat, plain and ASCII; those are read and written here without
// reflection, which is what a send costs most otherwise. The rest goes through encoding/json, with the same result.

type jsonHeader struct {
	Code     int               `json:"code"`
	Language string            `json:"language"`
	Version  int               `json:"version"`
	Opaque   int32             `json:"opaque"`
	Flag     int32             `json:"flag"`
	Remark   string            `json:"remark,omitempty"`
	Fields   map[string]string `json:"extFields,omitempty"`
	Codec    string            `json:"serializeTypeCurrentRPC"`
}

func (c *Command) appendJSON(b []byte) []byte {
	number := func(name string, n int64) {
		b = append(append(b, name...), ':')
		b = append(strconv.AppendInt(b, n, 10), ',')
	}
	b = append(b, '{')
	number(`"code"`, int64(c.Code))
	number(`"version"`, int64(c.Version))
	number(`"opaque"`, int64(c.Opaque))
	number(`"flag"`, int64(c.Flag))
	b = append(b, `"language":`...)
	b = appendText(b, c.Language)
	if c.Remark != "" {
		b = append(b, `,"remark":`...)
		b = appendText(b, c.Remark)
	}
	if len(c.Fields) > 0 {
		b = append(b, `,"extFields":{`...)
		for i, k := range slices.Sorted(maps.Keys(c.Fields)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, k), ':')
			b = appendText(b, c.Fields[k])
		}
		b = append(b, '}')
	}
	return append(b, `,"serializeTypeCurrentRPC":"JSON"}`...)
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] >= 0x7f {
			text, _ := json.Marshal(s) // of a string it never fails
			return append(b, text...)
		}
	}
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch ch := s[i]; {
		case ch == '"' || ch == '\\':
			b = append(b, '\\', ch)
		case ch < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[ch>>4], hex[ch&15])
		default:
			b = append(b, ch)
		}
	}
	return append(b, '"')
}

func (c *Command) parseJSON(b []byte) error {
	h, plain := parsePlain(b)
	if !plain {
		h = jsonHeader{}
		if err := json.Unmarshal(b, &h); err != nil {
			return fmt.Errorf("%w: header: %w", ErrFrame, err)
		}
	}
	c.Code, c.Language, c.Version, c.Opaque, c.Flag = h.Code, h.Language, h.Version, h.Opaque, h.Flag
	c.Remark, c.Fields = h.Remark, h.Fields
	return nil
}

// parsePlain reads a header that is plain; false: it may still be a good one.
func parsePlain(b []byte) (h jsonHeader, ok bool) {
	r := plain{b: b}
	r.object(func(key string) {
		switch key {
		case "code":
			h.Code = int(r.number())
		case "version":
			h.Version = int(r.number())
		case "opaque":
			h.Opaque = r.number()
		case "flag":
			h.Flag = r.number()
		case "language":
			h.Language = r.text()
		case "remark":
			h.Remark = r.text()
		case "serializeTypeCurrentRPC":
			h.Codec = r.text()
		case "extFields":
			if h.Fields == nil {
				h.Fields = make(map[string]string, 16)
			}
			r.object(func(name string) { h.Fields[name] = r.text() })
		default:
			r.odd = true
		}
	})
	return h, !r.odd && r.peek() == 0 && r.at == len(r.b)
}

// plain reads simple JSON; once something is not simple it stays odd and gives zeros.
type plain struct {
	b   []byte
	at  int
	odd bool
}

// peek is the next byte that is no space; 0 at the end.
func (r *plain) peek() byte {
	for ; r.at < len(r.b); r.at++ {
		if ch := r.b[r.at]; ch != ' ' && ch != '\n' && ch != '\r' && ch != '\t' {
			return ch
		}
	}
	return 0
}

func (r *plain) take(ch byte) bool {
	if r.odd || r.peek() != ch {
		r.odd = true
		return false
	}
	r.at++
	return true
}

func (r *plain) object(member func(key string)) {
	if !r.take('{') {
		return
	}
	if r.peek() == '}' {
		r.at++
		return
	}
	for {
		key := r.text()
		if !r.take(':') {
			return
		}
		member(key)
		if r.odd {
			return
		}
		if r.peek() != ',' {
			r.take('}')
			return
		}
		r.at++
	}
}

// number reads at most nine digits.
func (r *plain) number() int32 {
	r.peek()
	start := r.at
	if r.at < len(r.b) && r.b[r.at] == '-' {
		r.at++
	}
	digits := r.at
	for r.at < len(r.b) && r.b[r.at] >= '0' && r.b[r.at] <= '9' {
		r.at++
	}
	n := r.at - digits
	if r.odd || n == 0 || n > 9 || n > 1 && r.b[digits] == '0' {
		r.odd = true
		return 0
	}
	v, _ := strconv.ParseInt(string(r.b[start:r.at]), 10, 32)
	return int32(v)
}

func (r *plain) text() string {
	if !r.take('"') {
		return ""
	}
	start := r.at
	for ; r.at < len(r.b); r.at++ {
		switch ch := r.b[r.at]; {
		case ch == '"':
			r.at++
			return string(r.b[start : r.at-1])
		case ch == '\\':
			return r.escaped(start)
		case ch < ' ' || ch >= 0x80:
			r.odd = true
			return ""
		}
	}
	r.odd = true
	return ""
}

// escaped goes on with a text that began at start and has a backslash here.
func (r *plain) escaped(start int) string {
	out := append(make([]byte, 0, 2*(r.at-start)+64), r.b[start:r.at]...)
	for r.at < len(r.b) {
		ch := r.b[r.at]
		r.at++
		switch {
		case ch == '"':
			return string(out)
		case ch < ' ' || ch >= 0x80:
			r.odd = true
			return ""
		case ch != '\\':
			out = append(out, ch)
			continue
		}
		rest := r.b[r.at:]
		switch {
		case len(rest) > 0 && (rest[0] == '"' || rest[0] == '\\' || rest[0] == '/'):
			out = append(out, rest[0])
			r.at++
		case len(rest) > 4 && rest[0] == 'u' && rest[1] == '0' && rest[2] == '0' && rest[3] >= '0' && rest[3] <= '7' && hexDigit(rest[4]) >= 0:
			out = append(out, (rest[3]-'0')<<4|byte(hexDigit(rest[4])))
			r.at += 5
		default:
			r.odd = true
			return ""
		}
	}
	r.odd = true
	return ""
}

func hexDigit(ch byte) int {
	switch {
	case ch >= '0' && ch <= '9':
		return int(ch - '0')
	case ch >= 'a' && ch <= 'f':
		return int(ch-'a') + 10
	case ch >= 'A' && ch <= 'F':
		return int(ch-'A') + 10
	}
	return -1
}
