package cli

import "github.com/turnout-mq/turnout/admin/migrate"

// guarded are the guards that were given.
func (m *moveFlags) guarded() ([]migrate.Guard, error) {
	guards := make([]migrate.Guard, len(m.guards))
	for i, text := range m.guards {
		var err error
		if guards[i], err = migrate.ParseGuard(text); err != nil {
			return nil, usagef("--guard: %w", err)
		}
	}
	if err := migrate.CheckGuards(guards); err != nil {
		return nil, usagef("--guard: %w", err)
	}
	return guards, nil
}
