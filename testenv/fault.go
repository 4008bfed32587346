package testenv

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Nodes returns the names that the faults take, sorted: of ZooKeeper's servers and of the Kafka and RocketMQ
// clusters. The package comment says what else they take.
func (e *Env) Nodes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, c := range e.clusters {
		if c.kind != kindZooKeeper {
			names = append(names, c.name)
			continue
		}
		for _, n := range c.nodes {
			names = append(names, n.name)
		}
	}
	slices.Sort(names)
	return names
}

// nodes returns the nodes that a name means.
func (e *Env) nodes(name string) ([]*node, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.clusters[name]; c != nil {
		return c.nodes, nil
	}
	for _, c := range e.clusters {
		for _, n := range c.nodes {
			if n.name == name {
				return []*node{n}, nil
			}
		}
	}
	return nil, fmt.Errorf("testenv: no node %q; see Env.Nodes", name)
}

// fault does f with all nodes that name means, at once.
func (e *Env) fault(what, name string, f func(*node) error) error {
	nodes, err := e.nodes(name)
	if err != nil {
		return err
	}
	e.log.Info("fault", zap.String("what", what), zap.String("node", name))
	return each(nodes, f)
}

// untilClose returns a ctx that also ends when Close is called.
func (e *Env) untilClose(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.closing, cancel)
	return ctx, func() { stop(); cancel() }
}

// Stop ends a node as its operator would, and returns when it has ended. Its clients' connections are closed
// and new ones refused. A node that takes longer than ctx or 20 s is killed, with an error. Nothing happens to
// a node that does not run. RocketMQ's broker is killed: it takes 8 to 14 s to end, and keeps its data anyhow.
func (e *Env) Stop(ctx context.Context, name string) error {
	ctx, cancel := e.untilClose(ctx)
	defer cancel()
	return e.fault("stop", name, func(n *node) error { return n.stop(ctx) })
}

// Kill ends a node at once, by SIGKILL on Servers, and returns when it has ended. Nothing happens to a node
// that does not run.
func (e *Env) Kill(_ context.Context, name string) error {
	return e.fault("kill", name, (*node).kill)
}

// Restart starts a node on its old addresses with its old data and returns when it serves; one that runs is
// stopped first. Cut and Delay stay in force.
func (e *Env) Restart(ctx context.Context, name string) error {
	ctx, cancel := e.untilClose(ctx)
	defer cancel()
	return e.fault("restart", name, func(n *node) error { return n.restart(ctx) })
}

// Pause freezes a node until Resume, Stop, Kill or Restart: its connections stay open and it accepts new ones,
// but nothing is answered. Time goes on: what is due meanwhile, such as the end of a session, comes with Resume.
func (e *Env) Pause(name string) error { return e.fault("pause", name, (*node).pause) }

// Resume lets a paused node go on.
func (e *Env) Resume(name string) error { return e.fault("resume", name, (*node).resume) }

// Cut resets the connections between a node and its clients and refuses new ones until Heal. An error if the
// node has no relay: see Spec.Proxy.
func (e *Env) Cut(name string) error {
	return e.fault("cut", name, func(n *node) error { return n.setCut(true) })
}

// Heal ends Cut.
func (e *Env) Heal(name string) error {
	return e.fault("heal", name, func(n *node) error { return n.setCut(false) })
}

// Delay delays whatever a node and its clients send to each other from now on, in each direction by d; 0 ends
// that. Connecting is not delayed. An error if the node has no relay: see Spec.Proxy.
func (e *Env) Delay(name string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("testenv: delay of %v: must not be negative", d)
	}
	return e.fault("delay "+d.String(), name, func(n *node) error { return n.setDelay(d) })
}

// Mend undoes what faults did: nodes that were ended run again, paused ones go on, and nothing is cut or delayed. It
// returns when all serve.
func (e *Env) Mend(ctx context.Context) error {
	ctx, cancel := e.untilClose(ctx)
	defer cancel()
	return each(e.Nodes(), func(name string) error {
		return e.fault("mend", name, func(n *node) error { return n.mend(ctx) })
	})
}
