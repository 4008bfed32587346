// Package shadowgrpc carries the stress mark (package shadow) over gRPC: the client interceptors put it on calls, the server
// interceptors take it from them.
//
// It travels in the metadata turnout-shadow, and in baggage (W3C) for services with OpenTelemetry; either is enough.
package shadowgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/internal/carrier"
)

// Option changes a server interceptor.
type Option func(*server)

// WithTrust says who may send stress traffic: trusted is called for every call with the mark, at the same time for several. ctx
// is the call's, with its metadata and peer, and method its full name, "/package.service/method". Default: everybody.
func WithTrust(trusted func(ctx context.Context, method string) bool) Option {
	return func(s *server) { s.trusted = trusted }
}

// UnaryServerInterceptor returns an interceptor that calls the handler with a marked ctx (shadow.Marked) for a call with the
// mark: the metadata turnout-shadow: 1, or baggage with turnout-shadow=1.
//
// A call with the mark that is not trusted (WithTrust) ends with PermissionDenied, and one whose mark is neither 1 nor empty
// or 0 with InvalidArgument. Neither reaches the handler: without the mark it would be production traffic, which a
// stress test must never become.
//
// What else reads baggage, as the stats handler of OpenTelemetry, marks the ctx too and asks nobody. Let this
// interceptor be before what acts on the mark.
func UnaryServerInterceptor(opts ...Option) grpc.UnaryServerInterceptor {
	s := newServer(opts)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := s.mark(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// StreamServerInterceptor is UnaryServerInterceptor for streams: the ctx of the stream is marked.
func StreamServerInterceptor(opts ...Option) grpc.StreamServerInterceptor {
	s := newServer(opts)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := s.mark(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return handler(srv, &marked{stream, ctx})
	}
}

type server struct {
	trusted func(ctx context.Context, method string) bool
}

func newServer(opts []Option) *server {
	s := &server{trusted: func(context.Context, string) bool { return true }}
	for _, o := range opts {
		o(s)
	}
	return s
}

// mark returns the ctx for the handler.
func (s *server) mark(ctx context.Context, method string) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	marked, err := carrier.Marked(md.Get)
	switch {
	case err != nil:
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case marked && !s.trusted(ctx, method):
		return nil, status.Error(codes.PermissionDenied, "this server takes no stress traffic ("+shadow.Header+") from you; send it without the mark only if it is production traffic")
	case marked:
		ctx = shadow.WithMark(ctx)
	}
	return ctx, nil
}

// marked is a stream with another ctx.
type marked struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *marked) Context() context.Context { return s.ctx }

// UnaryClientInterceptor returns an interceptor that puts the mark on calls whose ctx is marked: the metadata turnout-shadow: 1
// and the member turnout-shadow=1 of baggage, whose other members stay. Other calls stay as they are.
func UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoker(outgoing(ctx), method, req, reply, cc, opts...)
	}
}

// StreamClientInterceptor is UnaryClientInterceptor for streams.
func StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(outgoing(ctx), desc, cc, method, opts...)
	}
}

func outgoing(ctx context.Context) context.Context {
	if !shadow.Marked(ctx) {
		return ctx
	}
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	md.Set(shadow.Header, shadow.HeaderValue)
	md.Set(carrier.Baggage, carrier.WithMember(md.Get(carrier.Baggage)))
	return metadata.NewOutgoingContext(ctx, md)
}
