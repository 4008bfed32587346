// Package races holds what the race detector reports of a child process against a list.
//
// Apache's RocketMQ library for Go has data races of its own, in its push consumer. A test that needs one runs it in a
// process of its own, with the environment variable Environment and its standard error captured, and requires that Unknown
// finds nothing there: a report is known only when both sides of it are on the list, rocketmq-client-go.txt.
package races

import (
	_ "embed"
	"regexp"
	"slices"
	"strings"
)

// Environment lets a child go on after a race, and end as if there had been none.
const Environment = "GORACE=exitcode=0"

const (
	ours    = "github.com/turnout-mq/turnout/"
	library = "github.com/apache/rocketmq-client-go/v2/"
)

//go:embed rocketmq-client-go.txt
var list string

// Report is one race.
type Report struct {
	Text string
	// Sides are the functions in which the two accesses were made: the innermost one of each that is the library's or
	// Turnout's; "" where there is none, or the detector has forgotten it.
	Sides []string
}

var (
	access = regexp.MustCompile(`(?m)^(?:Previous )?(?i:atomic )?(?i:read|write) (?:at|by) .*:\n((?:  .*\n)*)`)
	frame  = regexp.MustCompile(`(?m)^  (\S+)\(\)$`)
)

// In are the reports in what a process wrote to its standard error.
func In(output string) (reports []Report) {
	for _, text := range strings.Split(output, "WARNING: DATA RACE\n")[1:] {
		text, _, _ = strings.Cut(text, "\n==================")
		r := Report{Text: text + "\n"}
		for _, stack := range access.FindAllStringSubmatch(r.Text, -1) {
			r.Sides = append(r.Sides, side(stack[1]))
		}
		reports = append(reports, r)
	}
	return reports
}

func side(stack string) string {
	for _, f := range frame.FindAllStringSubmatch(stack, -1) {
		if strings.HasPrefix(f[1], ours) || strings.HasPrefix(f[1], library) {
			return f[1]
		}
	}
	return ""
}

// Unknown are the reports that are not on the list.
func Unknown(output string) []Report {
	return slices.DeleteFunc(In(output), Report.known)
}

// known: both sides are the library's and on the list; of one that the detector has forgotten the other decides.
func (r Report) known() bool {
	listed := 0
	for _, s := range r.Sides {
		name, theirs := strings.CutPrefix(s, library)
		switch {
		case s == "":
		case theirs && onList(name):
			listed++
		default:
			return false
		}
	}
	return listed > 0
}

func onList(name string) bool {
	return slices.ContainsFunc(strings.Split(list, "\n"), func(line string) bool {
		return line != "" && !strings.HasPrefix(line, "#") && (name == line || strings.HasPrefix(name, line+"."))
	})
}
