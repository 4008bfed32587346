package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/server"
)

// The description of the API that is checked in is the one of the code. TURNOUT_TEST_RECORD=1 writes it anew.
func TestOpenAPIIsCheckedIn(t *testing.T) {
	is, err := server.OpenAPI()
	require.NoError(t, err)
	file := filepath.Join("..", "..", "docs", "openapi.yaml")
	if os.Getenv("TURNOUT_TEST_RECORD") != "" {
		require.NoError(t, os.WriteFile(file, is, 0o644))
	}
	was, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(was), string(is), "run: TURNOUT_TEST_RECORD=1 go test -run OpenAPI ./admin/server")
}
