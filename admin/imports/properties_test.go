package imports

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Lines are read as java.util.Properties reads them.
func TestProperties(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		"":                               {},
		"\n \n# a=b\n! c=d\n":            {},
		"clusterName=A\ngatedIps=":       {"clusterName": "A", "gatedIps": ""},
		"clusterName=A\r\ntype=topic":    {"clusterName": "A", "type": "topic"},
		"a=1\rb=2":                       {"a": "1", "b": "2"},
		"  a = b c \n":                   {"a": "b c"},
		"a:b\nc d":                       {"a": "b", "c": "d"},
		"bootAddr=h1:9092,h2:9092":       {"bootAddr": "h1:9092,h2:9092"},
		`bootAddr=h1\:9092`:              {"bootAddr": "h1:9092"},
		"bootAddr=h1:9092,\\\n  h2:9092": {"bootAddr": "h1:9092,h2:9092"},
		`a\=b=c`:                         {"a=b": "c"},
		"suspend=null":                   {"suspend": ""},
		"a=b=c":                          {"a": "b=c"},
		"a=1\na=2":                       {"a": "2"},
		`a=\`:                            {"a": `\`},
		"lonely":                         {"lonely": ""},
	} {
		require.Equal(t, want, properties(text), "%q", text)
	}
}

func TestNaming(t *testing.T) {
	t.Parallel()
	r := &Result{}
	n := newNaming("topic", r)
	name, ok := n.of("orders.v1")
	require.True(t, ok)
	require.Equal(t, "orders_v1", name)
	_, ok = n.of("orders_v1")
	require.False(t, ok)
	require.Len(t, r.Problems, 1)
	require.Len(t, r.Notes, 1)
}
