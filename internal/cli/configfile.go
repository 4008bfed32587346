package cli

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileEntry is a setting in a file.
type fileEntry struct {
	value string
	line  int
}

// linesRule is how a file begins that has lines "name = value".
var linesRule = regexp.MustCompile(`^(\s*(#[^\n]*)?\n)*\s*[A-Za-z0-9_-]*\s*=`)

// parseSettings reads lines "name = value" with # comments, or YAML (so also JSON): names with values, or with lists of values.
func parseSettings(b []byte) (map[string]fileEntry, error) {
	values := map[string]fileEntry{}
	add := func(name, value string, line int) error {
		if before, ok := values[name]; ok {
			return fmt.Errorf("line %d: %s is there twice, in line %d too; keep one", line, name, before.line)
		}
		values[name] = fileEntry{value, line}
		return nil
	}
	if linesRule.Match(b) {
		for n, line := range strings.Split(string(b), "\n") {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			name, value, ok := strings.Cut(line, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if !ok || name == "" {
				return nil, fmt.Errorf("line %d: must be name = value, or a # in front", n+1)
			}
			if err := add(name, value, n+1); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(bytes.TrimPrefix(b, []byte("\uFEFF")), &doc); err != nil {
		return nil, fmt.Errorf("must be YAML (name: value), JSON, or lines name = value: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 { // nothing but comments
		return values, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: must be YAML (name: value), JSON, or lines name = value", top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		name, node := top.Content[i], top.Content[i+1]
		value, err := scalar(node)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", name.Line, name.Value, err)
		}
		if err := add(name.Value, value, name.Line); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// scalar is a value, or a list of values with commas between.
func scalar(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", errors.New("has no value; remove it, or put a # in front")
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind != yaml.SequenceNode:
		return "", errors.New("must be a value, or a list of values")
	}
	var list []string
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return "", errors.New("must be a list of values")
		}
		list = append(list, item.Value)
	}
	return strings.Join(list, ","), nil
}

// nearest is the name that is most like the given one, if one is.
func nearest(name string, names []string) string {
	best, least := "", 4
	for _, n := range names {
		if d := distance(name, n); d < least && d <= len(name)/2 {
			best, least = n, d
		}
	}
	return best
}

// distance is how many letters must be added, removed or replaced to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
