package reconcile

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/turnout-mq/turnout/admin/store"
)

const hidden = "(not shown)"

var (
	// secretWord is what names of secrets have in them.
	secretWord = regexp.MustCompile(`(?i)passw|secret|token|credential|jaas|access.?key|private.?key|api.?key`)
	// secretText is what secrets themselves may look like.
	secretText = regexp.MustCompile(`(?i)-----BEGIN|passw(or)?d\s*=|secret\s*=|://[^/\s]*:[^/\s]*@`)
)

// shown is a document without what looks like a secret; hides says that there was any. References to secrets are none. What a field is
// called says something in the document of a cluster only: in the others names of topics and clusters are among the fields.
func shown(kind string, doc json.RawMessage) (out json.RawMessage, hides bool, err error) {
	if len(doc) == 0 {
		return nil, false, nil
	}
	var v any
	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, false, err
	}
	v, hides = without(v, kind == store.CatalogCluster, false)
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
			clean, hid := without(value, byName, named || byName && secretWord.MatchString(key))
			v[key], hides = clean, hides || hid
		}
	case []any:
		for i, value := range v {
			clean, hid := without(value, byName, named)
			v[i], hides = clean, hides || hid
		}
	case string:
		reference := strings.HasPrefix(v, "env:") || strings.HasPrefix(v, "file:")
		if secretText.MatchString(v) || named && v != "" && !reference {
			return hidden, true
		}
	case json.Number:
		if named {
			return hidden, true
		}
	}
	return v, hides
}
