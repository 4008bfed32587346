package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// show prints v as JSON, or what text writes. Lines of cells that end with tabs are aligned.
func (a *app) show(v any, text func(w io.Writer)) error {
	var out bytes.Buffer
	if a.json() {
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		text(w)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	_, err := a.stdout.Write(out.Bytes())
	return err
}

// row writes one line of a table; an empty cell is "-".
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = fmt.Sprint(c); texts[i] == "" {
			texts[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(texts, "\t"))
}

// field writes one named value; nothing when it is empty.
func field(w io.Writer, name string, value any) {
	if text := fmt.Sprint(value); text != "" {
		fmt.Fprintf(w, "%s:\t%s\n", name, text)
	}
}

// flat is the text of an error in one line.
func flat(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }

// showDeleted says that something is gone.
func (a *app) showDeleted(kind, name string) error {
	return a.show(map[string]string{"deleted": name}, func(w io.Writer) { fmt.Fprintf(w, "%s %s deleted\n", kind, name) })
}
