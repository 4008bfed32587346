package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
)

// TransactionsUnknown is the code of the finding that open transactions can not be seen.
const TransactionsUnknown = "transactions-unknown"

// closedUnder says what becomes of a transaction whose topic is closed under it, and how one that nobody ends is ended.
var closedUnder = map[broker.Kind]struct{ loss, remedy string }{
	broker.Kafka:    {"closing the topic would keep them from ever ending", "abort one that nobody ends: kafka-transactions.sh abort"},
	broker.RocketMQ: {"what they commit would be stored where nobody reads any more", "one that nobody ends is given up by its broker, after transactionCheckMax questions to its producers, transactionCheckInterval apart"},
}

// decided is ErrConflict while transactions are open on a topic. It must not be closed then: a fence of Kafka refuses the markers
// that end transactions too, and a broker does not write such a marker again when the topic is open again, so readers of
// committed messages would never pass it; RocketMQ stores what is committed behind the fence.
func decided(ctx context.Context, conn *clusters.Conn, physical string) error {
	open, err := conn.OpenTransactions(ctx, physical)
	switch {
	case errors.Is(err, errs.ErrUnsupported): // the preflight has said so
		return nil
	case err != nil || len(open) == 0:
		return err
	}
	of := closedUnder[conn.Kind]
	return fmt.Errorf("%w: transactions are open on %s at %s, partitions %s, and %s; let their producers end them; %s",
		errs.ErrConflict, physical, conn.Name, strings.Join(open.Names(), ", "), of.loss, of.remedy)
}

// transactions looks for such as are open on the cluster that the topic is on.
func (p *preflight) transactions(ctx context.Context, c *clusters.Conn, physical string) error {
	open, err := c.OpenTransactions(ctx, physical)
	of := closedUnder[c.Kind]
	switch {
	case errors.Is(err, errs.ErrUnsupported):
		p.find(Warning, TransactionsUnknown, "let the platform read what docs/security.md lists; or see that no producer sends in transactions, and accept",
			"whether transactions are open on %s can not be seen, so the move does not wait for them, and %s: %v", physical, of.loss, err)
	case err != nil:
		return err
	case len(open) > 0:
		p.find(Warning, Transactions, "let their producers end first; "+of.remedy, "transactions are open on %s in partitions %s: the move waits until they have ended, because %s",
			physical, strings.Join(open.Names(), ", "), of.loss)
	}
	return nil
}
