package history

import (
	"bufio"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/turnout-mq/turnout/internal/errs"
)

// maxLine is the longest line that is read; the Recorder's own are some hundred bytes.
const maxLine = 1 << 20

// Load reads the files of all processes in dir and returns their events in the order of time. No file is an error; a
// damaged line is ErrInvalid and named as file:line.
func Load(dir string) ([]Event, error) {
	f := NewFollower(dir)
	events, err := f.Next()
	if err == nil && len(f.files) == 0 {
		err = fmt.Errorf("history: no *%s in %s: nothing was recorded", fileSuffix, dir)
	}
	return events, err
}

// Input is what Read has read.
type Input struct {
	Events []Event  // of all files, in the order of time
	Torn   []string // files whose last line has no end: their process died while writing, and the line was left out
}

// Stdin is the path that makes Read take its standard input.
const Stdin = "-"

// Read reads one run from several paths: files, folders (all files of processes in them) and Stdin. A file is that of one
// process, so that its stamps grow; what comes through stdin may be several files, one after the other. A damaged line is
// ErrInvalid and named as file:line, and so are a path that is given twice and a folder without histories; a path that does
// not exist is ErrNotFound. More than limit records are ErrTooLarge (0: no limit): all are held in memory, with what Check needs
// some 650 bytes for each.
func Read(stdin io.Reader, limit int, paths ...string) (Input, error) {
	r := newReader()
	r.limit = limit
	var in Input
	var runs [][]Event
	take := func(s *source, from io.Reader) error {
		read, err := r.read(s, from)
		runs = append(runs, read...)
		if s.torn {
			in.Torn = append(in.Torn, s.path)
		}
		return err
	}
	files, err := expand(paths)
	if err != nil {
		return in, err
	}
	for _, path := range files {
		if path == Stdin {
			err = take(&source{path: "stdin", mixed: true}, stdin)
		} else {
			err = r.open(&source{path: path}, take)
		}
		if err != nil {
			return Input{}, err
		}
	}
	in.Events = merge(runs)
	return in, nil
}

// expand puts the files of a folder in its place.
func expand(paths []string) ([]string, error) {
	var files []string
	var seen []os.FileInfo
	stdin := false
	add := func(path string, info os.FileInfo) error {
		for _, other := range seen {
			if os.SameFile(info, other) {
				return fmt.Errorf("%w: %s is given twice: every event would count twice", errs.ErrInvalid, path)
			}
		}
		seen, files = append(seen, info), append(files, path)
		return nil
	}
	for _, path := range paths {
		if path == Stdin {
			if stdin {
				return nil, fmt.Errorf("%w: history: standard input (%s) is given twice", errs.ErrInvalid, Stdin)
			}
			stdin, files = true, append(files, path)
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, broken(err)
		}
		if !info.IsDir() {
			if err := add(path, info); err != nil {
				return nil, broken(err)
			}
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, broken(err)
		}
		before := len(files)
		for _, entry := range entries {
			if filepath.Ext(entry.Name()) != fileSuffix {
				continue
			}
			file := filepath.Join(path, entry.Name())
			info, err := os.Stat(file)
			if err == nil {
				err = add(file, info)
			}
			if err != nil {
				return nil, broken(err)
			}
		}
		if len(files) == before {
			return nil, fmt.Errorf("%w: history: no *%s in %s: nothing was recorded", errs.ErrInvalid, fileSuffix, path)
		}
	}
	return files, nil
}

// Follower reads a history while it is written. It is for one goroutine.
type Follower struct {
	dir   string
	files map[string]*source
	r     *reader
}

// NewFollower begins at the beginning of every file in dir, also of those that appear later.
func NewFollower(dir string) *Follower {
	return &Follower{dir: dir, files: map[string]*source{}, r: newReader()}
}

