package cli_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBackupAndRestore(t *testing.T) {
	z := startZooKeeper(t)
	file := filepath.Join(t.TempDir(), "backup.json")
	require.Contains(t, z.refused(t, 4, "backup", file), "no metadata")
	require.NoFileExists(t, file)
	z.turnout(t, "cluster", "put", "kafka-a", "--kind", "kafka", "--address", "h1:9092")
	require.Contains(t, z.turnout(t, "backup", file).stdout, "1 node of /turnout")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Contains(t, z.refused(t, 5, "backup", file), "not replaced")

	require.Contains(t, z.refused(t, 2, "restore", file+".gone"), "no such file")
	require.Contains(t, z.turnout(t, "restore", file, "--root", "/other").stdout, "/other has 1 cluster, 0 topics, 0 groups")
	require.Contains(t, z.turnout(t, "cluster", "list", "--root", "/other").stdout, "h1:9092")
	z.turnout(t, "cluster", "put", "kafka-a", "--address", "h2:9092", "--root", "/other")
	require.Contains(t, z.refused(t, 5, "restore", file, "--root", "/other"), "clusters/kafka-a")
	require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
	require.Contains(t, z.refused(t, 3, "restore", file, "--root", "/third"), "format")
}
