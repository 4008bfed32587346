package migrate

import (
	"encoding/binary"
	"flag"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// anything is some kind of world.
func anything(choose chooser) setup {
	up := func(n int) int { return max(0, choose(2*n+2)-n-1) } // 0 in half of the worlds
	s := setup{
		Ordered: choose(2) == 0, Partitions: 1 + choose(2), Groups: 1 + choose(2), Members: 1 + choose(2), Asleep: choose(5) == 0,
		Messages: 4 + choose(40), Moves: 1 + choose(2), Hold: []int64{2_000, 30_000, 60_000}[choose(3)], Missing: choose(4) == 0, Steps: 300 + choose(900),
		Kills: up(2), Cuts: up(3), Snapshots: up(1), Lost: up(3), Failures: up(3), Rebalances: up(2), Edits: up(1), Strangers: choose(6) / 5,
		Markers: up(2), Rollbacks: up(1), Aborts: choose(6) / 5, Sleeps: up(1), Deposed: up(3), Away: up(3), Long: choose(2) == 0,
		Slow: []string{"", "", "s", "r", "c", "c0", "l", "n"}[choose(8)], Gates: 2 + choose(8),
	}
	if choose(3) == 0 {
		s.When = []State{Preparing, Canarying, Holding, Fencing, Switching, Sealing, Draining, Shutting, Closing}[choose(9)]
	}
	if choose(3) == 0 {
		s.Deaths = 1 + choose(2)
	}
	if choose(2) == 0 {
		s.Late = 1 + choose(7)
	}
	if s.Canaries = choose(3) == 0; s.Canaries && s.Ordered { // its order is not kept over processes that are cut off (canary-order)
		s.Cuts, s.Snapshots = 0, 0
	}
	return s
}

// No interleaving of what controllers, applications, brokers and people do loses a message, puts one before another that it
// has to follow, leaves something on a cluster that a receipt calls free, or gets stuck.
//
// A failing run is made small, printed step by step, and repeated with the flag -rapid.failfile that it names. More runs:
// TURNOUT_PROPERTY_CHECKS=2000.
func TestProperty(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	before := checks.String()
	defer func() { require.NoError(t, checks.Set(before)) }()
	require.NoError(t, checks.Set("12"))
	if n := os.Getenv("TURNOUT_PROPERTY_CHECKS"); n != "" {
		require.NoError(t, checks.Set(n))
	}
	e := newEngine(t)
	rapid.Check(t, func(rt *rapid.T) {
		numbers := rapid.Uint64()
		choose := func(n int) int { // rapid likes small numbers, and everybody is to have a turn
			h := fnv.New64a()
			h.Write(binary.LittleEndian.AppendUint64(nil, numbers.Draw(rt, "chance")))
			return int(h.Sum64() >> 8 % uint64(n))
		}
		w := e.run(anything(choose), choose)
		if w.bad != "" {
			rt.Fatalf("%s\n%+v\n%s", w.bad, w.setup, strings.Join(w.trace, "\n"))
		}
	})
}

// bites are worlds in which a rule that is missing does harm.
var bites = map[string]setup{
	"fence": {Messages: 60, Snapshots: 1, Cuts: 2, Long: true},
	"R7":    {Messages: 60, Cuts: 2, Long: true, Slow: "l"},
	"R9":    {Messages: 6, Moves: 2},
	"R11":   {Messages: 60, Snapshots: 1, Cuts: 2, Long: true, Late: 7},
	"R12":   {Ordered: true, Messages: 40},
	"R15":   {Messages: 40, Members: 2, Kills: 3, Rebalances: 3},
	"R19":   {Ordered: true, Messages: 60, Cuts: 2, Long: true},
	"R20":   {Ordered: true, Messages: 60, Slow: "r"},
	"R21":   {Ordered: true, Messages: 80, Members: 2, Cuts: 1, Moves: 2, Long: true},
	"R23":   {Ordered: true, Messages: 60, Late: 1},
	"R34":   {Ordered: true, Messages: 60, Canaries: true},
	"R30":   {Messages: 40, Edits: 2, Cuts: 1},
}

// A property that holds without a rule says nothing about it.
func TestPropertyFindsRulesThatAreMissing(t *testing.T) {
	e := newEngine(t)
	const most = 40
	rules := slices.Sorted(maps.Keys(bites))
	if testing.Short() {
		rules = rules[:3]
	}
	for _, rule := range rules {
		s := bites[rule]
		s.Partitions, s.Groups, s.Members, s.Moves = max(1, s.Partitions), max(1, s.Groups), max(1, s.Members), max(1, s.Moves)
		s.Hold, s.Steps, s.Off = 60_000, 1500, map[string]bool{rule: true}
		bad := ""
		for seed := uint64(0); seed < most && bad == ""; seed++ {
			bad = e.run(s, rand.New(rand.NewPCG(seed, 2)).IntN).bad //nolint:gosec // of a test
		}
		t.Logf("without %s: %s", rule, bad)
		require.NotEmpty(t, bad, "without %s nothing went wrong in %d runs", rule, most)
	}
}

// Worlds in which the cluster that is written dies, and moves are forced away from it (R31).
func TestPropertyOfForcedMoves(t *testing.T) {
	runs := 6
	if n, err := strconv.Atoi(os.Getenv("TURNOUT_PROPERTY_CHECKS")); err == nil {
		runs = n
	}
	e := newEngine(t)
	pending, takenOver := 0, 0
	for seed := range runs {
		choose := rand.New(rand.NewPCG(uint64(seed), 31)).IntN //nolint:gosec // of a test
		s := anything(choose)
		s.Deaths, s.Moves, s.Messages, s.Steps = 2, 2, max(20, s.Messages), max(900, s.Steps)
		w := e.run(s, choose)
		require.Empty(t, w.bad, "seed %d: %+v\n%s", seed, s, strings.Join(w.trace, "\n"))
		story := strings.Join(w.trace, "\n")
		pending += strings.Count(story, "→ pending")
		takenOver += strings.Count(story, "a move is forced")
	}
	t.Logf("%d runs: %d moves waited for a dead cluster, %d took another one over", runs, pending, takenOver)
	require.Positive(t, pending)
}
