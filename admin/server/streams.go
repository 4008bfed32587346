package server

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/sse"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
)

const (
	fleetEvery  = time.Second
	beatEvery   = 15 * time.Second
	streamsMost = 256              // of a server
	slowest     = 30 * time.Second // to take an event
)

// beat says that a stream lives.
type beat struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty" doc:"Why what was sent may be old."`
}

// streaming lets an operation send events: not too many streams at once, and who has gone is noticed without a word on standard error,
// which is where the library reports it.
func (s *server) streaming(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if s.streams.Add(1) > streamsMost {
		s.streams.Add(-1)
		s.fail(w, r, fmt.Errorf("%w: %d streams are open here: close some, or ask another server", api.ErrUnavailable, streamsMost))
		return
	}
	defer s.streams.Add(-1)
	next(humago.NewContext(ctx.Operation(), r, &streamWriter{ResponseWriter: w, to: http.NewResponseController(w)}))
}

// streamWriter is the writer of a stream. What is wrong with the connection is the error of the next write.
type streamWriter struct {
	http.ResponseWriter
	to  *http.ResponseController
	err error
}

// SetWriteDeadline never fails. The library's limit is too short for a machine that stands still.
func (w *streamWriter) SetWriteDeadline(time.Time) error {
	if err := w.to.SetWriteDeadline(time.Now().Add(slowest)); err != nil {
		w.err = err
	}
	return nil
}

// Write is that of http.ResponseWriter.
func (w *streamWriter) Write(data []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	return w.ResponseWriter.Write(data)
}

// Flush is that of http.Flusher.
func (w *streamWriter) Flush() {
	if err := w.to.Flush(); err != nil && w.err == nil {
		w.err = err
	}
}

func (s *server) registerFleetStream() {
	sse.Register(s.api, huma.Operation{
		Method: http.MethodGet, Path: "/api/v1/fleet/stream", OperationID: "stream-fleet", Tags: []string{"fleet"},
		Summary: "Groups and instances, as server-sent events: all that there are, then what changes",
		Description: "Needs the permission read. A group is sent when what is unread, its rate or the like has changed, an instance when it comes; with gone when it is not there any more. " +
			"Who is slow misses states in between, never the last one. A beat comes every 15 seconds. Who was cut off begins anew.",
		Security: []map[string][]string{{"token": {}}, {"session": {}}}, Errors: refusals(reflect.TypeFor[none]()),
		Middlewares: huma.Middlewares{s.needs(people.Read), s.streaming},
	}, map[string]any{"group": fleet.GroupNow{}, "instance": fleet.InstanceNow{}, "beat": beat{}}, s.streamFleet)
}

func (s *server) streamFleet(ctx context.Context, _ *none, send sse.Sender) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	tick := time.NewTicker(fleetEvery)
	defer tick.Stop()
	var look int64
	var beaten time.Time
	for ctx.Err() == nil {
		changes, now, err := s.fleet.Changes(ctx, look)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("who follows the fleet is not told", zap.Error(err))
		}
		look = now
		for _, c := range changes {
			if ctx.Err() != nil {
				return
			}
			if c.Group != nil {
				err = send.Data(*c.Group)
			} else {
				err = send.Data(*c.Instance)
			}
			if err != nil { // the client has gone
				return
			}
		}
		if time.Since(beaten) >= beatEvery {
			b := beat{At: time.Now().UTC()}
			if err != nil {
				b.Error = "the store or ZooKeeper does not answer"
			}
			if send.Data(b) != nil {
				return
			}
			beaten = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
