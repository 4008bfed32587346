package rmqserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// journal is the file in which a store keeps what it must not lose: every change
// is appended before it is acknowledged, by one write and without a sync, so
// that it outlives this process and not the machine.
//
//	kind(1) length(4) CRC-32 of kind and payload(4) payload
//
// An entry that was being written when the process died ends the file and is cut
// off when it is read again. A damaged entry before the end is an error.
type journal struct {
	f   *os.File
	end int64
	buf []byte
}

// The kinds of entries; store.replay says what is in them.
const (
	entryMessage     = 'm'
	entryTopic       = 't'
	entryTopicGone   = 'T'
	entryGroup       = 'g'
	entryGroupGone   = 'G'
	entryOffset      = 'o'
	entryOffsetsGone = 'O'
	entryDelivered   = 'd'
	entryTrim        = 'x'
)

const (
	journalFile = "journal"
	entryHeader = 9
	maxEntry    = 128 << 20
)

// openJournal reads the journal in dir, which is created when it is missing,
// hands every entry to replay, and leaves the file ready for more.
func openJournal(dir string, log *zap.Logger, replay func(kind byte, payload []byte) error) (*journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	good, err := replayAll(f, replay)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		log.Warn("the last entry of the journal was never finished and is cut off", zap.Int64("at", good))
		err = f.Truncate(good)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s at byte %d: %w", f.Name(), good, err)
	}
	return &journal{f: f, end: good}, nil
}

// replayAll returns how far the file is good; io.ErrUnexpectedEOF: the last
// entry is not complete.
func replayAll(f *os.File, replay func(kind byte, payload []byte) error) (good int64, err error) {
	b, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	size := int64(len(b))
	for len(b) > 0 {
		if len(b) < entryHeader {
			return good, io.ErrUnexpectedEOF
		}
		n := int64(binary.BigEndian.Uint32(b[1:]))
		end := good + entryHeader + n
		if end > size {
			if n > maxEntry {
				return good, errors.New("damaged; remove the directory to begin anew")
			}
			return good, io.ErrUnexpectedEOF
		}
		payload := b[entryHeader : entryHeader+n : entryHeader+n]
		if checksum(b[0], payload) != binary.BigEndian.Uint32(b[5:]) {
			if end == size {
				return good, io.ErrUnexpectedEOF
			}
			return good, errors.New("damaged; remove the directory to begin anew")
		}
		if err := replay(b[0], payload); err != nil {
			return good, err
		}
		good, b = end, b[entryHeader+n:]
	}
	return good, nil
}

func checksum(kind byte, payload []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte{kind}), crc32.IEEETable, payload)
}

// append writes one entry. A nil journal keeps nothing.
func (j *journal) append(kind byte, payload []byte) error {
	if j == nil {
		return nil
	}
	j.buf = append(j.buf[:0], kind)
	j.buf = binary.BigEndian.AppendUint32(j.buf, uint32(len(payload)))
	j.buf = binary.BigEndian.AppendUint32(j.buf, checksum(kind, payload))
	j.buf = append(j.buf, payload...)
	if _, err := j.f.WriteAt(j.buf, j.end); err != nil { // the next entry overwrites what was written of this one
		return fmt.Errorf("journal: %w", err)
	}
	j.end += int64(len(j.buf))
	return nil
}

func (j *journal) close() {
	if j != nil {
		_ = j.f.Close()
	}
}
