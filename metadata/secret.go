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

// userPassword resolves a reference to "user:password".
func userPassword(reference string, secrets Secrets) (user, password string, err error) {
	if secrets == nil {
		secrets = ResolveSecret
	}
	text, err := secrets(reference)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" {
		return "", "", fmt.Errorf("%w: secret %s: its content (not shown) must be user:password", errs.ErrInvalid, reference)
	}
	return user, password, nil
}
