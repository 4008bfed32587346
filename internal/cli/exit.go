package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Exit codes of every command.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2 // the command line or the settings are wrong; nothing was done
	exitRefused  = 3 // invalid, not allowed or not possible; nothing was changed
	exitNotFound = 4
	exitConflict = 5 // somebody else changed it first, or it exists or is in use
	exitTimeout  = 6
	exitVerdict  = 7 // the work was done and its verdict is not clean
)

const exitCodeHelp = `Exit codes: 0 ok, 1 failed, 2 usage, 3 refused or invalid, 4 not found, 5 conflict, 6 time-out, 7 verdict not clean.`

// errUsage marks errors in the command line or the settings.
var errUsage = errors.New("usage")

// errVerdict marks work that was done and did not come out clean.
var errVerdict = errors.New("verdict not clean")

// exitCodes maps errors to exit codes. The first match counts.
var exitCodes = []struct {
	err  error
	code int
}{
	{errUsage, exitUsage},
	{errVerdict, exitVerdict},
	{errs.ErrConflict, exitConflict},
	{errs.ErrNotFound, exitNotFound},
	{errs.ErrUnknownTopic, exitNotFound},
	{errs.ErrUnknownGroup, exitNotFound},
	{errs.ErrInvalid, exitRefused},
	{errs.ErrTooLarge, exitRefused},
	{errs.ErrUnsupported, exitRefused},
	{errs.ErrNotAllowed, exitRefused},
	{errs.ErrNoShadow, exitRefused},
	{errs.ErrMarked, exitRefused},
	{errs.ErrTimeout, exitTimeout},
	{context.DeadlineExceeded, exitTimeout},
	{errs.ErrFenced, exitRefused},
	{api.ErrRefused, exitRefused},
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for _, e := range exitCodes {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return exitFailed
}

// markedError is an error whose mark decides the exit code and does not show in the text.
type markedError struct {
	error
	mark error
}

func (e markedError) Unwrap() []error { return []error{e.error, e.mark} }

func usagef(format string, args ...any) error {
	return markedError{fmt.Errorf(format, args...), errUsage}
}
