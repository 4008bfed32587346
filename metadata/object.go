package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
)

// MaxDocument is how many bytes a document may have.
const MaxDocument = 64 << 10

// version is the only document version that this code reads and writes.
const version = 1

// Extra holds the fields of a document that this version does not know, so that they survive a read-modify-write.
type Extra map[string]json.RawMessage

// decodeObject fills the fields of the struct that v points to from a JSON object, matching names exactly, and returns
// the fields it has no place for. Absent fields keep what v had, which is how defaults are applied. Every field of a
// wrong type is reported. A field with the tag show:"no" is reported without its value, which may be a secret that
// somebody put in the wrong place.
func decodeObject(data []byte, v any) (Extra, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("want a JSON object, not null")
	}
	var p problems
	rv := reflect.ValueOf(v).Elem()
	for i := range rv.NumField() {
		field := rv.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		raw, ok := fields[name]
		if name == "-" || !ok {
			continue
		}
		delete(fields, name)
		if err := json.Unmarshal(raw, rv.Field(i).Addr().Interface()); err != nil {
			var shown any = raw
			if field.Tag.Get("show") == "no" {
				shown = hidden
			}
			p.add(name, shown, "%v", err)
		}
	}
	if len(fields) == 0 {
		fields = nil
	}
	return fields, p.join()
}

// encodeObject writes the fields of the struct v in their order, then extra by name. Lists and maps that are nil are
// written empty, unless the tag says omitzero.
func encodeObject(v any, extra Extra) ([]byte, error) {
	var out bytes.Buffer
	put := func(name string, value []byte) {
		sep := byte(',')
		if out.Len() == 0 {
			sep = '{'
		}
		out.WriteByte(sep)
		key, _ := json.Marshal(name) // a string always encodes
		out.Write(key)
		out.WriteByte(':')
		out.Write(value)
	}
	rv := reflect.ValueOf(v)
	known := map[string]bool{}
	for i := range rv.NumField() {
		name, option, _ := strings.Cut(rv.Type().Field(i).Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		known[name] = true
		f := rv.Field(i)
		if option == "omitzero" && f.IsZero() {
			continue
		}
		var raw []byte
		var err error
		switch {
		case f.Kind() == reflect.Slice && f.IsNil():
			raw = []byte("[]")
		case f.Kind() == reflect.Map && f.IsNil():
			raw = []byte("{}")
		default:
			raw, err = json.Marshal(f.Interface())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		put(name, raw)
	}
	names := make([]string, 0, len(extra))
	for name := range extra {
		if !known[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		put(name, extra[name])
	}
	if out.Len() == 0 {
		return []byte("{}"), nil
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// document is what every parse function needs of its type.
type document interface {
	json.Unmarshaler
	Validate() error
}

// parseDocument decodes data into doc, which holds the defaults, and validates it. kind names it in errors.
func parseDocument(kind string, data []byte, doc document, versioned bool) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("%s: %w: %d bytes, at most %d", kind, errs.ErrTooLarge, len(data), MaxDocument)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return fmt.Errorf("%s: %w: it is blank; write a JSON object", kind, errs.ErrInvalid)
	}
	if versioned {
		var head struct {
			V json.RawMessage `json:"v"`
		}
		if json.Unmarshal(data, &head) == nil && head.V != nil && string(head.V) != "1" {
			return fmt.Errorf("%s: %w: v %s: this version of Turnout knows only v 1; upgrade it, or write v 1", kind, errs.ErrInvalid, show(head.V))
		}
	}
	if err := doc.UnmarshalJSON(data); err != nil {
		return fmt.Errorf("%s: %w: %w", kind, errs.ErrInvalid, err)
	}
	return doc.Validate()
}

// problems collects what is wrong with a document, so that all of it is said at once.
type problems []error

// hidden stands for a value that must not be shown.
var hidden = json.RawMessage("(not shown)")

// add notes that field has an unacceptable value; remedy says what would be acceptable.
func (p *problems) add(field string, value any, remedy string, args ...any) {
	*p = append(*p, fmt.Errorf("%s %s: %s", field, show(value), fmt.Sprintf(remedy, args...)))
}

func (p problems) join() error { return errors.Join(p...) }

// err is nil when there are none.
func (p problems) err(kind string) error {
	if len(p) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", kind, errs.ErrInvalid, p.join())
}

func (p *problems) version(v int) {
	if v != version {
		p.add("v", v, "must be %d", version)
	}
}

// show prints a value short enough for an error.
func show(value any) string {
	var s string
	switch v := value.(type) {
	case json.RawMessage:
		s = string(v)
	case string:
		s = fmt.Sprintf("%q", v)
	default:
		s = fmt.Sprint(v)
	}
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
