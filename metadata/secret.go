package metadata

import (
	"fmt"
	"os"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Secrets gives the text that a reference stands for. Its errors must not contain that text.
type Secrets func(reference string) (string, error)

// ResolveSecret is the usual Secrets: env:NAME is an environment variable, file:PATH the content of a file without the
// line end. ErrInvalid for anything else, without showing it: it may be the secret itself.
func ResolveSecret(reference string) (string, error) {
	kind, name, _ := strings.Cut(reference, ":")
	switch {
	case !validSecretRef(reference):
		return "", fmt.Errorf("%w: secret reference (not shown): %s", errs.ErrInvalid, secretRule)
	case kind == "env":
		text, ok := os.LookupEnv(name)
		if !ok || text == "" {
			return "", fmt.Errorf("%w: secret env:%s: the environment variable is not set; set it to user:password", errs.ErrInvalid, name)
		}
		return text, nil
	default:
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("%w: secret file:%s: %w", errs.ErrInvalid, name, err)
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
}

const secretRule = "must be env:NAME or file:PATH"

func validSecretRef(reference string) bool {
	kind, name, _ := strings.Cut(reference, ":")
	return (kind == "env" || kind == "file") && name != ""
}

// login is what a secret holds.
type login struct{ user, password string }

// logins resolves a reference to "user:password", or several of them, one a line. It returns at least one.
func logins(reference string, secrets Secrets) ([]login, error) {
	if secrets == nil {
		secrets = ResolveSecret
	}
	text, err := secrets(reference)
	if err != nil {
		return nil, err
	}
	var all []login
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		user, password, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return nil, fmt.Errorf("%w: secret %s: its content (not shown) must be user:password", errs.ErrInvalid, reference)
		}
		all = append(all, login{user, password})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: secret %s: it is empty; it must be user:password", errs.ErrInvalid, reference)
	}
	return all, nil
}
