package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/internal/count"
)

func newWatchCommand(a *app) *cobra.Command {
	var (
		recursive       bool
		count           int
		during, recheck time.Duration
	)
	cmd := &cobra.Command{
		Use:   "watch PATH",
		Short: "Print a ZooKeeper node and follow every change of it and of its children",
		Long: `Print a ZooKeeper node and follow every change of it and of its children, one line each:

  NODE, CHILD   what is there at the start (ABSENT: nothing yet)
  CREATED       the node was created
  DATA          its data was set: old → new version. More than one apart: sets that came quicker than they could be read
  DELETED       it was deleted
  CHILD+        a child was created
  CHILD DATA    a child's data was set
  CHILD-        a child was deleted
  CHILDREN      children came and went between two reads; the number of changes

PATH is absolute in ZooKeeper (below the chroot of --zookeeper, if it has one), not below --root. The node need not exist yet.
Watching goes on over lost connections, restarts of servers and expired sessions (DISCONNECTED and RECONNECTED on
stderr); what changed meanwhile is found by comparing and printed. The time is when the change was seen. A deletion has
no zxid, its version is the last one known. Ctrl-C ends it with exit code 0.`,
		Example: `  turnout watch /confs/data_item1
  turnout watch /turnout/topics/order_topic --recursive --output json
  turnout watch /turnout/topics/order_topic --count 1 --for 30s`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := args[0]
			if !strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.ContainsRune(p, 0) {
				return usagef("PATH %q: must be absolute and clean, e.g. /confs/data_item1", p)
			}
			if count < 0 || during < 0 {
				return usagef("--count %d --for %v: must not be below 0", count, during)
			}
			ctx := cmd.Context()
			if recheck <= 0 {
				return usagef("--recheck %v: must be more than 0", recheck)
			}
			conn, err := a.dialZooKeeper(ctx)
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			ctx, cancel := forTime(ctx, during)
			defer cancel()
			var seen int
			f := &follower{dial: a.dialZooKeeper, root: p, recursive: recursive, recheck: recheck,
				report: func(c change) error {
					if err := a.printChange(c, time.Now()); err != nil {
						return err
					}
					if c.kind != kindNode && c.kind != kindChild && c.kind != kindAbsent {
						seen++
					}
					if count > 0 && seen == count {
						return errSeenEnough
					}
					return nil
				},
				note: func(what, details string) {
					fmt.Fprintf(a.stderr, "%s  %s  %s\n", time.Now().Format(watchTime), what, details)
				},
			}
			if err := f.run(ctx, conn); !errors.Is(err, errSeenEnough) {
				return err
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "follow all nodes below PATH, not only its children")
	cmd.Flags().IntVar(&count, "count", 0, "end after so many changes (0: never)")
	cmd.Flags().DurationVar(&during, "for", 0, "end after this time (0: never)")
	cmd.Flags().DurationVar(&recheck, "recheck", 30*time.Second, "compare everything this often, in case the server lost a watch")
	return cmd
}

// forTime ends after d; 0: never.
func forTime(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

var errSeenEnough = errors.New("seen enough")

const watchTime = "2006-01-02 15:04:05.000"

// watchLine is one change in JSON.
type watchLine struct {
	Time       time.Time `json:"time"`
	Event      string    `json:"event"`
	Path       string    `json:"path"`
	Version    *int32    `json:"version,omitempty"`
	OldVersion *int32    `json:"oldVersion,omitempty"`
	Zxid       string    `json:"zxid,omitempty"`
	Data       *string   `json:"data,omitempty"`
	DataBase64 []byte    `json:"dataBase64,omitempty"` // instead of data when that is not UTF-8
	Unreadable bool      `json:"unreadable,omitempty"`
	Missed     int       `json:"missed,omitempty"`
}

func (a *app) printChange(c change, now time.Time) error {
	l := watchLine{Time: now, Event: c.kind, Path: c.path, Unreadable: c.unreadable, Missed: c.missed}
	if c.stat != nil && c.stat.Czxid != 0 {
		l.Version = &c.stat.Version
	}
	switch c.kind {
	case kindData, kindChildData:
		l.OldVersion = &c.oldVersion
		l.Zxid = hexZxid(c.stat.Mzxid)
	case kindNode, kindChild:
		l.Zxid = hexZxid(c.stat.Mzxid)
	case kindCreated, kindChildAdd:
		if c.stat != nil {
			l.Zxid = hexZxid(c.stat.Mzxid)
		}
	}
	if c.unreadable {
		l.Zxid = ""
	}
	if l.Zxid != "" {
		data := c.data
		if data == nil {
			data = []byte{}
		}
		l.Data, l.DataBase64 = textOrBytes(data)
	}
	if a.json() {
		return json.NewEncoder(a.stdout).Encode(l)
	}
	_, err := io.WriteString(a.stdout, l.text(c.data)+"\n")
	return err
}

func (l watchLine) text(data []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-10s  %s", l.Time.Format(watchTime), l.Event, l.Path)
	switch {
	case l.OldVersion != nil:
		fmt.Fprintf(&b, "  version %d → %d", *l.OldVersion, *l.Version)
	case l.Version != nil:
		fmt.Fprintf(&b, "  version %d", *l.Version)
	}
	if l.Zxid != "" {
		fmt.Fprintf(&b, "  zxid %s", l.Zxid)
	}
	switch {
	case l.Missed > 0:
		fmt.Fprintf(&b, "  %s came and went between two reads", count.Of(l.Missed, "change", "changes"))
	case l.Unreadable:
		b.WriteString("  (data not readable: no permission)")
	case l.Zxid != "":
		b.WriteString("  " + oneLine(data))
	}
	return b.String()
}

// oneLine shows data as it is if that is one printable line, else quoted, and long data shortened.
func oneLine(data []byte) string {
	const limit = 2000
	s, more := string(data), ""
	plain := s != "" && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if len(s) > limit {
		cut := limit
		for plain && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s, more = s[:cut], fmt.Sprintf(" … (%d bytes; --output json shows all)", len(data))
	}
	if !plain {
		s = strconv.Quote(s)
	}
	return s + more
}

func hexZxid(zxid int64) string { return "0x" + strconv.FormatInt(zxid, 16) }
