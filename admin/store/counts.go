package store

import "context"

// Counts are how many things there are of what somebody waits for.
type Counts struct {
	Requests   map[RequestState]int // by state
	Migrations map[string]int       // that have not ended, by state
	Outbox     int                  // publications that are not done
	Drift      map[string]int       // differences that nobody ignores, by what differs
	Notices    int                  // for the webhook, not taken yet
}

// Counts counts, one thing after the other.
func (s *Store) Counts(ctx context.Context) (c Counts, err error) {
	if c.Requests, err = s.CountRequests(ctx, RequestFilter{}); err != nil {
		return c, err
	}
	err = s.read(ctx, "counts", func(q query) error {
		c.Migrations, c.Drift = map[string]int{}, map[string]int{}
		for _, by := range []struct {
			into      map[string]int
			statement string
		}{
			{c.Migrations, "SELECT state, COUNT(*) FROM migrations WHERE ended_at IS NULL GROUP BY state"},
			{c.Drift, "SELECT what, COUNT(*) FROM drift WHERE ignored_by = '' GROUP BY what"},
		} {
			if _, err := rows(q, func(row scanner) (none, error) {
				var name string
				var n int
				err := row.Scan(&name, &n)
				by.into[name] = n
				return none{}, err
			}, by.statement); err != nil {
				return err
			}
		}
		if err := q.row("SELECT COUNT(*) FROM outbox WHERE done_at IS NULL").Scan(&c.Outbox); err != nil {
			return err
		}
		return q.row("SELECT COUNT(*) FROM notices").Scan(&c.Notices)
	})
	return c, err
}
