package rocketmq_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
)

var names = []string{"rocketmq-a", "rocketmq-b"}

func TestSuite(t *testing.T) {
	testenv.Each(t, testenv.Spec{RocketMQ: names}, func(t *testing.T, e *testenv.Env) {
		brokertest.Run(t, brokertest.Target{
			Kind:    broker.RocketMQ,
			Open:    rocketmq.Open,
			Config:  func(cluster int) broker.Config { return config(e, names[cluster]) },
			Session: 2 * time.Second,
			Kill:    func(ctx context.Context, cluster int) error { return e.Kill(ctx, names[cluster]) },
			Restart: func(ctx context.Context, cluster int) error { return e.Restart(ctx, names[cluster]) },
			Pause:   func(cluster int) error { return e.Pause(names[cluster]) },
			Resume:  func(cluster int) error { return e.Resume(names[cluster]) },
			Commit: func(ctx context.Context, group, topic string) error {
				c := remoting.NewClient(remoting.Options{})
				defer c.Close()
				addr, err := brokerOf(ctx, c, e, names[0])
				if err != nil {
					return err
				}
				if err := c.UpdateSubscriptionGroup(ctx, addr, remoting.NewSubscriptionGroup(group)); err != nil {
					return err
				}
				return c.UpdateConsumerOffset(ctx, addr, group, remoting.Queue{Topic: topic}, 1)
			},
			Foreign: func(ctx context.Context, topic string, _, body []byte, headers []broker.Header) error {
				properties := ""
				for _, h := range headers {
					properties = remoting.AppendProperty(properties, h.Name, h.Value)
				}
				return foreign(ctx, e, remoting.Queue{Topic: topic}, properties, body)
			},
		})
	})
}

func config(e *testenv.Env, name string) broker.Config {
	return broker.Config{Name: name, Kind: broker.RocketMQ, Addresses: e.Addresses(name), ClusterID: e.ClusterID(name),
		Properties: map[string]string{}}
}

// brokerOf is the address of the only broker of a cluster.
func brokerOf(ctx context.Context, c *remoting.Client, e *testenv.Env, name string) (string, error) {
	info, err := c.ClusterInfo(ctx, e.Addresses(name)[0])
	if err != nil {
		return "", err
	}
	for _, b := range info.Brokers {
		return b.Master(), nil
	}
	return "", fmt.Errorf("cluster %s has no broker", name)
}

// foreign stores a message on the first cluster without the driver.
func foreign(ctx context.Context, e *testenv.Env, q remoting.Queue, properties string, body []byte) error {
	c := remoting.NewClient(remoting.Options{})
	defer c.Close()
	addr, err := brokerOf(ctx, c, e, names[0])
	if err != nil {
		return err
	}
	_, err = c.Call(ctx, addr, remoting.NewRequest(remoting.ReqSendMessage, body, "producerGroup", "foreign", "topic", q.Topic,
		"queueId", strconv.Itoa(q.ID), "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0",
		"bornTimestamp", strconv.FormatInt(time.Now().UnixMilli(), 10), "flag", "0", "properties", properties,
		"reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
	return err
}
