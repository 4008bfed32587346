package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/internal/errs"
)

// deepest is how many objects and lists of a document may be in each other.
const deepest = 64

// strictJSON reads documents of which nobody can think otherwise: readers differ in which of two fields of one name they
// take, and in what they make of text that is none.
var strictJSON = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(data []byte, into any) error {
		if err := strict(data); err != nil {
			return err
		}
		return json.Unmarshal(data, into)
	},
}

// strict says why a document is refused: bad UTF-8, a NUL in a text (which PostgreSQL does not store), a field that is there
// twice, too deep. The rest is said by who decodes it.
func strict(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("is not UTF-8")
	}
	type level struct {
		fields map[string]bool // of an object; nil: a list
		value  bool            // what comes next is the value of a field
	}
	var open []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // one that no float can hold is not this function's affair
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if text, is := token.(string); is && strings.ContainsRune(text, 0) {
			return errors.New("a text has a NUL character in it: leave it out")
		}
		if at := len(open) - 1; at >= 0 && open[at].fields != nil && token != json.Delim('}') {
			in := &open[at]
			if !in.value {
				name := token.(string) // the decoder takes nothing else there
				if in.fields[name] {
					return fmt.Errorf("field %.80q is there twice: give it once", name)
				}
				in.fields[name] = true
			}
			in.value = !in.value
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{fields: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > deepest {
			return fmt.Errorf("more than %d objects and lists are in each other", deepest)
		}
	}
}

// readable refuses paths and parameters that are no text, and parameters of which not everybody would take the same one.
func (s *server) readable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, err := url.ParseQuery(r.URL.RawQuery)
		texts := []string{r.URL.Path}
		for name, values := range query {
			texts = append(append(texts, name), values...)
			if len(values) > 1 && err == nil {
				err = fmt.Errorf("%.80q is there %d times: give it once, several values with commas", name, len(values))
			}
		}
		if err == nil && slices.ContainsFunc(texts, func(t string) bool { return !utf8.ValidString(t) || strings.ContainsRune(t, 0) }) {
			err = errors.New("is not UTF-8, or has a NUL character in it")
		}
		if err != nil {
			s.fail(w, r, fmt.Errorf("%w: path or parameters: %w", errs.ErrInvalid, err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// methods are those in which a server answers at a path.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// otherwise answers what no call does: there is nothing, or only in other methods.
func (s *server) otherwise(calls *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		path, allowed := "", []string(nil)
		for _, method := range methods {
			_, pattern := calls.Handler(&http.Request{Method: method, URL: r.URL, Host: r.Host})
			_, of, found := strings.Cut(pattern, " ")
			switch {
			case !found: // that of this function
			case path == "" || strings.Count(of, "{") < strings.Count(path, "{"): // a name that is said counts before one that may be any
				path, allowed = of, []string{method}
			case of == path:
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			s.fail(w, r, fmt.Errorf("%w: %s %s is nothing that this server answers; /api/v1/openapi.json says what is", errs.ErrNotFound, r.Method, r.URL.Path))
			return
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		s.fail(w, r, api.NewError(http.StatusMethodNotAllowed, fmt.Sprintf("%s %s: use %s", r.Method, r.URL.Path, strings.Join(allowed, " or "))))
	}
}
