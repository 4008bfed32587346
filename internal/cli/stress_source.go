package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/internal/errs"
)

// stressSource makes the message with number seq, from 1, that is due at a time. It is for one goroutine.
type stressSource func(seq int64, due time.Time) (*turnout.Message, error)

// stressTemplates are the flags that make messages.
type stressTemplates struct {
	key, body, tag string
	headers        []string // name=value
}

// stressFields are what templates see.
type stressFields struct {
	Seq  int64     // number of the message, from 1
	Time time.Time // when it is due
}

// Rand is a random number from 0 to below of[0], or any that is not negative.
func (stressFields) Rand(of ...int64) (int64, error) {
	switch {
	case len(of) == 0:
		return rand.Int64(), nil
	case len(of) == 1 && of[0] > 0:
		return rand.Int64N(of[0]), nil
	}
	return 0, fmt.Errorf(".Rand %v: give no number, or one of 1 or more", of)
}

// UUID is a new one.
func (stressFields) UUID() string { return uuid.NewString() }

// fromTemplates makes messages of templates, which are tried once.
func fromTemplates(t stressTemplates) (stressSource, error) {
	key, err := parseTemplate("key", t.key)
	if err != nil {
		return nil, err
	}
	body, err := parseTemplate("body", t.body)
	if err != nil {
		return nil, err
	}
	type header struct {
		name  string
		value *template.Template
	}
	var headers []header
	for _, text := range t.headers {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usagef("--header %q: must be name=value", text)
		}
		v, err := parseTemplate("header", value)
		if err != nil {
			return nil, err
		}
		headers = append(headers, header{name, v})
	}
	var out bytes.Buffer
	fill := func(t *template.Template, f stressFields) (string, error) {
		out.Reset()
		err := t.Execute(&out, f)
		return out.String(), err
	}
	source := func(seq int64, due time.Time) (*turnout.Message, error) {
		f := stressFields{seq, due}
		m := &turnout.Message{Tag: t.tag}
		text, err := fill(key, f)
		if err != nil {
			return nil, err
		}
		if text != "" {
			m.Key = []byte(text)
		}
		if text, err = fill(body, f); err != nil {
			return nil, err
		}
		m.Body = []byte(text)
		for _, h := range headers {
			if text, err = fill(h.value, f); err != nil {
				return nil, err
			}
			m.Headers = append(m.Headers, turnout.Header{Name: h.name, Value: text})
		}
		return m, nil
	}
	if _, err := source(1, time.Now()); err != nil {
		return nil, usagef("%w; the fields are .Seq .Time .Rand .UUID, the language is that of Go's text/template", err)
	}
	return source, nil
}

func parseTemplate(flag, text string) (*template.Template, error) {
	t, err := template.New("--" + flag).Parse(text)
	if err != nil {
		return nil, usagef("--%s %q is no template: %w", flag, text, err)
	}
	return t, nil
}

// Bounds of what --from reads into memory.
const (
	stressFileMost = 256 << 20
	stressLineMost = 4 << 20
)

// fromFile repeats the messages of a file, one JSON object a line, as "turnout tail --output json" prints them. "-" is standard input.
func (a *app) fromFile(path string) (stressSource, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("--from: %w", err)
		}
		defer f.Close()
		in = f
	}
	var messages []turnout.Message
	limited := &io.LimitedReader{R: in, N: stressFileMost + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, stressLineMost)
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		m, err := parseMessage(lines.Bytes())
		if limited.N == 0 {
			break // it may be cut
		}
		if err != nil {
			return nil, fmt.Errorf("%w: --from %s:%d: %w", errs.ErrInvalid, path, n, err)
		}
		messages = append(messages, m)
	}
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("--from %s: %w: more than %d MB; give a part of it, it is repeated", path, errs.ErrTooLarge, stressFileMost>>20)
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return nil, fmt.Errorf("--from %s:%d: %w: the line is longer than %d MB", path, n+1, errs.ErrTooLarge, stressLineMost>>20)
	case lines.Err() != nil:
		return nil, fmt.Errorf("%w: --from %s:%d: %w", errs.ErrInvalid, path, n+1, lines.Err())
	case len(messages) == 0:
		return nil, fmt.Errorf("%w: --from %s: there is no message in it", errs.ErrInvalid, path)
	}
	return func(seq int64, _ time.Time) (*turnout.Message, error) {
		m := messages[(seq-1)%int64(len(messages))]
		return &m, nil
	}, nil
}

// parseMessage reads a line of --from. What tail says beside the message (id, topic, cluster …) is left out.
func parseMessage(line []byte) (turnout.Message, error) {
	var l deliveryLine
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return turnout.Message{}, fmt.Errorf(`%w; a line is like {"key":"k","body":"text","headers":{"name":"value"},"tag":""}`, err)
	}
	m := turnout.Message{Key: l.KeyBase64, Body: l.BodyBase64, Tag: l.Tag}
	if l.Key != nil {
		m.Key = []byte(*l.Key)
	}
	if l.Body != nil {
		m.Body = []byte(*l.Body)
	}
	if len(m.Body) == 0 {
		return m, fmt.Errorf("there is no body; a message needs one of 1 byte or more")
	}
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		m.Headers = append(m.Headers, turnout.Header{Name: name, Value: l.Headers[name]})
	}
	return m, nil
}
