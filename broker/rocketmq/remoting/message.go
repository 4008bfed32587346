package remoting

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Bits of Message.SysFlag.
const (
	SysCompressed      = 1 << 0
	SysTransactionMask = 3 << 2
	SysPrepared        = 1 << 2
	SysCommit          = 2 << 2
	SysRollback        = 3 << 2
	sysBornHostV6      = 1 << 4
	sysStoreHostV6     = 1 << 5
	sysCompressionMask = 7 << 8 // 0 and 3: zlib, 1: LZ4, 2: ZSTD
)

const (
	magicV1 = 0xDAA320A7
	magicV2 = 0xDAA320AB // topic length in two bytes
)

// MaxContent is the largest body, in bytes, that Message.Content unpacks.
const MaxContent = 64 << 20

// ErrCompression: the body is compressed in a way that is not understood here.
var ErrCompression = errors.New("unsupported compression")

// Message is one message as a broker stores it and as pulls return it.
type Message struct {
	Topic          string
	QueueID        int32
	QueueOffset    int64
	PhysicalOffset int64 // in the commit log
	Flag           int32
	SysFlag        int32
	Born           time.Time // millisecond precision
	BornHost       netip.AddrPort
	Stored         time.Time
	StoreHost      netip.AddrPort
	ReconsumeTimes int32
	PreparedOffset int64
	Body           []byte // as stored: perhaps compressed, see Content
	Properties     string // see ParseProperties
}

// ID is the message id by which a broker finds it: store host and physical offset.
func (m *Message) ID() string {
	b := appendHost(nil, m.StoreHost)
	return strings.ToUpper(fmt.Sprintf("%x%016x", b, uint64(m.PhysicalOffset)))
}

// Content is the body, unpacked when it is compressed.
func (m *Message) Content() ([]byte, error) {
	if m.SysFlag&SysCompressed == 0 {
		return m.Body, nil
	}
	if kind := m.SysFlag & sysCompressionMask >> 8; kind != 0 && kind != 3 {
		return nil, fmt.Errorf("%w: type %d; let the producer send with zlib (compressType=ZLIB)", ErrCompression, kind)
	}
	z, err := zlib.NewReader(bytes.NewReader(m.Body))
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, MaxContent+1))
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(out) > MaxContent {
		return nil, fmt.Errorf("body unpacks to more than %d bytes", MaxContent)
	}
	return out, nil
}

// Append appends the stored form of m to b.
func (m *Message) Append(b []byte) ([]byte, error) {
	if len(m.Topic) > 1<<15-1 || len(m.Properties) > 1<<15-1 {
		return nil, fmt.Errorf("topic of %d or properties of %d bytes: at most 32767 each", len(m.Topic), len(m.Properties))
	}
	be := binary.BigEndian
	magic, flag := uint32(magicV1), m.SysFlag&^(sysBornHostV6|sysStoreHostV6)
	if len(m.Topic) > 127 {
		magic = magicV2
	}
	if m.BornHost.Addr().Is6() {
		flag |= sysBornHostV6
	}
	if m.StoreHost.Addr().Is6() {
		flag |= sysStoreHostV6
	}
	start := len(b)
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, magic)
	b = be.AppendUint32(b, crc32.ChecksumIEEE(m.Body)&0x7FFFFFFF)
	b = be.AppendUint32(b, uint32(m.QueueID))
	b = be.AppendUint32(b, uint32(m.Flag))
	b = be.AppendUint64(b, uint64(m.QueueOffset))
	b = be.AppendUint64(b, uint64(m.PhysicalOffset))
	b = be.AppendUint32(b, uint32(flag))
	b = be.AppendUint64(b, uint64(m.Born.UnixMilli()))
	b = appendHost(b, m.BornHost)
	b = be.AppendUint64(b, uint64(m.Stored.UnixMilli()))
	b = appendHost(b, m.StoreHost)
	b = be.AppendUint32(b, uint32(m.ReconsumeTimes))
	b = be.AppendUint64(b, uint64(m.PreparedOffset))
	b = be.AppendUint32(b, uint32(len(m.Body)))
	b = append(b, m.Body...)
	if magic == magicV2 {
		b = be.AppendUint16(b, uint16(len(m.Topic)))
	} else {
		b = append(b, byte(len(m.Topic)))
	}
	b = append(b, m.Topic...)
	b = be.AppendUint16(b, uint16(len(m.Properties)))
	b = append(b, m.Properties...)
	be.PutUint32(b[start:], uint32(len(b)-start))
	return b, nil
}

