package backup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// The head of a file.
const (
	Format  = "turnout-backup"
	version = 1
)

// File is a backup.
type File struct {
	Format     string    `json:"format"`
	V          int       `json:"v"`
	At         time.Time `json:"at"` // when it was begun
	Root       string    `json:"root"`
	ShadowRoot string    `json:"shadowRoot"`
	Ensemble   Ensemble  `json:"ensemble"`
	Nodes      []Node    `json:"nodes"`  // below the root, by path
	Shadow     []Node    `json:"shadow"` // below the shadow root
}

// Ensemble says which ZooKeeper the metadata is from.
type Ensemble struct {
	ID       string   `json:"id"`
	Succeeds []string `json:"succeeds"`
}

// Node is one node. Data is its content if that is JSON, Bytes if it is not; neither: it is empty.
type Node struct {
	Path  string          `json:"path"` // below the root, without a / before it
	Data  json.RawMessage `json:"data,omitempty"`
	Bytes []byte          `json:"bytes,omitempty"`
	// Ahead, of the wish of a topic, is how many wishes it is ahead of the route; 2 stands for more than one.
	Ahead int `json:"ahead,omitempty"`
}

func newNode(path string, content []byte) Node {
	n := Node{Path: path}
	switch {
	case len(content) == 0:
	case json.Valid(content):
		n.Data = content
	default:
		n.Bytes = content
	}
	return n
}

// content is what is in the node.
func (n Node) content() []byte {
	if len(n.Data) > 0 {
		return n.Data
	}
	return n.Bytes
}

// same compares contents; space between the words of JSON is none.
func same(a, b []byte) bool { return bytes.Equal(packed(a), packed(b)) }

func packed(data []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, data) != nil {
		return data
	}
	return out.Bytes()
}

// Write writes the file.
func (f *File) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(f)
}

// Read reads a file that Write has written. ErrInvalid: it is none, or not all of it.
func Read(r io.Reader) (*File, error) {
	var f File
	d := json.NewDecoder(r)
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: this is no backup, or not all of it: %w", errs.ErrInvalid, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: there is something after the end of the backup: take a file as turnout backup has written it", errs.ErrInvalid)
	}
	switch {
	case f.Format != Format:
		return nil, fmt.Errorf("%w: format %q: must be %q", errs.ErrInvalid, f.Format, Format)
	case f.V != version:
		return nil, fmt.Errorf("%w: v %d: this version of Turnout reads backups of v %d: use the version that wrote it, or a newer one", errs.ErrInvalid, f.V, version)
	case f.Ensemble.ID == "":
		return nil, fmt.Errorf("%w: ensemble.id is empty: applications that run could not tell that the restored metadata is theirs", errs.ErrInvalid)
	}
	for _, nodes := range [][]Node{f.Nodes, f.Shadow} {
		seen := map[string]bool{}
		for i, n := range nodes {
			switch {
			case !plain(n.Path):
				return nil, fmt.Errorf("%w: path %q of node %d: must be like topics/order_topic", errs.ErrInvalid, n.Path, i)
			case seen[n.Path]:
				return nil, fmt.Errorf("%w: path %q is there twice", errs.ErrInvalid, n.Path)
			case n.Ahead < 0 || n.Ahead > 2:
				return nil, fmt.Errorf("%w: ahead %d of %s: must be 0 to 2", errs.ErrInvalid, n.Ahead, n.Path)
			}
			seen[n.Path] = true
		}
	}
	return &f, nil
}

// plain says that a path names a node below a root.
func plain(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return false
		}
	}
	return true
}
