package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/secure"
)

// sentinels of sarama's errors. What is in no list is transient.
var sentinels = []struct {
	is   error
	from []error
}{
	{errs.ErrUnknownTopic, []error{sarama.ErrUnknownTopicOrPartition}},
	{errs.ErrConflict, []error{sarama.ErrTopicAlreadyExists}},
	{errs.ErrNotAllowed, []error{
		sarama.ErrTopicAuthorizationFailed, sarama.ErrGroupAuthorizationFailed, sarama.ErrClusterAuthorizationFailed,
		sarama.ErrSASLAuthenticationFailed, sarama.ErrUnsupportedSASLMechanism, sarama.ErrIllegalSASLState,
	}},
	{errs.ErrInvalid, []error{
		sarama.ErrInvalidTopic, sarama.ErrInvalidPartitions, sarama.ErrInvalidReplicationFactor, sarama.ErrInvalidConfig,
		sarama.ErrInvalidGroupId, sarama.ErrInvalidSessionTimeout, sarama.ErrInvalidRequest, sarama.ErrInvalidRecord,
		sarama.ErrInvalidTimestamp, sarama.ErrPolicyViolation, sarama.ErrInconsistentGroupProtocol,
	}},
	{errs.ErrUnsupported, []error{
		sarama.ErrUnsupportedVersion, sarama.ErrUnsupportedForMessageFormat, sarama.ErrUnsupportedCompressionType,
		sarama.ErrTopicDeletionDisabled,
	}},
	{errs.ErrClosed, []error{sarama.ErrClosedClient, sarama.ErrShuttingDown, sarama.ErrClosedConsumerGroup}},
}

// remedies of errors that say only what is so.
var remedies = []struct {
	is error
	do string
}{
	{sarama.ErrSASLAuthenticationFailed, "check user and password in the secret that auth.secret of the cluster refers to"},
	{sarama.ErrUnsupportedSASLMechanism, "set auth.mechanism of the cluster to one that the broker offers"},
	{sarama.ErrTopicAuthorizationFailed, needed},
	{sarama.ErrGroupAuthorizationFailed, needed},
	{sarama.ErrClusterAuthorizationFailed, needed},
}

const needed = "grant this user what docs/security.md lists"

// wrap names cluster and object in err, and adds the remedy and the sentinel that apply. nil stays nil.
func (c *Cluster) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, r := range remedies {
		if errors.Is(err, r.is) {
			err = fmt.Errorf("%w: %s", err, r.do)
			break
		}
	}
	if c.cfg.TLS != nil {
		err = secure.Explain(err)
	}
	for _, s := range sentinels {
		if errors.Is(err, s.is) {
			break
		}
		for _, from := range s.from {
			if errors.Is(err, from) {
				return fmt.Errorf("kafka cluster %q: %s: %w: %w", c.cfg.Name, what, s.is, err)
			}
		}
	}
	return fmt.Errorf("kafka cluster %q: %s: %w", c.cfg.Name, what, err)
}

// Classify implements broker.Cluster.
func (c *Cluster) Classify(err error) broker.Class {
	switch {
	case errors.Is(err, errs.ErrClosed):
		return broker.Closed
	case errors.Is(err, errs.ErrTooLarge), errors.Is(err, errs.ErrFenced), errors.Is(err, sarama.ErrMessageSizeTooLarge),
		errors.Is(err, sarama.ErrMessageSetSizeTooLarge):
		return broker.Refused
	case errors.Is(err, errs.ErrUnknownTopic), errors.Is(err, errs.ErrNotAllowed), errors.Is(err, errs.ErrInvalid),
		errors.Is(err, errs.ErrUnsupported):
		return broker.Fatal
	}
	return broker.Retry
}