// appendHost writes address and port; the zero value as 0.0.0.0:0.
func appendHost(b []byte, host netip.AddrPort) []byte {
	if addr := host.Addr(); addr.Is6() {
		b = append(b, addr.AsSlice()...)
	} else if addr.Is4() {
		b = append(b, addr.AsSlice()...)
	} else {
		b = append(b, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint32(b, uint32(host.Port()))
}

// ParseMessages reads the stored messages that stand one after the other in b. They share its memory.
func ParseMessages(b []byte) ([]*Message, error) {
	var out []*Message
	for len(b) > 0 {
		size := (&cursor{b: b}).uint32()
		if size < 8 || int64(size) > int64(len(b)) {
			return nil, fmt.Errorf("%w: message %d of %d bytes in %d", ErrFrame, len(out), size, len(b))
		}
		m, err := parseMessage(b[:size])
		if err != nil {
			return nil, fmt.Errorf("%w: message %d: %w", ErrFrame, len(out), err)
		}
		out = append(out, m)
		b = b[size:]
	}
	return out, nil
}

func parseMessage(b []byte) (*Message, error) {
	r := cursor{b: b}
	r.uint32()
	magic := r.uint32()
	if magic != magicV1 && magic != magicV2 {
		return nil, fmt.Errorf("magic %#x", magic)
	}
	m := &Message{}
	r.uint32() // CRC of the body: the broker checks it, TCP brought it here
	m.QueueID = int32(r.uint32())
	m.Flag = int32(r.uint32())
	m.QueueOffset = int64(r.uint64())
	m.PhysicalOffset = int64(r.uint64())
	m.SysFlag = int32(r.uint32())
	m.Born = time.UnixMilli(int64(r.uint64()))
	m.BornHost = r.host(m.SysFlag&sysBornHostV6 != 0)
	m.Stored = time.UnixMilli(int64(r.uint64()))
	m.StoreHost = r.host(m.SysFlag&sysStoreHostV6 != 0)
	m.ReconsumeTimes = int32(r.uint32())
	m.PreparedOffset = int64(r.uint64())
	m.Body = r.bytes(int64(r.uint32()))
	if magic == magicV2 {
		m.Topic = string(r.bytes(int64(r.uint16())))
	} else {
		m.Topic = string(r.bytes(int64(r.byte())))
	}
	m.Properties = string(r.bytes(int64(r.uint16())))
	if r.short {
		return nil, errors.New("cut short")
	}
	return m, nil
}

func (r *cursor) host(v6 bool) netip.AddrPort {
	n := int64(4)
	if v6 {
		n = 16
	}
	addr, _ := netip.AddrFromSlice(r.bytes(n))
	return netip.AddrPortFrom(addr, uint16(r.uint32()))
}

// Separators of properties: name \x01 value \x02 …. Neither may stand in a name or value.
const (
	nameSeparator     = "\x01"
	propertySeparator = "\x02"
)

// ParseProperties splits a property string. What has no name or no value separator is left out, as RocketMQ does.
func ParseProperties(s string) map[string]string {
	out := make(map[string]string, strings.Count(s, nameSeparator))
	for item := range strings.SplitSeq(s, propertySeparator) {
		if name, value, ok := strings.Cut(item, nameSeparator); ok && name != "" {
			out[name] = value
		}
	}
	return out
}

// AppendProperty appends one property to a property string.
func AppendProperty(s, name, value string) string {
	return s + name + nameSeparator + value + propertySeparator
}
