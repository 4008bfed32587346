package cli

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{context.Canceled, 1},
		{errs.ErrNoMetadata, 1},
		{errs.ErrClosed, 1},
		{usagef("--nope"), 2},
		{usagef("reading: %w", errs.ErrNotFound), 2},
		{errs.ErrInvalid, 3},
		{errs.ErrNotAllowed, 3},
		{errs.ErrUnsupported, 3},
		{errs.ErrTooLarge, 3},
		{errs.ErrNoShadow, 3},
		{errs.ErrMarked, 3},
		{errs.ErrFenced, 3},
		{errs.ErrNotFound, 4},
		{errs.ErrUnknownTopic, 4},
		{errs.ErrUnknownGroup, 4},
		{errs.ErrConflict, 5},
		{errs.ErrTimeout, 6},
		{context.DeadlineExceeded, 6},
		{fmt.Errorf("%w: %w", errs.ErrFenced, context.DeadlineExceeded), 6},
		{errVerdict, 7},
	} {
		require.Equal(t, c.code, exitCode(c.err), "%v", c.err)
		if c.err != nil {
			require.Equal(t, c.code, exitCode(fmt.Errorf("wrapped: %w", c.err)), "wrapped %v", c.err)
		}
	}
}
