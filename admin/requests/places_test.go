package requests

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

func login(secret string) New {
	return New{Cluster: &ClusterSpec{Name: "kafka-d", Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}, Mechanism: "PLAIN", Secret: secret}}
}

// A request names no login but those that the servers are told of: not when it is filed, and not where another server carries it out.
func TestLoginsAreTakenFromAllowedPlacesAlone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	for _, secret := range []string{"env:HOME", "env:TURNOUT_WEBHOOK_KEY", "env:TURNOUT_TOKEN", "env:turnout_cluster_x", "env:", "file:/etc/shadow", "file:/etc/turnout/zookeeper", "file:/etc/turnout/clusters/../zookeeper", "file:/etc/turnout/clusters", "file:etc/turnout/clusters/x", "file:/etc/turnout/clusters//x", "file:/etc/turnout/clusters-other/x"} {
		_, err := service.Draft(t.Context(), admin, login(secret))
		require.ErrorIs(t, err, errs.ErrInvalid, secret)
	}
	_, err := service.Draft(t.Context(), admin, login("env:HOME"))
	require.ErrorContains(t, err, `secret "env:HOME": logins of clusters are taken from env:TURNOUT_CLUSTER_*, file:/etc/turnout/clusters/* only`)
	for _, secret := range []string{"env:TURNOUT_CLUSTER_KAFKA_A", "file:/etc/turnout/clusters/kafka-a", "file:/etc/turnout/clusters/eu/kafka-a"} {
		_, err := service.Draft(t.Context(), admin, login(secret))
		require.NoError(t, err, secret)
	}

	wider := s.service(func(c *Config) { c.Secrets = Places{"env:HOME"} })
	_, err = wider.Draft(t.Context(), admin, login("env:HOMES"))
	require.ErrorIs(t, err, errs.ErrInvalid)
	r := s.file(wider, admin, login("env:HOME"))
	r, err = wider.Approve(t.Context(), bob, r.ID, r.Version, Approval{})
	require.NoError(t, err)
	s.run(service)
	r = s.ended(r.ID)
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "secrets-allow")

	require.NoError(t, Places{"env:*", "file:/*", "file:/a/b", "file:/a/b-*"}.Check())
	for _, place := range []string{"", "HOME", "env:", "env:A*B", "file:x", "file:*", "file:/a/../b", "file:/a//*", "vault:x"} {
		require.ErrorIs(t, Places{place}.Check(), errs.ErrInvalid, place)
	}
}
