package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Load reads the files of all processes in dir and returns their events in the order of time. No file is an error.
func Load(dir string) ([]Event, error) {
	f := NewFollower(dir)
	events, err := f.Next()
	if err == nil && len(f.files) == 0 {
		err = fmt.Errorf("history: no *%s in %s: nothing was recorded", fileSuffix, dir)
	}
	return events, err
}

// Follower reads a history while it is written. It is for one goroutine.
type Follower struct {
	dir   string
	files map[string]*source
	names map[string]string // one copy of each word that comes again and again
}

// NewFollower begins at the beginning of every file in dir, also of those that appear later.
func NewFollower(dir string) *Follower {
	return &Follower{dir: dir, files: map[string]*source{}, names: map[string]string{}}
}

// Next returns what was recorded since the last call, in the order of time. Over several calls the events of one process
// are in order; those of another may be a little older than the last ones of the call before.
func (f *Follower) Next() ([]Event, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var events []Event
	for _, entry := range entries {
		name := entry.Name()
		if filepath.Ext(name) != fileSuffix {
			continue
		}
		s := f.files[name]
		if s == nil {
			s = &source{path: filepath.Join(f.dir, name)}
			f.files[name] = s
		}
		if events, err = s.read(events, f.names); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(events, byTime)
	return events, nil
}

func byTime(a, b Event) int { return cmp.Compare(a.T, b.T) }

// source is one file and how far it was read.
type source struct {
	path   string
	offset int64 // of the first line not yet read
	line   int   // lines read
	last   int64 // t of the last of them
}

// read appends the complete lines behind offset.
func (s *source) read(events []Event, names map[string]string) ([]Event, error) {
	b, err := s.rest()
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	for {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			return events, nil
		}
		e, err := parse(b[:end])
		if err == nil && e.T <= s.last {
			err = errors.New("time goes back: the machine's clock was set while the process recorded")
		}
		if err != nil {
			return nil, fmt.Errorf("history: %s line %d: %w", s.path, s.line+1, err)
		}
		for _, word := range []*string{&e.Topic, &e.Producer, &e.Group, &e.Member, &e.Cluster, &e.Partition, &e.Route} {
			*word = intern(names, *word)
		}
		events = append(events, e)
		b, s.offset, s.line, s.last = b[end+1:], s.offset+int64(end)+1, s.line+1, e.T
	}
}

func (s *source) rest() ([]byte, error) {
	file, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(s.offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

func parse(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	switch {
	case e.ID == "":
		return e, errors.New("no id")
	case e.T <= 0:
		return e, fmt.Errorf("t is %d: must be nanoseconds since 1970", e.T)
	}
	switch e.Op {
	case OpSend, OpOK, OpFail, OpUnknown, OpRecv, OpDone, OpRetry:
		return e, nil
	}
	return e, fmt.Errorf("unknown op %q", e.Op)
}

func intern(names map[string]string, s string) string {
	if known, ok := names[s]; ok {
		return known
	}
	names[s] = s
	return s
}
