// Package mask takes out of documents what looks like a secret, before they are shown.
package mask

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Hidden stands where a secret was.
const Hidden = "(not shown)"

var (
	// secretWord is what names of secrets have in them.
	secretWord = regexp.MustCompile(`(?i)passw|secret|token|credential|jaas|access.?key|private.?key|api.?key`)
	// secretText is what secrets themselves may look like.
	secretText = regexp.MustCompile(`(?i)-----BEGIN|passw(or)?d\s*=|secret\s*=|://[^/\s]*:[^/\s]*@`)
)

// IsName says that what is called so may be a secret.
func IsName(name string) bool { return secretWord.MatchString(name) }

// IsText says that a text looks like a secret, or has one in it.
func IsText(text string) bool { return secretText.MatchString(text) }

// Document is a document without what looks like a secret; hides says that there was any. References to secrets are none. byName: what a field is
// called counts too, as in the document of a cluster; in others names of topics and clusters are among the fields. An error is of a
// document that is not JSON.
func Document(doc json.RawMessage, byName bool) (out json.RawMessage, hides bool, err error) {
	if len(doc) == 0 {
		return nil, false, nil
	}
	var v any
	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, false, err
	}
	v, hides = without(v, byName, false)
	if !hides {
		return doc, false, nil
	}
	out, err = json.Marshal(v)
	return out, true, err
}

func without(v any, byName, named bool) (out any, hides bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			clean, hid := without(value, byName, named || byName && IsName(key))
			v[key], hides = clean, hides || hid
		}
	case []any:
		for i, value := range v {
			clean, hid := without(value, byName, named)
			v[i], hides = clean, hides || hid
		}
	case string:
		reference := strings.HasPrefix(v, "env:") || strings.HasPrefix(v, "file:")
		if IsText(v) || named && v != "" && !reference {
			return Hidden, true
		}
	case json.Number:
		if named {
			return Hidden, true
		}
	}
	return v, hides
}
