package faulttest

import "github.com/turnout-mq/turnout/testenv"

const doomedVariable = "TURNOUT_FAULTTEST_DOOMED"

func doomed(testenv.Backend) {}
