package testenv

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// fakeBin makes a folder with programs that print something, as the whole PATH.
func fakeBin(t *testing.T, programs map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range programs {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", dir)
	t.Setenv("JAVA_HOME", "")
	t.Setenv(serversDirVariable, t.TempDir())
}

func TestWhatIsMissingOnTheMachineIsNamed(t *testing.T) {
	java17 := `echo 'openjdk version "17.0.1"' >&2`
	for _, c := range []struct {
		name     string
		programs map[string]string
		want     []string
	}{
		{"no Java", nil, []string{"java", "needs Java 17", "install"}},
		{"old Java", map[string]string{"java": `echo 'openjdk version "11.0.2"' >&2`}, []string{"version 11", "needs Java 17"}},
		{"very old Java", map[string]string{"java": `echo 'java version "1.8.0_1"' >&2`}, []string{"version 1", "needs Java 17"}},
		{"Java that fails", map[string]string{"java": "echo broken; exit 1"}, []string{"broken", "needs Java 17"}},
		{"no Maven", map[string]string{"java": java17}, []string{"mvn", "needs Maven", "install"}},
		{"Maven that fails", map[string]string{"java": java17, "mvn": "echo no network; exit 1"}, []string{"no network", "needs Maven"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeBin(t, c.programs)
			_, err := Start(t.Context(), Spec{Backend: Servers, ZooKeeper: 1})
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			left, err := filepath.Glob(filepath.Join(os.Getenv(serversDirVariable), "*-*"))
			require.NoError(t, err)
			require.Empty(t, left, "nothing half done is left")
		})
	}
}

func TestAFolderThatCanNotBeWrittenIsNamed(t *testing.T) {
	fakeBin(t, map[string]string{"java": `echo 'openjdk version "17.0.1"' >&2`})
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	t.Setenv(serversDirVariable, filepath.Join(file, "sub"))
	_, err := install(t.Context(), zap.NewNop())
	require.ErrorContains(t, err, serversDirVariable)
}

func TestOneProcessFetchesAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lockFile(ctx, path)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, path)
	unlock()
	unlock, err = lockFile(t.Context(), path)
	require.NoError(t, err)
	unlock()
}
