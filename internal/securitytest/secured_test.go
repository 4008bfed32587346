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
		}
		if e.Backend() == testenv.Servers { // the embedded one serves everybody
			tests = append(tests,
				test{"RocketMQ refuses strangers", rocketStrangers},
				test{"RocketMQ permissions", rocketPermissions},
				test{"RocketMQ rotation", rocketRotation})
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) { test.run(t, w) })
		}
	})
}
