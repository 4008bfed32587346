package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Setting returns a small thing that the platform remembers, or ErrNotFound.
func (s *Store) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.read(ctx, "setting "+name, func(q query) error {
		err := q.row("SELECT value FROM settings WHERE name = $1", name).Scan(&value)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("there is no setting %q: %w", name, errs.ErrNotFound)
		}
		return err
	})
	return value, err
}

// PutSetting stores it; the last one who writes it is right.
func (s *Store) PutSetting(ctx context.Context, name, value string) error {
	var c check
	c.name("name", name)
	c.text("value", value)
	if err := c.err("setting"); err != nil {
		return err
	}
	return s.write(ctx, "put setting "+name, func(q query) error {
		_, err := q.exec("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
		return err
	})
}
