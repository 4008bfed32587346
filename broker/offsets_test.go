package broker_test

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/turnout-mq/turnout/broker"
)

func TestOffsetsJSON(t *testing.T) {
	for text, offsets := range map[string]broker.Offsets{
		`null`:               nil,
		`[]`:                 {},
		`[0]`:                {"0": 0},
		`[9120,8841]`:        {"0": 9120, "1": 8841},
		`{"1":5}`:            {"1": 5},
		`{"0":1,"2":3}`:      {"0": 1, "2": 3},
		`{"00":1}`:           {"00": 1},
		`{"-0":1}`:           {"-0": 1},
		`{"a:0":7,"b:0":0}`:  {"a:0": 7, "b:0": 0},
		`[9007199254740993]`: {"0": 9007199254740993},
	} {
		written, err := json.Marshal(offsets)
		require.NoError(t, err)
		require.Equal(t, text, string(written))
		read := broker.Offsets{"left": 1}
		require.NoError(t, json.Unmarshal([]byte(text), &read), text)
		require.Equal(t, offsets, read, text)
		require.Equal(t, offsets == nil, read == nil, "not said is not none: %s", text)
	}
	for _, text := range []string{`[-1]`, `{"a:0":-5}`, `"x"`, `[1.5]`, `["1"]`, `{"0":null,"1":"x"}`, `5`, ``} {
		var o broker.Offsets
		require.Error(t, json.Unmarshal([]byte(text), &o), text)
	}
	var object broker.Offsets
	require.NoError(t, json.Unmarshal([]byte(` {"1":4,"0":3} `), &object), "both forms are read")
	require.Equal(t, broker.Offsets{"0": 3, "1": 4}, object)
}

func TestOffsetsJSONRoundTrip(t *testing.T) {
	names := rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 6), strconv.Itoa),
		rapid.StringMatching(`broker-[ab]:[0-9]{1,2}`))
	rapid.Check(t, func(t *rapid.T) {
		offsets := broker.Offsets(rapid.MapOf(names, rapid.Int64Min(0)).Draw(t, "offsets"))
		b, err := json.Marshal(offsets)
		require.NoError(t, err)
		var read broker.Offsets
		require.NoError(t, json.Unmarshal(b, &read))
		require.Equal(t, offsets, read)
	})
}

func TestReachedAndMissing(t *testing.T) {
	for name, test := range map[string]struct {
		at, end broker.Offsets
		reached bool
		missing int64
	}{
		"nothing to do":             {nil, nil, true, 0},
		"no partition":              {nil, broker.Offsets{}, true, 0},
		"empty partitions":          {nil, broker.Offsets{"0": 0, "1": 0}, true, 0},
		"no position":               {broker.Offsets{}, broker.Offsets{"0": 3}, false, 3},
		"there":                     {broker.Offsets{"0": 3}, broker.Offsets{"0": 3}, true, 0},
		"beyond":                    {broker.Offsets{"0": 5}, broker.Offsets{"0": 3}, true, 0},
		"one is behind":             {broker.Offsets{"0": 5, "1": 1}, broker.Offsets{"0": 3, "1": 4}, false, 3},
		"ahead pays for nobody":     {broker.Offsets{"0": 100, "1": 1}, broker.Offsets{"0": 3, "1": 4}, false, 3},
		"other partitions, ignored": {broker.Offsets{"0": 3, "9": 1}, broker.Offsets{"0": 3}, true, 0},
	} {
		require.Equal(t, test.reached, test.at.Reached(test.end), name)
		require.Equal(t, test.missing, test.at.Missing(test.end), name)
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) broker.Offsets {
			return rapid.MapOf(rapid.SampledFrom([]string{"0", "1", "2"}), rapid.Int64Range(0, 5)).Draw(t, label)
		}
		at, end := draw("at"), draw("end")
		require.Equal(t, at.Missing(end) == 0, at.Reached(end))
	})
}

func TestPartitionNames(t *testing.T) {
	for _, sorted := range [][]string{
		{},
		{"0", "1", "2", "10", "11"},
		{"broker-a:0", "broker-a:2", "broker-a:10", "broker-b:1"},
		{"a:b:9", "a:b:10"},
		{"a:10", "ab:9"},
	} {
		offsets := broker.Offsets{}
		for _, name := range sorted {
			offsets[name] = 1
		}
		names := offsets.Names()
		if len(sorted) > 0 {
			require.Equal(t, sorted, names)
		} else {
			require.Empty(t, names)
		}
	}
	require.Equal(t, []string{"1", "2", "10"}, broker.SortPartitions([]string{"10", "1", "2"}))
	name := rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 200), strconv.Itoa),
		rapid.StringMatching(`[ab]{1,2}:[0-9]{1,3}`))
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(name, 0, 12, rapid.ID).Draw(t, "names")
		first := broker.SortPartitions(append([]string{}, names...))
		shuffled := rapid.Permutation(names).Draw(t, "shuffled")
		require.Equal(t, first, broker.SortPartitions(append([]string{}, shuffled...)), "one order whatever it was before")
	})
}

func TestOffsetsClone(t *testing.T) {
	require.Nil(t, broker.Offsets(nil).Clone())
	require.NotNil(t, broker.Offsets{}.Clone())
	a := broker.Offsets{"0": 1}
	b := a.Clone()
	b["0"] = 2
	require.Equal(t, broker.Offsets{"0": 1}, a)
}

func TestReservedHeader(t *testing.T) {
	for _, name := range []string{"turnout-id", "Turnout-Anything", "TURNOUT-x", "KEYS", "TAGS", "__x", "TIMER_DELAY_MS"} {
		require.True(t, broker.ReservedHeader(name), name)
	}
	for _, name := range []string{"trace", "turnout", "turnou-id", "keys", "x-turnout-id", "_x", "traceparent"} {
		require.False(t, broker.ReservedHeader(name), name)
	}
}
