package rocketmq

import (
	"context"
	"fmt"
	"strings"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// noWheel is in the answer of a broker that has no timer wheel (timerWheelEnable=false).
const noWheel = "timer message store is null"

// timed counts the messages for topic that others have sent with a timer (RocketMQ 5: any delay, not a level) and that wait in
// the brokers' timer wheels. A broker counts one down after it has delivered it; 5.5.0 also counts down one that was due before it
// had reached the wheel, which it has not counted up, so that its number may be too low, and below 0. uncounted: a broker does not let this user ask.
func (c *Cluster) timed(ctx context.Context, topic string) (n int64, uncounted string, err error) {
	masters, err := c.masters(ctx)
	if err != nil {
		return 0, "", err
	}
	for _, b := range masters {
		ask := func() (map[string]int64, error) {
			return call(ctx, func(ctx context.Context) (map[string]int64, error) { return c.admin.TimerMetrics(ctx, b.Master()) })
		}
		counts, err := ask()
		if err == nil {
			if err = c.inWheel(ctx, b.Master()); err == nil {
				counts, err = ask()
			}
		}
		switch {
		case remoting.HasCode(err, remoting.NotSupported), remoting.HasCode(err, remoting.SystemError) && strings.Contains(err.Error(), noWheel):
			continue
		case remoting.HasCode(err, remoting.NoPermission):
			uncounted = fmt.Sprintf("messages with a timer on broker %s: %v", b.Name, err)
			continue
		case err != nil:
			return 0, "", fmt.Errorf("broker %q: %w", b.Name, err)
		}
		n += max(0, counts[topic])
	}
	return n, uncounted, nil
}

// inWheel waits until a broker has put into its timer wheel what it has acknowledged: only then it is counted.
func (c *Cluster) inWheel(ctx context.Context, addr string) error {
	if err := c.indexed(ctx, addr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		table, err := call(ctx, func(ctx context.Context) (map[string]string, error) { return c.admin.BrokerRuntime(ctx, addr) })
		if remoting.HasCode(err, remoting.NotSupported, remoting.NoPermission) {
			return nil
		}
		if behind := table["timerOffsetBehind"]; err == nil && (behind == "" || behind == "0") {
			return nil
		}
		if err != nil && !remoting.HasCode(err, remoting.SystemError) {
			return err
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}
