// Package rmqserver is RocketMQ inside the test process: name servers and
// brokers.
package rmqserver
