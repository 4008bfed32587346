package migrate

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// handEdit is who has begun what nobody is known for: ZooKeeper does not tell who writes.
const handEdit = "hand edit"

// author says who writes a wish.
type author struct {
	Wish metadata.WishRef `json:"wish"`
	By   string           `json:"by"`
}

func authorSetting(topic string) string { return "wish of " + topic }

// NoteWish notes who is about to write a wish past the migrations, so that the migration that settles it names them. now is the node of
// the wish that is replaced.
func NoteWish(ctx context.Context, db *store.Store, topic string, now metadata.Node, by string) error {
	doc, err := json.Marshal(author{metadata.WishRef{Czxid: now.Czxid, Version: now.Version + 1}, by})
	if err != nil {
		return err
	}
	return db.PutSetting(ctx, authorSetting(topic), string(doc))
}

// wrote is who has written a wish: the one that NoteWish has noted, else handEdit.
func (c *Controller) wrote(ctx context.Context, topic string, wish metadata.WishRef) (string, error) {
	text, err := c.db.Setting(ctx, authorSetting(topic))
	if errors.Is(err, errs.ErrNotFound) {
		return handEdit, nil
	}
	var a author
	if err == nil {
		err = json.Unmarshal([]byte(text), &a)
	}
	switch {
	case err != nil:
		return "", err
	case a.Wish != wish:
		return handEdit, nil
	}
	return a.By, nil
}

// wishBy says that of a wish.
func wishBy(by string) string {
	if by == handEdit {
		return "the wish was edited by hand"
	}
	return "the wish was written by " + by
}
