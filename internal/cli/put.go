package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const fileUsage = `JSON document that replaces the present one, before the other flags; - is standard input. What "get --output json" printed is accepted too, and refused when somebody changed the document since`

// input is what --file holds.
type input struct {
	document json.RawMessage // nil: no --file
	zxid     metadata.Zxid   // of the document that was printed; 0: not said
}

func (a *app) readInput(file string) (input, error) {
	if file == "" {
		return input{}, nil
	}
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(a.stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return input{}, usagef("--file: %w", err)
	}
	var printed struct {
		Zxid     metadata.Zxid   `json:"zxid"`
		Document json.RawMessage `json:"document"`
	}
	if json.Unmarshal(data, &printed) == nil && printed.Document != nil {
		return input{printed.Document, printed.Zxid}, nil
	}
	return input{document: data}, nil
}

// documents is how documents of a kind are read and written. update changes one that exists by compare-and-set.
type documents[T any] struct {
	kind   string
	get    func(ctx context.Context, name string) (T, metadata.Node, error)
	update func(ctx context.Context, name string, change func(*T) error) error
	put    func(ctx context.Context, name string, doc T) error // creates one, or replaces one that is not valid
	fresh  func() T
}

// put creates or changes a document: --file, or what is there, or the default one; then flags. prepare, if not nil, is
// called with the result before anything is written, to look up what flags then puts in as well.
func put[T any](ctx context.Context, a *app, docs documents[T], name, file string, flags func(*T), prepare func(*T) error) error {
	in, err := a.readInput(file)
	if err != nil {
		return err
	}
	doc, n, err := docs.get(ctx, name)
	var old *T
	switch {
	case err == nil:
		old = &doc
	case !n.Exists && errors.Is(err, errs.ErrNotFound):
	case n.Exists && invalid(err) && in.document != nil: // it is replaced
	case n.Exists && invalid(err):
		return fmt.Errorf("%w; replace it with --file", err)
	default:
		return err
	}
	outdated := fmt.Errorf("%s %s: %w: --file has the document of zxid %s, somebody has changed it since; get it again", docs.kind, name, errs.ErrConflict, in.zxid)
	if in.zxid != 0 && in.zxid != n.Mzxid {
		return outdated
	}
	change := func(doc *T) error {
		if in.document != nil {
			if in.zxid != 0 && compact(doc) != compact(old) {
				return outdated
			}
			*doc = docs.fresh()
			if err := json.Unmarshal(in.document, doc); err != nil {
				return fmt.Errorf("%w: --file: %w", errs.ErrInvalid, err)
			}
		}
		flags(doc)
		return nil
	}
	next := docs.fresh()
	if old != nil {
		next = *old
	}
	if err := change(&next); err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(&next); err != nil {
			return err
		}
	}
	if old != nil {
		err = docs.update(ctx, name, change)
	} else {
		flags(&next)
		err = docs.put(ctx, name, next)
	}
	if err != nil {
		return err
	}
	now, n, err := docs.get(ctx, name)
	if err != nil {
		return err
	}
	return showPut(a, docs.kind, old, inventory.NewEntry(name, now, n))
}

// fieldChange is one field that a put changed.
type fieldChange struct {
	Field string          `json:"field"`
	Old   json.RawMessage `json:"old,omitempty"`
	New   json.RawMessage `json:"new,omitempty"`
}

// putResult is what a put prints.
type putResult[T any] struct {
	*entry[T]
	Changes []fieldChange `json:"changes"`
}

// showPut prints what became of a document; old is nil when there was none.
func showPut[T any](a *app, kind string, old *T, now *entry[T]) error {
	changes, err := compareDocuments(old, now.Document)
	if err != nil {
		return err
	}
	return a.show(putResult[T]{now, changes}, func(w io.Writer) {
		did := "changed"
		switch {
		case old == nil:
			did = "created"
		case len(changes) == 0:
			did = "is so already"
		}
		fmt.Fprintf(w, "%s %s %s (version %d)\n", kind, now.Name, did, now.Version)
		if old != nil {
			showChanges(w, changes)
		}
	})
}

func showChanges(w io.Writer, changes []fieldChange) {
	for _, c := range changes {
		was, is := string(c.Old), string(c.New)
		if c.Old == nil {
			was = "none"
		}
		if c.New == nil {
			is = "none"
		}
		fmt.Fprintf(w, "  %s: %s → %s\n", c.Field, was, is)
	}
}

// compareDocuments lists the fields in which two documents differ.
func compareDocuments[T any](old, now *T) ([]fieldChange, error) {
	was, err := fields(old)
	if err != nil {
		return nil, err
	}
	is, err := fields(now)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	changes := []fieldChange{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !bytes.Equal(was[name], is[name]) {
			changes = append(changes, fieldChange{name, was[name], is[name]})
		}
	}
	return changes, nil
}

func fields[T any](doc *T) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if doc == nil {
		return out, nil
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(data, &out)
}

// set is an assignment if given.
func set[T any](given bool, to *T, value T) {
	if given {
		*to = value
	}
}

// compact is v as JSON in one line.
func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
