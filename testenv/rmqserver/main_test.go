package rmqserver_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/testenv/leaks"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		child(text)
		return
	}
	goleak.VerifyTestMain(m, leaks.Libraries()...)
}
