package rocketmq

import (
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// sentinels of answer codes. What is in no list is transient.
var sentinels = map[int]error{
	remoting.TopicNotExist:    errs.ErrUnknownTopic,
	remoting.GroupNotExist:    errs.ErrUnknownGroup,
	remoting.NoPermission:     errs.ErrNotAllowed,
	remoting.InvalidParameter: errs.ErrInvalid,
	remoting.MessageIllegal:   errs.ErrInvalid,
	remoting.NotSupported:     errs.ErrUnsupported,
}

// errUnavailable: a broker that is needed is not there now. It is transient.
var errUnavailable = errors.New("broker is not available")

// wrap names cluster and object in err and adds the sentinel that applies. nil stays nil.
func (c *Cluster) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	var answer *remoting.ResponseError
	if errors.As(err, &answer) {
		if answer.Code == remoting.NoPermission {
			err = fmt.Errorf("%w: check the keys behind auth.secret of the cluster, and that this user has what docs/security.md lists", err)
		}
		if s := sentinels[answer.Code]; s != nil && !errors.Is(err, s) {
			return fmt.Errorf("rocketmq cluster %q: %s: %w: %w", c.cfg.Name, what, s, err)
		}
	}
	if errors.Is(err, remoting.ErrClientClosed) && !errors.Is(err, errs.ErrClosed) {
		return fmt.Errorf("rocketmq cluster %q: %s: %w: %w", c.cfg.Name, what, errs.ErrClosed, err)
	}
	return fmt.Errorf("rocketmq cluster %q: %s: %w", c.cfg.Name, what, err)
}

// Classify implements broker.Cluster.
func (c *Cluster) Classify(err error) broker.Class {
	switch {
	case errors.Is(err, errs.ErrClosed):
		return broker.Closed
	case errors.Is(err, errs.ErrTooLarge), errors.Is(err, errs.ErrFenced):
		return broker.Refused
	case errors.Is(err, errs.ErrUnknownTopic), errors.Is(err, errs.ErrUnknownGroup), errors.Is(err, errs.ErrNotAllowed),
		errors.Is(err, errs.ErrInvalid), errors.Is(err, errs.ErrUnsupported):
		return broker.Fatal
	}
	return broker.Retry
}
