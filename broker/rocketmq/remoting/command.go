package remoting

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// Flag bits of a Command.
const (
	flagResponse = 1
	flagOneWay   = 2
)

// Codec is how the header of a frame is written.
type Codec byte

// The two codecs. Servers take both; RocketMQ 5.5.0 answers in JSON, whatever it was asked in.
const (
	JSON     Codec = 0
	RocketMQ Codec = 1
)

// MaxFrame is the largest frame, in bytes, that is read or written.
const MaxFrame = 64 << 20

// ErrFrame: the bytes are not a frame of this protocol. The connection they came from is of no further use.
var ErrFrame = errors.New("bad remoting frame")

// Command is one frame: a request, or the answer to one, which has the same Opaque.
//
//	length(4) | codec(1) header length(3) | header | body     length counts what follows it
type Command struct {
	Codec    Codec
	Code     int
	Language string // "GO", "JAVA", …
	Version  int    // of the sender, see V5_0_0
	Opaque   int32
	Flag     int32
	Remark   string
	Fields   map[string]string
	Body     []byte
}

// NewRequest makes a request with fields given as name, value, name, value, ….
func NewRequest(code int, body []byte, fields ...string) *Command {
	c := &Command{Code: code, Language: "GO", Version: V4_9_4, Body: body}
	c.setFields(fields)
	return c
}

// Answer makes the answer to request c, with fields as in NewRequest.
func (c *Command) Answer(code int, remark string, body []byte, fields ...string) *Command {
	a := &Command{Codec: c.Codec, Code: code, Language: "GO", Version: V5_0_0, Opaque: c.Opaque, Flag: flagResponse,
		Remark: remark, Body: body}
	a.setFields(fields)
	return a
}

// OneWay makes request c one that wants no answer.
func (c *Command) OneWay() *Command {
	c.Flag |= flagOneWay
	return c
}

func (c *Command) setFields(fields []string) {
	if len(fields) > 0 {
		c.Fields = make(map[string]string, len(fields)/2)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		c.Fields[fields[i]] = fields[i+1]
	}
}

// IsResponse says whether c answers a request.
func (c *Command) IsResponse() bool { return c.Flag&flagResponse != 0 }

// IsOneWay says whether c is a request that wants no answer.
func (c *Command) IsOneWay() bool { return c.Flag&flagOneWay != 0 }

// Int reads a field as a number; an absent or malformed one is an error that names it.
func (c *Command) Int(field string) (int64, error) {
	n, err := strconv.ParseInt(c.Fields[field], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: code %d: field %s=%q is not a number", ErrFrame, c.Code, field, c.Fields[field])
	}
	return n, nil
}

// Append appends the frame of c to b.
func (c *Command) Append(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	switch c.Codec {
	case JSON:
		b = c.appendJSON(b)
	case RocketMQ:
		var err error
		if b, err = c.appendBinary(b); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: codec %d", ErrFrame, c.Codec)
	}
	header := len(b) - start - 8
	total := 4 + header + len(c.Body)
	if header >= 1<<24 || total > MaxFrame {
		return nil, fmt.Errorf("%w: header of %d and body of %d bytes are too large", ErrFrame, header, len(c.Body))
	}
	binary.BigEndian.PutUint32(b[start:], uint32(total))
	binary.BigEndian.PutUint32(b[start+4:], uint32(c.Codec)<<24|uint32(header))
	return append(b, c.Body...), nil
}

// ReadCommand reads one frame. io.EOF: there was none.
func ReadCommand(r io.Reader) (*Command, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:4]); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, prefix[4:]); err != nil {
		return nil, unexpected(err)
	}
	total := int64(binary.BigEndian.Uint32(prefix[:]))
	word := binary.BigEndian.Uint32(prefix[4:])
	codec, header := Codec(word>>24), int64(word&0xFFFFFF)
	if total > MaxFrame || total < 4+header {
		return nil, fmt.Errorf("%w: length %d with a header of %d", ErrFrame, total, header)
	}
	buf := make([]byte, total-4)
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, unexpected(err)
	}
	c := &Command{Codec: codec}
	switch codec {
	case JSON:
		if err := c.parseJSON(buf[:header]); err != nil {
			return nil, err
		}
	case RocketMQ:
		if err := c.parseBinary(buf[:header]); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: codec %d", ErrFrame, codec)
	}
	if body := buf[header:]; len(body) > 0 {
		c.Body = body
	}
	return c, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// languages by their number in the ROCKETMQ codec.
var languages = []string{"JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP",
	"OMS", "RUST", "NODE_JS"}

const languageOther = 7

// appendBinary: code(2) language(1) version(2) opaque(4) flag(4) remark(4+n) fields(4+n), each field key(2+n) value(4+n).
func (c *Command) appendBinary(b []byte) ([]byte, error) {
	if c.Code != int(int16(c.Code)) || c.Version != int(int16(c.Version)) {
		return nil, fmt.Errorf("%w: code %d or version %d does not fit the codec", ErrFrame, c.Code, c.Version)
	}
	language := slices.Index(languages, c.Language)
	if language < 0 {
		language = languageOther
	}
	b = binary.BigEndian.AppendUint16(b, uint16(c.Code))
	b = append(b, byte(language))
	b = binary.BigEndian.AppendUint16(b, uint16(c.Version))
	b = binary.BigEndian.AppendUint32(b, uint32(c.Opaque))
	b = binary.BigEndian.AppendUint32(b, uint32(c.Flag))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Remark)))
	b = append(b, c.Remark...)
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, k := range slices.Sorted(maps.Keys(c.Fields)) {
		if len(k) >= 1<<15 {
			return nil, fmt.Errorf("%w: field name of %d bytes", ErrFrame, len(k))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(c.Fields[k])))
		b = append(b, c.Fields[k]...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b, nil
}

func (c *Command) parseBinary(b []byte) error {
	r := cursor{b: b}
	c.Code = int(int16(r.uint16()))
	c.Language = languages[languageOther]
	if l := int(r.byte()); l < len(languages) {
		c.Language = languages[l]
	}
	c.Version = int(int16(r.uint16()))
	c.Opaque = int32(r.uint32())
	c.Flag = int32(r.uint32())
	c.Remark = string(r.bytes(int64(r.uint32())))
	fields := cursor{b: r.bytes(int64(r.uint32()))}
	for len(fields.b) > 0 && !fields.short {
		k := string(fields.bytes(int64(fields.uint16())))
		v := string(fields.bytes(int64(fields.uint32())))
		if c.Fields == nil {
			c.Fields = map[string]string{}
		}
		c.Fields[k] = v
	}
	if r.short || fields.short {
		return fmt.Errorf("%w: header of %d bytes is cut short", ErrFrame, len(b))
	}
	return nil
}

// cursor reads big-endian values; once something is missing it stays short and gives zeros.
type cursor struct {
	b     []byte
	short bool
}

func (r *cursor) bytes(n int64) []byte {
	if r.short || n < 0 || n > int64(len(r.b)) {
		r.short = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *cursor) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *cursor) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *cursor) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *cursor) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
