package metadata_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

func TestWhereAGroupBegins(t *testing.T) {
	route := &metadata.Route{Stays: []metadata.Stay{
		{Cluster: "a"},
		{Cluster: "b", Start: broker.Offsets{"0": 14, "1": 2}, End: broker.Offsets{"0": 20, "1": 30}},
		{Cluster: "b", Start: broker.Offsets{"0": 20, "1": 30}},
	}}
	earliest := &metadata.Group{Start: metadata.StartEarliest, From: map[string]map[string]broker.Offsets{"t": {"a": {"0": 7}}}}
	latest := &metadata.Group{Start: metadata.StartLatest, From: map[string]map[string]broker.Offsets{"t": {"a": {"0": 7}, "b": {"0": 3, "1": 25}}}}

	require.Equal(t, broker.Offsets{}, earliest.StartOn(route, "t", "a"), "the first stay begins at the first message")
	require.Equal(t, broker.Offsets{"0": 14, "1": 2}, earliest.StartOn(route, "t", "b"), "the oldest stay on the cluster counts")
	turned := route.Clone()
	slices.Reverse(turned.Stays)
	require.Equal(t, broker.Offsets{"0": 14, "1": 2}, earliest.StartOn(&turned, "t", "b"), "in whatever order they are")
	turned.Stays = append(turned.Stays, metadata.Stay{Cluster: "b", Start: broker.Offsets{"0": 17}})
	require.Equal(t, broker.Offsets{"0": 14}, earliest.StartOn(&turned, "t", "b"), "what one of them does not name begins at the first message")
	require.Equal(t, broker.Offsets{"0": 7}, latest.StartOn(route, "t", "a"), "latest: where the topic ended at registration")
	require.Equal(t, broker.Offsets{"0": 14, "1": 25}, latest.StartOn(route, "t", "b"), "latest: the larger of the two")
	require.Equal(t, broker.Offsets{}, latest.StartOn(route, "other", "a"))
}
