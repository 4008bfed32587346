package securitytest

import (
	"testing"

	"github.com/turnout-mq/turnout/testenv"
)

func TestSecured(t *testing.T) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{kafka, otherKafka}, RocketMQ: []string{rocketMQ}, Secure: true}, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t, e)
		type test struct {
			name string
			run  func(*testing.T, *world)
		}
		tests := []test{
			{"ZooKeeper refuses strangers", zooKeeperStrangers},
			{"scenario", scenario},
			{"Kafka refuses strangers", kafkaStrangers},
			{"Kafka permissions", kafkaPermissions},
			{"Kafka rotation", kafkaRotation},
			{"RocketMQ refuses strangers", rocketStrangers},
			{"RocketMQ rotation", rocketRotation},
		}
		if e.Backend() == testenv.Servers { // the embedded one knows no permissions
			tests = append(tests, test{"RocketMQ permissions", rocketPermissions})
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) { test.run(t, w) })
		}
	})
}
