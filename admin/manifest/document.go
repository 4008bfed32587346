package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Document is what somebody wants the platform to have.
type Document struct {
	Clusters []Item[requests.ClusterSpec]
	Topics   []Item[requests.TopicSpec]
	Groups   []Item[requests.GroupSpec]
}

// Item is one thing of a Document.
type Item[T any] struct {
	Spec T
	Line int    // where it was read
	Note string // for whoever reads the document that is written; a comment
	// given are the fields that the document has for it.
	given map[string]bool
}

// file is a document as it is in YAML.
type file struct {
	Clusters []requests.ClusterSpec `yaml:"clusters,omitempty"`
	Topics   []requests.TopicSpec   `yaml:"topics,omitempty"`
	Groups   []requests.GroupSpec   `yaml:"groups,omitempty"`
}

// Len is how many things it has.
func (d *Document) Len() int { return len(d.Clusters) + len(d.Topics) + len(d.Groups) }

// Read reads YAML, of one document or several, which count together. ErrInvalid names every line with an unknown field, a value of the
// wrong type, something that is not acceptable (secrets are never shown), or a thing that is there twice.
func Read(in io.Reader) (*Document, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	d := &Document{}
	strict, lines := yaml.NewDecoder(bytes.NewReader(data)), yaml.NewDecoder(bytes.NewReader(data))
	strict.KnownFields(true)
	for {
		var f file
		var n yaml.Node
		err := strict.Decode(&f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = lines.Decode(&n)
		}
		if err != nil {
			return nil, unreadable(err)
		}
		d.Clusters = append(d.Clusters, items(f.Clusters, &n, "clusters")...)
		d.Topics = append(d.Topics, items(f.Topics, &n, "topics")...)
		d.Groups = append(d.Groups, items(f.Groups, &n, "groups")...)
	}
	if d.Len() == 0 {
		return nil, fmt.Errorf("%w: the document has nothing: give clusters, topics or groups", errs.ErrInvalid)
	}
	return d, d.check()
}

var (
	unknownField = regexp.MustCompile(`field (.+) not found in type \S+`)
	shownValue   = regexp.MustCompile(" `[^`]*`")
	// types are those of ours, in the library's words.
	types = strings.NewReplacer("[]requests.ClusterSpec", "a list of clusters", "[]requests.TopicSpec", "a list of topics", "[]requests.GroupSpec", "a list of groups",
		"requests.ClusterSpec", "a cluster", "requests.TopicSpec", "a topic", "requests.GroupSpec", "a group", "requests.TLSSpec", "tls settings", "manifest.file", "a document",
		"broker.Kind", "a text", "metadata.Order", "a text", "metadata.Start", "a text")
)

// unreadable says what the library says, without types of ours and without values, one of which might be a secret.
func unreadable(err error) error {
	text := []string{err.Error()}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		text = wrong.Errors
	}
	all := make([]error, len(text))
	for i, t := range text {
		t = unknownField.ReplaceAllString(t, "there is no field $1")
		all[i] = errors.New(types.Replace(shownValue.ReplaceAllString(t, "")))
	}
	return fmt.Errorf("%w: %w", errs.ErrInvalid, errors.Join(all...))
}

// items are the things of one list, with the lines and fields that they have in the document.
func items[T any](specs []T, document *yaml.Node, list string) []Item[T] {
	var nodes []*yaml.Node
	if len(document.Content) > 0 {
		if n := fields(document.Content[0])[list]; n != nil {
			nodes = resolved(n).Content
		}
	}
	all := make([]Item[T], len(specs))
	for i, spec := range specs {
		all[i] = Item[T]{Spec: spec, given: map[string]bool{}}
		if i < len(nodes) {
			all[i].Line = nodes[i].Line
			for name := range fields(nodes[i]) {
				all[i].given[name] = true
			}
		}
	}
	return all
}

func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// fields of a mapping, with those that are merged into it.
func fields(n *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	n = resolved(n)
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		if key != "<<" {
			all[key] = value
			continue
		}
		merged := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			merged = value.Content
		}
		for _, m := range merged {
			for name, value := range fields(m) {
				all[name] = cmp.Or(all[name], value)
			}
		}
	}
	return all
}

// check is ErrInvalid for what can not be asked for, whatever the platform has.
func (d *Document) check() error {
	var wrong []error
	seen := map[string]int{}
	once := func(what, name string, line int) {
		if before := seen[what+" "+name]; before > 0 {
			wrong = append(wrong, fmt.Errorf("line %d: %s %s is in line %d already: %w", line, what, name, before, errs.ErrInvalid))
			return
		}
		seen[what+" "+name] = line
	}
	look := func(kind, name string, line int, n requests.New) {
		if err := n.Validate(); err != nil {
			wrong = append(wrong, fmt.Errorf("line %d: %w", line, err))
		}
		once(kind, name, line)
	}
	for _, c := range d.Clusters {
		look(requests.KindCluster, c.Spec.Name, c.Line, requests.New{Cluster: &c.Spec})
	}
	for _, t := range d.Topics {
		look(requests.KindTopic, t.Spec.Name, t.Line, requests.New{Topic: &t.Spec})
		if t.Spec.Cluster != "" {
			once("a topic on cluster "+t.Spec.Cluster+" that is called", cmp.Or(t.Spec.Physical, t.Spec.Name), t.Line)
		}
	}
	for _, g := range d.Groups {
		look(requests.KindGroup, g.Spec.Name, g.Line, requests.New{Group: &g.Spec})
	}
	const most = 20 // of a document that is wrong everywhere, more help nobody
	if more := len(wrong) - most; more > 0 {
		wrong = append(slices.Clone(wrong[:most]), fmt.Errorf("%w: and %d more", errs.ErrInvalid, more))
	}
	return errors.Join(wrong...)
}

// Write writes a document that Read reads, with notes as comments; head is what comes first.
func (d *Document) Write(out io.Writer, head []string) error {
	for _, line := range head {
		if _, err := fmt.Fprintln(out, "# "+line); err != nil {
			return err
		}
	}
	root := &yaml.Node{Kind: yaml.MappingNode}
	if err := errors.Join(add(root, "clusters", d.Clusters), add(root, "topics", d.Topics), add(root, "groups", d.Groups)); err != nil {
		return err
	}
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	return errors.Join(e.Encode(root), e.Close())
}

// add adds a list to a document, unless it is empty.
func add[T any](root *yaml.Node, name string, all []Item[T]) error {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, item := range all {
		n := &yaml.Node{}
		if err := n.Encode(item.Spec); err != nil {
			return err
		}
		if item.Note != "" {
			n.HeadComment = item.Note
		}
		list.Content = append(list.Content, n)
	}
	if len(list.Content) > 0 {
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, list)
	}
	return nil
}
