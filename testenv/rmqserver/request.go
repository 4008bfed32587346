package rmqserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// Codes that only tools send.
const (
	reqUpdateTopics             = 18
	reqWipeWritePermission      = 205
	reqResetOffset              = 222
	reqUpdateGroups             = 225
	reqSystemTopicsOfNameServer = 304
	reqSystemTopics             = 305
	reqCleanConsumeQueues       = 306
	reqCleanUnusedTopics        = 316
	reqConsumeStatsOfAll        = 317
	reqAddWritePermission       = 327
	reqAllProducers             = 328
	reqCleanCommitLog           = 329
)

// refusal is an answer other than success.
type refusal struct {
	code   int
	remark string
}

func (r *refusal) Error() string { return r.remark }

func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, remark: fmt.Sprintf(format, args...)}
}

// answerOf makes the answer to r of what its handler returned.
func answerOf(r, a *remoting.Command, err error) *remoting.Command {
	if err == nil {
		return a
	}
	var no *refusal
	if errors.As(err, &no) {
		return r.Answer(no.code, no.remark, nil)
	}
	return r.Answer(remoting.SystemError, err.Error(), nil)
}

func notSupported(r *remoting.Command) *remoting.Command {
	return r.Answer(remoting.NotSupported, fmt.Sprintf(" request type %d not supported", r.Code), nil)
}

func ok(r *remoting.Command, fields ...string) (*remoting.Command, error) {
	return r.Answer(remoting.Success, "", nil, fields...), nil
}

// body answers with v as JSON.
func body(r *remoting.Command, v any, fields ...string) (*remoting.Command, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return r.Answer(remoting.Success, "", b, fields...), nil
}

// byQueue answers with a table whose keys are queues, as Java writes it, and
// with what rest has beside it.
func byQueue[V any](r *remoting.Command, table map[remoting.Queue]V, rest string) (*remoting.Command, error) {
	b, err := appendByQueue(nil, table, rest)
	if err != nil {
		return nil, err
	}
	return r.Answer(remoting.Success, "", b), nil
}

func appendByQueue[V any](b []byte, table map[remoting.Queue]V, rest string) ([]byte, error) {
	b, err := remoting.AppendByQueue(append(b, `{"offsetTable":`...), table)
	if err != nil {
		return nil, err
	}
	return append(append(b, rest...), '}'), nil
}

func read(r *remoting.Command, v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return refuse(remoting.SystemError, "body of request %d: %v", r.Code, err)
	}
	return nil
}

// fields reads the header fields of a request; the first one that is missing or
// malformed stays in err.
type fields struct {
	r   *remoting.Command
	err error
}

func (f *fields) text(name string) string {
	v, ok := f.r.Fields[name]
	if !ok && f.err == nil {
		f.err = refuse(remoting.SystemError, "the custom field <%s> is null", name)
	}
	return v
}

func (f *fields) int(name string) int64 {
	text := f.text(name)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && f.err == nil {
		f.err = refuse(remoting.SystemError, "field %s=%q is not a number", name, text)
	}
	return n
}

// intOr is for a field that may be missing.
func (f *fields) intOr(name string, missing int64) int64 {
	if f.r.Fields[name] == "" {
		return missing
	}
	return f.int(name)
}

func (f *fields) bool(name string) bool { return f.r.Fields[name] == "true" }

func str[N int | int32 | int64](n N) string { return strconv.FormatInt(int64(n), 10) }
