package metadata

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
)

var (
	nameExp = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,120}$`)
	// physicalExp is what either kind of broker may allow; the broker itself is stricter.
	physicalExp = regexp.MustCompile(`^[a-zA-Z0-9._%|-]{1,249}$`)
)

const (
	nameRule     = "must be 1 to 120 of a-z A-Z 0-9 _ -"
	physicalRule = "must be 1 to 249 of a-z A-Z 0-9 . _ - %% |, and not . or .."
)

// ValidName says whether name may be the name of a topic, group, cluster or application.
func ValidName(name string) bool { return nameExp.MatchString(name) }

// CheckName is ErrInvalid when name may not be the name of a kind ("topic", "group", …).
func CheckName(kind, name string) error {
	if ValidName(name) {
		return nil
	}
	return fmt.Errorf("%w: %s name %s: %s", errs.ErrInvalid, kind, show(name), nameRule)
}

func (p *problems) name(field, name string) {
	if !ValidName(name) {
		p.add(field, name, nameRule)
	}
}

func (p *problems) physical(field, name string) {
	if !physicalExp.MatchString(name) || name == "." || name == ".." {
		p.add(field, name, physicalRule)
	}
}

// Zxid is ZooKeeper's number of a change. In JSON it is a string like "0x1f".
type Zxid int64

func (z Zxid) String() string { return "0x" + strconv.FormatUint(uint64(z), 16) }

// MarshalJSON writes "0x…".
func (z Zxid) MarshalJSON() ([]byte, error) { return []byte(`"` + z.String() + `"`), nil }

// UnmarshalJSON reads "0x…".
func (z *Zxid) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf(`want a string like "0x1f": %w`, err)
	}
	digits, ok := strings.CutPrefix(s, "0x")
	n, err := strconv.ParseUint(digits, 16, 63)
	if !ok || err != nil {
		return fmt.Errorf(`want a string like "0x1f", not %s`, show(s))
	}
	*z = Zxid(n)
	return nil
}

// Order is what order of messages is kept.
type Order string

// The orders.
const (
	OrderNone Order = "none"
	OrderKey  Order = "key" // messages of one key one after the other
)

func (p *problems) order(o Order) {
	if o != OrderNone && o != OrderKey {
		p.add("order", string(o), `must be "none" or "key"`)
	}
}
