package testenv

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

const backendVariable = "TURNOUT_TEST"

// Backends returns the backends that the environment variable TURNOUT_TEST asks for: embedded (the default),
// servers, or all. An error for any other value.
func Backends() ([]Backend, error) {
	switch v := os.Getenv(backendVariable); v {
	case "", string(Embedded):
		return []Backend{Embedded}, nil
	case string(Servers):
		return []Backend{Servers}, nil
	case "all":
		return []Backend{Embedded, Servers}, nil
	default:
		return nil, fmt.Errorf("testenv: %s is %q: use %s, %s or all", backendVariable, v, Embedded, Servers)
	}
}

// Each runs f as a subtest on every backend that TURNOUT_TEST asks for, with an environment of its own as in
// spec (but for the Backend). The environment is closed after the subtest; a backend that does not start fails
// it.
func Each(t *testing.T, spec Spec, f func(t *testing.T, e *Env)) {
	t.Helper()
	EachOf(t, spec, []Backend{Embedded, Servers}, f)
}

// EachOf is Each for a test that needs one of certain backends: it runs f on those of them that TURNOUT_TEST
// asks for, which may be none.
func EachOf(t *testing.T, spec Spec, backends []Backend, f func(t *testing.T, e *Env)) {
	t.Helper()
	asked, err := Backends()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range asked {
		if !slices.Contains(backends, b) {
			continue
		}
		t.Run(string(b), func(t *testing.T) {
			spec := spec
			spec.Backend = b
			f(t, startFor(t, spec))
		})
	}
}

// startFor starts an environment that ends with the test.
func startFor(t testing.TB, spec Spec) *Env {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fetchTimeout+2*startTimeout)
	defer cancel()
	begin := time.Now()
	e, err := Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("backend %s serves after %v", spec.Backend, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}