// Next returns what was recorded since the last call, in the order of time. Over several calls the events of one process
// are in order; those of another may be a little older than the last ones of the call before.
func (f *Follower) Next() ([]Event, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, broken(err)
	}
	var runs [][]Event
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
		err := f.r.open(s, func(s *source, from io.Reader) error {
			read, err := f.r.read(s, from)
			runs = append(runs, read...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return merge(runs), nil
}

// source is one file and how far it was read.
type source struct {
	path   string
	mixed  bool  // may be the files of several processes: time may go back
	offset int64 // of the first line not yet read
	line   int   // lines read
	last   int64 // t of the last of them
	torn   bool  // something without an end of line is behind offset
}

// reader is what reading many files shares.
type reader struct {
	lines *bufio.Reader
	names map[string]string // one copy of each word that comes again and again
	limit int               // records that are read in all; 0: no limit
	count int               // so far
}

func newReader() *reader {
	return &reader{lines: bufio.NewReaderSize(nil, maxLine), names: map[string]string{}}
}

// open lets take read the part of s that was not read yet.
func (r *reader) open(s *source, take func(*source, io.Reader) error) error {
	file, err := os.Open(s.path)
	if err != nil {
		return broken(err)
	}
	defer file.Close()
	if _, err := file.Seek(s.offset, io.SeekStart); err != nil {
		return broken(err)
	}
	return take(s, file)
}

// maxRun bounds a run, so that what is long is never copied to grow.
const maxRun = 1 << 13

// read returns the events of the complete lines, in runs of growing time.
func (r *reader) read(s *source, from io.Reader) (runs [][]Event, err error) {
	r.lines.Reset(from)
	var run []Event
	for {
		line, err := r.lines.ReadSlice('\n')
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			s.torn = len(line) > 0
			if len(run) > 0 {
				runs = append(runs, run)
			}
			return runs, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, s.damaged(fmt.Errorf("longer than %d bytes: not a line of a history", maxLine))
		default:
			return nil, fmt.Errorf("history: reading %s: %w", s.path, err)
		}
		if r.count++; r.limit > 0 && r.count > r.limit {
			return nil, fmt.Errorf("%w: history: %s:%d: more than %d records", errs.ErrTooLarge, s.path, s.line+1, r.limit)
		}
		run = append(run, Event{})
		e := &run[len(run)-1]
		if err := e.parse(line[:len(line)-1], r.names); err != nil {
			return nil, s.damaged(err)
		}
		if e.T <= s.last && !s.mixed {
			return nil, s.damaged(errors.New("time goes back: the machine's clock was set while the process recorded; " +
				"or the file holds several processes, which can only be read through standard input"))
		}
		back := e.T < s.last
		s.offset, s.line, s.last = s.offset+int64(len(line)), s.line+1, e.T
		switch n := len(run); {
		case back:
			runs, run = append(runs, run[:n-1]), []Event{*e}
		case n == maxRun:
			runs, run = append(runs, run), make([]Event, 0, maxRun)
		}
	}
}

// damaged is what is wrong with the line behind the last one that was read.
func (s *source) damaged(err error) error {
	return fmt.Errorf("%w: history: %s:%d: %w", errs.ErrInvalid, s.path, s.line+1, err)
}

func broken(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: history: %w", errs.ErrNotFound, err)
	}
	return fmt.Errorf("history: %w", err)
}

// merge puts runs that are each in the order of time into one; of two events of one moment the one of the earlier run comes
// first. It empties the list of runs, so that memory becomes free as it goes.
func merge(runs [][]Event) []Event {
	if len(runs) == 1 {
		return runs[0]
	}
	total := 0
	h := make(heads, 0, len(runs))
	for i, run := range runs {
		if len(run) > 0 {
			total += len(run)
			h = append(h, head{run, i})
		}
	}
	if total == 0 {
		return nil
	}
	clear(runs)
	heap.Init(&h)
	events := make([]Event, 0, total)
	for len(h) > 0 {
		first := &h[0]
		until := h.next()
		n := 0
		for n < len(first.run) && (n == 0 || first.run[n].T < until) {
			n++
		}
		events = append(events, first.run[:n]...)
		if first.run = first.run[n:]; len(first.run) > 0 {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return events
}

// head is what is left of a run.
type head struct {
	run    []Event
	number int
}

type heads []head

func (h heads) Len() int { return len(h) }
func (h heads) Less(i, j int) bool {
	a, b := h[i], h[j]
	return a.run[0].T < b.run[0].T || a.run[0].T == b.run[0].T && a.number < b.number
}
func (h heads) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)   { *h = append(*h, x.(head)) }
func (h *heads) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// next is the time of the first event that is not of the first run.
func (h heads) next() int64 {
	t := int64(math.MaxInt64)
	for i := 1; i < min(3, len(h)); i++ {
		t = min(t, h[i].run[0].T)
	}
	return t
}
