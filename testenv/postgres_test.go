package testenv

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatPostgresMissesIsNamed(t *testing.T) {
	for _, c := range []struct {
		name     string
		programs map[string]string
		fetched  bool
		want     []string
	}{
		{"no Maven", nil, false, []string{"mvn", "needs Maven", "install"}},
		{"Maven that fails", map[string]string{"mvn": "echo no network; exit 1"}, false, []string{"no network", "needs Maven"}},
		{"Maven that brings nothing", map[string]string{"mvn": "exit 0"}, false, []string{"one jar", runtime.GOOS}},
		{"no tar", nil, true, []string{"tar", "needs tar and xz"}},
		{"tar that fails", map[string]string{"tar": "echo no xz; exit 1"}, true, []string{"no xz", "needs tar and xz"}},
		{"binaries that are none", map[string]string{"tar": "exit 0"}, true, []string{"initdb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeBin(t, c.programs)
			base := os.Getenv(serversDirVariable)
			tmp := t.TempDir()
			require.NoError(t, os.Chmod(filepath.Dir(tmp), 0o755)) // the server's user has to reach it
			t.Setenv("TMPDIR", tmp)
			if c.fetched {
				archive := postgresDir(base)
				require.NoError(t, os.Mkdir(archive, 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(archive, postgresArchive), []byte("x"), 0o600))
			}
			_, err := StartPostgres(t.Context(), nil)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			require.Empty(t, left, "nothing half done is left")
			if !c.fetched {
				require.NoDirExists(t, postgresDir(base))
			}
		})
	}
}
