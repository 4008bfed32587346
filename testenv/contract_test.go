package testenv

import (
	"errors"
	"testing"

	"github.com/turnout-mq/turnout/testenv/zkcontract"
)

func TestZooKeeperContract(t *testing.T) {
	Each(t, Spec{ZooKeeper: 1}, func(t *testing.T, e *Env) {
		zkcontract.Run(t, func(*testing.T) zkcontract.Target { return contractTarget{t, e} })
	})
}

type contractTarget struct {
	t *testing.T
	e *Env
}

func (c contractTarget) ConnectString() string { return c.e.ZooKeeper() }

func (c contractTarget) CutConnections() error {
	return errors.Join(c.e.Cut("zookeeper"), c.e.Heal("zookeeper"))
}

func (c contractTarget) ExpireSession(id int64) error { return c.e.ExpireSession(c.t.Context(), id) }
