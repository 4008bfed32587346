package faulttest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/turnout-mq/turnout/testenv"
)

// results are those of one run of the matrix.
type results struct {
	seed    uint64
	backend testenv.Backend
	commit  string // when it began
	began   time.Time
	cells   []cell

	mu    sync.Mutex
	found map[cell]string
}

// note plays a cell and keeps its result, also when it fails.
func (r *results) note(t *testing.T, c cell, play func() string) {
	result := "**failed**"
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.found == nil {
			r.found = map[cell]string{}
		}
		if t.Failed() {
			result = "**failed**"
		}
		r.found[c] = result
	}()
	result = play()
}

// write puts the table in the place of the one of the same backend in a file, which has a section for each.
func (r *results) write(file string) error {
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- %s -->\n", r.backend), fmt.Sprintf("<!-- end of %s -->", r.backend)
	before, rest, found := strings.Cut(string(doc), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q to put the table between", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+r.table()+end+after), 0o644)
}

func (r *results) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	failed := 0
	for _, result := range r.found {
		if strings.HasPrefix(result, "**") {
			failed++
		}
	}
	fmt.Fprintf(&b, "%s, commit %s, %s/%s with %d CPUs, seed %d: %d of %d cells, %d failed, in %s.\n\n", r.began.UTC().Format(time.DateOnly), r.commit,
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), r.seed, len(r.found), len(r.cells), failed, time.Since(r.began).Round(time.Second))
	b.WriteString("| |")
	for _, p := range pairs {
		fmt.Fprintf(&b, " %s: %s |", p.short(), p)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(pairs)) + "\n")
	for _, ordered := range []bool{false, true} {
		fmt.Fprintf(&b, "| %s: %s |", mode(ordered)[:1], mode(ordered))
		for _, p := range pairs {
			fmt.Fprintf(&b, " %s |", r.sum(p, ordered))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n| fault |")
	for _, state := range phases {
		fmt.Fprintf(&b, " %s |", state)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(phases)) + "\n")
	for _, f := range faults {
		fmt.Fprintf(&b, "| %s |", f.name)
		for _, state := range phases {
			var texts []string
			for _, p := range pairs {
				for _, ordered := range []bool{false, true} {
					if result, ran := r.found[cell{state, f.name, ordered, p}]; ran {
						texts = append(texts, fmt.Sprintf("%s %s %s", p.short(), mode(ordered)[:1], result))
					}
				}
			}
			fmt.Fprintf(&b, " %s |", strings.Join(texts, ", "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// short is one letter for each kind.
func (p pair) short() string { return kindOf(p[0])[:1] + kindOf(p[1])[:1] }

// sum counts the results of a pair and mode.
func (r *results) sum(p pair, ordered bool) string {
	counts := map[string]int{}
	for c, result := range r.found {
		if c.pair == p && c.ordered == ordered {
			counts[result]++
		}
	}
	var texts []string
	for _, result := range slices.Sorted(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%d %s", counts[result], result))
	}
	return strings.Join(texts, ", ")
}

// commit names what was tested.
func commit() string {
	git := func(args ...string) string {
		out, err := exec.Command("git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	name := git("rev-parse", "--short", "HEAD")
	if name == "" {
		return "unknown"
	}
	if git("status", "--porcelain", "--untracked-files=no", "--", "*.go") != "" {
		name += " and changes"
	}
	return name
}
