package reconcile

import (
	"encoding/json"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/mask"
)

// shown is a document without what looks like a secret; hides says that there was any. What a field is called says something in the
// document of a cluster only.
func shown(kind string, doc json.RawMessage) (out json.RawMessage, hides bool, err error) {
	return mask.Document(doc, kind == store.CatalogCluster)
}
