package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/turnout-mq/turnout/internal/errs"
)

// moment is a time as it is stored: UTC, microseconds. As text it sorts and people can read it. The zero time is no time.
type moment time.Time

const momentFormat = "2006-01-02T15:04:05.000000Z"

func (m moment) Value() (driver.Value, error) {
	t := time.Time(m)
	if t.IsZero() {
		return nil, nil
	}
	return t.UTC().Format(momentFormat), nil
}

func (m *moment) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*m = moment{}
	case time.Time: // PostgreSQL
		*m = moment(v.UTC())
	case string: // SQLite
		t, err := time.Parse(momentFormat, v)
		if err != nil {
			return err
		}
		*m = moment(t)
	default:
		return fmt.Errorf("a time is stored as %T", src)
	}
	return nil
}

// stored is t as it will be read again; the zero time becomes now.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return t.UTC().Truncate(time.Microsecond)
}

func storedOrNil(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	s := stored(*t)
	return &s
}

func fromPointer(t *time.Time) moment {
	if t == nil {
		return moment{}
	}
	return moment(*t)
}

func (m moment) pointer() *time.Time {
	t := time.Time(m)
	if t.IsZero() {
		return nil
	}
	return &t
}

// document is JSON as it is stored: the text, unchanged.
type document json.RawMessage

func (d document) Value() (driver.Value, error) {
	if len(d) == 0 {
		return nil, nil
	}
	return string(d), nil
}

func (d *document) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*d = nil
	case string:
		*d = document(v)
	case []byte:
		*d = append(document(nil), v...)
	default:
		return fmt.Errorf("a document is stored as %T", src)
	}
	return nil
}

// id is a migration's number in the database and "m-17" for everybody else.
type id int64

func (i id) String() string { return label("m", int64(i)) }

func parseID(s string) (id, error) {
	n, err := parseLabel("migration", "m", s)
	return id(n), err
}

// label is how a row's number is written for everybody else: "m-17" of a migration, "t-3" of a token.
func label(letter string, n int64) string { return letter + "-" + strconv.FormatInt(n, 10) }

// parseLabel reads what label has written; kind says of what, for people.
func parseLabel(kind, letter, s string) (int64, error) {
	digits, found := strings.CutPrefix(s, letter+"-")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || n < 1 || label(letter, n) != s {
		return 0, fmt.Errorf("%s id %q is not acceptable; write it like %s: %w", kind, s, label(letter, 17), errs.ErrInvalid)
	}
	return n, nil
}

// check collects what is wrong with the fields of something.
type check []string

// name is a field that must be there and that must come back as it was.
func (c *check) name(field, value string) {
	switch {
	case value == "":
		*c = append(*c, field+" is empty")
	default:
		c.text(field, value)
	}
}

// text is a field that must come back as it was.
func (c *check) text(field, value string) {
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		*c = append(*c, fmt.Sprintf("%s is %q, which is not UTF-8 without NUL", field, value))
	}
}

// oneOf is a field with few values.
func oneOf[T ~string](c *check, field string, value T, allowed ...T) {
	var quoted []string
	for _, a := range allowed {
		if value == a {
			return
		}
		quoted = append(quoted, strconv.Quote(string(a)))
	}
	*c = append(*c, fmt.Sprintf("%s is %q; use %s", field, value, strings.Join(quoted, " or ")))
}

func (c *check) document(field string, d json.RawMessage) {
	if len(d) > 0 && (!json.Valid(d) || !utf8.Valid(d)) {
		*c = append(*c, field+" is not JSON in UTF-8")
	}
}

// err is nil or ErrInvalid with everything that is wrong.
func (c check) err(of string) error {
	if len(c) == 0 {
		return nil
	}
	return fmt.Errorf("store: %s: %s: %w", of, strings.Join(c, "; "), errs.ErrInvalid)
}

// readable makes text for people storable, whatever a broker put into its error.
func readable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
