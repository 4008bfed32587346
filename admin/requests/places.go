package requests

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Places are the references that may be named as the login of a cluster: the servers read what is there and send it to the cluster's
// addresses. Each is env:NAME or file:PATH with an absolute path; a * at its end stands for any rest, so file:/etc/turnout/clusters/* is
// everything below that folder.
type Places []string

// DefaultPlaces are allowed where nothing else is said. What the servers keep for themselves (TURNOUT_TOKEN, the key of a webhook) is in none.
func DefaultPlaces() Places { return Places{"env:TURNOUT_CLUSTER_*", "file:/etc/turnout/clusters/*"} }

// Check is ErrInvalid with everything that is wrong.
func (p Places) Check() error {
	var bad []error
	for _, place := range p {
		kind, name, _ := strings.Cut(place, ":")
		text, open := strings.CutSuffix(name, "*")
		switch {
		case kind != "env" && kind != "file" || name == "":
			bad = append(bad, fmt.Errorf("%w: secrets-allow %q: must be env:NAME or file:PATH, perhaps with a * at the end", errs.ErrInvalid, place))
		case strings.Contains(text, "*"):
			bad = append(bad, fmt.Errorf("%w: secrets-allow %q: a * may be at the end alone", errs.ErrInvalid, place))
		case kind == "file" && (!filepath.IsAbs(text) || !clean(text, open)):
			bad = append(bad, fmt.Errorf("%w: secrets-allow %q: must be an absolute path without . and .. in it", errs.ErrInvalid, place))
		}
	}
	return errors.Join(bad...)
}

// clean says that a path leads where it reads; the begin of one may end with a separator.
func clean(path string, begin bool) bool {
	if is := filepath.Clean(path); is != path {
		return begin && is+string(filepath.Separator) == path
	}
	return true
}

// allow is ErrInvalid for a reference that is in none of the places.
func (p Places) allow(reference string) error {
	if reference == "" {
		return nil
	}
	kind, name, _ := strings.Cut(reference, ":")
	if kind == "file" && (!filepath.IsAbs(name) || !clean(name, false)) {
		return fmt.Errorf("%w: secret %q: must be an absolute path without . and .. in it", errs.ErrInvalid, reference)
	}
	for _, place := range p {
		if begin, open := strings.CutSuffix(place, "*"); reference == place || open && strings.HasPrefix(reference, begin) {
			return nil
		}
	}
	return fmt.Errorf("%w: secret %q: logins of clusters are taken from %s only: keep it there, or have the setting secrets-allow of the servers changed",
		errs.ErrInvalid, reference, strings.Join(p, ", "))
}
