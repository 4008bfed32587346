package zkcontract_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/testenv/zkcontract"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type embedded struct{ *zkserver.Server }

func (e embedded) CutConnections() error {
	e.DropConnections()
	return nil
}

func TestEmbedded(t *testing.T) {
	zkcontract.Run(t, func(t *testing.T) zkcontract.Target {
		s, err := zkserver.Start(context.Background(), zkserver.Options{})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		return embedded{s}
	})
}
