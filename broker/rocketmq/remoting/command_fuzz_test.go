package remoting

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is written in either codec is read as it was, from the middle of a stream.
func FuzzCommand(f *testing.F) {
	f.Add(10, "GO", 401, int32(7), int32(0), "", "topic", "orders", []byte("body"), true)
	f.Add(-1, "JAVA", 0, int32(-1), int32(3), "why – not", "", "\x00\x01", []byte{}, false)
	f.Add(1<<15, "of the future", 1<<15, int32(0), int32(1), "\xff", strings.Repeat("k", 1<<15), "", []byte(nil), true)
	f.Fuzz(func(t *testing.T, code int, language string, version int, opaque, flag int32, remark, key, value string, body []byte, binary bool) {
		text := func(s string) string { return strings.ToValidUTF8(s, "?") }
		c := &Command{Code: code, Language: text(language), Version: version, Opaque: opaque, Flag: flag, Remark: text(remark),
			Fields: map[string]string{text(key): text(value), "k": text(value)}}
		if len(body) > 0 {
			c.Body = body
		}
		want := *c
		if binary {
			c.Codec, want.Codec = RocketMQ, RocketMQ
			c.Remark, want.Remark = remark, remark // any bytes
			if code != int(int16(code)) || version != int(int16(version)) || len(text(key)) >= 1<<15 {
				_, err := c.Append(nil)
				require.ErrorIs(t, err, ErrFrame)
				return
			}
			known := false
			for _, l := range languages {
				known = known || l == c.Language
			}
			if !known {
				want.Language = "OTHER"
			}
		}
		stream, err := c.Append([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before", string(stream[:6]))
		r := bytes.NewReader(append(stream[6:], "after"...))
		got, err := ReadCommand(r)
		require.NoError(t, err)
		require.Equal(t, &want, got)
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "after", string(rest))
	})
}
