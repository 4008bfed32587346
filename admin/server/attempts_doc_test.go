package server_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every test that docs/security.md names for an attempt exists, with its case.
func TestAttemptsOfTheDocumentAreTested(t *testing.T) {
	root := filepath.Join("..", "..")
	doc, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	require.NoError(t, err)
	_, section, found := strings.Cut(string(doc), "\n## Attempts on the API\n")
	require.True(t, found)
	sources := map[string]string{} // of the tests, by package
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 3 || strings.Contains(cells[0], "---") || cells[0] == " attempt" {
			continue
		}
		named := regexp.MustCompile("`([a-z/]+) (Test[A-Za-z]+)(?:/([^`]+))?`").FindAllStringSubmatch(cells[2], -1)
		require.NotEmpty(t, named, "no test: %s", line)
		rows++
		for _, n := range named {
			if sources[n[1]] == "" {
				files, err := filepath.Glob(filepath.Join(root, n[1], "*_test.go"))
				require.NoError(t, err)
				for _, f := range files {
					data, err := os.ReadFile(f)
					require.NoError(t, err)
					sources[n[1]] += string(data)
				}
			}
			_, body, exists := strings.Cut(sources[n[1]], "\nfunc "+n[2]+"(t *testing.T) {\n")
			require.True(t, exists, "there is no test %s %s", n[1], n[2])
			body, _, _ = strings.Cut(body, "\n}\n")
			require.Contains(t, body, `"`+n[3], "%s has no case %s", n[2], n[3])
		}
	}
	require.Greater(t, rows, 30)
}
