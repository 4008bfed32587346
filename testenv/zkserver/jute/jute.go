// Package jute is the binary encoding of the ZooKeeper client protocol, with
// the operation numbers, error codes and records that both ends share. The
// embedded server speaks it, and so do small clients that need requests which
// the ZooKeeper library does not offer.
//
// All numbers are big-endian. A buffer or string is its length as int32 (-1
// for null) and its bytes, a vector its count as int32 (-1 for null) and its
// elements. Nothing in this package is safe for concurrent use.
package jute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxBuffer is ZooKeeper's default limit of one frame in bytes
// (jute.maxbuffer): a server closes the connection on a longer one.
const MaxBuffer = 0xfffff

// ErrTruncated says that a record ends before its last field does.
var ErrTruncated = errors.New("jute: record is truncated")

// Decoder reads the fields of one record in order. After the first field that
// does not fit, every further read gives the zero value and Err says why.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a decoder of b. Decoded buffers and strings are copies.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Err returns nil as long as every read found its field, else ErrTruncated.
func (d *Decoder) Err() error { return d.err }

// More reports whether bytes are left to read.
func (d *Decoder) More() bool { return d.err == nil && len(d.rest) > 0 }

func (d *Decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.rest) {
		d.err = ErrTruncated
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// Int32 reads an int.
func (d *Decoder) Int32() int32 {
	if b := d.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// Int64 reads a long.
func (d *Decoder) Int64() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// Bool reads a boolean.
func (d *Decoder) Bool() bool {
	b := d.take(1)
	return b != nil && b[0] != 0
}

// Buffer reads a buffer; null gives nil.
func (d *Decoder) Buffer() []byte {
	n := d.Int32()
	if n == -1 || d.err != nil {
		return nil
	}
	if b := d.take(int(n)); b != nil {
		return append([]byte{}, b...)
	}
	return nil
}

// Ustring reads a string; null gives "".
func (d *Decoder) Ustring() string {
	n := d.Int32()
	if n == -1 || d.err != nil {
		return ""
	}
	return string(d.take(int(n)))
}

// Strings reads a vector of strings.
func (d *Decoder) Strings() []string {
	return vector(d, (*Decoder).Ustring)
}

func vector[T any](d *Decoder, element func(*Decoder) T) []T {
	var out []T
	for n := d.Int32(); n > 0; n-- {
		v := element(d)
		if d.err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// Encoder appends the fields of a record. Its methods return the encoder for
// chaining. The zero value is ready to use.
type Encoder struct{ b []byte }

// Bytes returns what was encoded; it is valid until the next append.
func (e *Encoder) Bytes() []byte { return e.b }

// Int32 appends an int.
func (e *Encoder) Int32(v int32) *Encoder {
	e.b = binary.BigEndian.AppendUint32(e.b, uint32(v))
	return e
}

// Int64 appends a long.
func (e *Encoder) Int64(v int64) *Encoder {
	e.b = binary.BigEndian.AppendUint64(e.b, uint64(v))
	return e
}

// Bool appends a boolean.
func (e *Encoder) Bool(v bool) *Encoder {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
	return e
}

// Buffer appends a buffer; nil is encoded as null.
func (e *Encoder) Buffer(v []byte) *Encoder {
	if v == nil {
		return e.Int32(-1)
	}
	e.Int32(int32(len(v)))
	e.b = append(e.b, v...)
	return e
}

// Ustring appends a string.
func (e *Encoder) Ustring(v string) *Encoder {
	e.Int32(int32(len(v)))
	e.b = append(e.b, v...)
	return e
}

// Strings appends a vector of strings.
func (e *Encoder) Strings(v []string) *Encoder {
	e.Int32(int32(len(v)))
	for _, s := range v {
		e.Ustring(s)
	}
	return e
}

// Raw appends bytes that are encoded already.
func (e *Encoder) Raw(b []byte) *Encoder {
	e.b = append(e.b, b...)
	return e
}

// Frame returns a frame: the length of the parts together and the parts.
func Frame(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+n), uint32(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ReadFrame reads one frame and returns its content. A frame longer than limit
// bytes is an error and its content is not read.
func ReadFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(head[:]))
	if n < 0 || int(n) > limit {
		return nil, fmt.Errorf("jute: frame of %d bytes, the limit is %d", n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}
