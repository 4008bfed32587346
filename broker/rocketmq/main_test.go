package rocketmq_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/testenv/leaks"
)

func TestMain(m *testing.M) {
	if os.Getenv(libraryConsumerVariable) != "" {
		libraryConsumer()
		return
	}
	goleak.VerifyTestMain(m, leaks.Libraries()...)
}
