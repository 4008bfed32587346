package shadowgrpc_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/shadowgrpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers SERVING when the ctx is marked, and keeps the metadata of the last call.
type service struct {
	health.UnimplementedHealthServer
	got  metadata.MD
	next health.HealthClient // is asked, when there is one
}

func (s *service) answer(ctx context.Context) *health.HealthCheckResponse {
	s.got, _ = metadata.FromIncomingContext(ctx)
	if shadow.Marked(ctx) {
		return &health.HealthCheckResponse{Status: health.HealthCheckResponse_SERVING}
	}
	return &health.HealthCheckResponse{Status: health.HealthCheckResponse_NOT_SERVING}
}

func (s *service) Check(ctx context.Context, r *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
	if s.next != nil {
		return s.next.Check(ctx, r)
	}
	return s.answer(ctx), nil
}

func (s *service) Watch(r *health.HealthCheckRequest, stream health.Health_WatchServer) error {
	if s.next != nil {
		there, err := s.next.Watch(stream.Context(), r)
		if err != nil {
			return err
		}
		answer, err := there.Recv()
		if err != nil {
			return err
		}
		return stream.Send(answer)
	}
	return stream.Send(s.answer(stream.Context()))
}

// serve runs s until the test ends and returns a connection with the client interceptors, and one without.
func serve(t *testing.T, s *service, opts ...shadowgrpc.Option) (marking, plain health.HealthClient) {
	t.Helper()
	srv := grpc.NewServer(grpc.ChainUnaryInterceptor(shadowgrpc.UnaryServerInterceptor(opts...)), grpc.ChainStreamInterceptor(shadowgrpc.StreamServerInterceptor(opts...)))
	health.RegisterHealthServer(srv, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	over := make(chan error, 1)
	go func() { over <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-over)
	})
	dial := func(opts ...grpc.DialOption) health.HealthClient {
		c, err := grpc.NewClient(l.Addr().String(), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return health.NewHealthClient(c)
	}
	return dial(grpc.WithChainUnaryInterceptor(shadowgrpc.UnaryClientInterceptor()), grpc.WithChainStreamInterceptor(shadowgrpc.StreamClientInterceptor())), dial()
}

// calls are the two ways of calling; each says whether the ctx there was marked.
var calls = map[string]func(context.Context, health.HealthClient) (bool, error){
	"unary": func(ctx context.Context, c health.HealthClient) (bool, error) {
		r, err := c.Check(ctx, &health.HealthCheckRequest{})
		return r.GetStatus() == health.HealthCheckResponse_SERVING, err
	},
	"stream": func(ctx context.Context, c health.HealthClient) (bool, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.Watch(ctx, &health.HealthCheckRequest{})
		if err != nil {
			return false, err
		}
		r, err := s.Recv()
		return r.GetStatus() == health.HealthCheckResponse_SERVING, err
	},
}

func TestWhichCallsMark(t *testing.T) {
	_, plain := serve(t, &service{})
	for _, c := range []struct {
		name   string
		md     []string
		code   codes.Code
		marked bool
	}{
		{"nothing", nil, codes.OK, false},
		{"the metadata", []string{"turnout-shadow", "1"}, codes.OK, true},
		{"a clear no", []string{"turnout-shadow", "0"}, codes.OK, false},
		{"baggage", []string{"baggage", "a=b", "baggage", "turnout-shadow=1;p"}, codes.OK, true},
		{"other members", []string{"baggage", "turnout=1"}, codes.OK, false},
		{"neither yes nor no", []string{"turnout-shadow", "on"}, codes.InvalidArgument, false},
	} {
		for kind, call := range calls {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				marked, err := call(metadata.AppendToOutgoingContext(t.Context(), c.md...), plain)
				require.Equal(t, c.code, status.Code(err), "%v", err)
				require.Equal(t, c.marked, marked)
			})
		}
	}
}

func TestWhoIsNotTrustedIsRefused(t *testing.T) {
	methods := make(chan string, 10)
	_, plain := serve(t, &service{}, shadowgrpc.WithTrust(func(ctx context.Context, method string) bool {
		methods <- method
		md, _ := metadata.FromIncomingContext(ctx)
		return len(md.Get("team")) == 1
	}))
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			_, err := call(metadata.AppendToOutgoingContext(t.Context(), "turnout-shadow", "1"), plain)
			require.Equal(t, codes.PermissionDenied, status.Code(err))
			require.Contains(t, []string{health.Health_Check_FullMethodName, health.Health_Watch_FullMethodName}, <-methods)
			marked, err := call(metadata.AppendToOutgoingContext(t.Context(), "turnout-shadow", "1", "team", "testers"), plain)
			require.NoError(t, err)
			require.True(t, marked)
			<-methods
			marked, err = call(t.Context(), plain)
			require.NoError(t, err, "production traffic needs no trust")
			require.False(t, marked)
			require.Empty(t, methods)
		})
	}
}

func TestTheMarkGoesFromServiceToService(t *testing.T) {
	last, _ := serve(t, &service{})
	first, _ := serve(t, &service{next: last})
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			marked, err := call(shadow.WithMark(t.Context()), first)
			require.NoError(t, err)
			require.True(t, marked)
			marked, err = call(t.Context(), first)
			require.NoError(t, err)
			require.False(t, marked)
		})
	}
}

func TestClientInterceptorsKeepWhatIsThere(t *testing.T) {
	s := &service{}
	marking, _ := serve(t, s)
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(shadow.WithMark(t.Context()), "other", "x", "baggage", "user=alice")
			_, err := call(ctx, marking)
			require.NoError(t, err)
			require.Equal(t, []string{"1"}, s.got.Get("turnout-shadow"))
			require.Equal(t, []string{"turnout-shadow=1,user=alice"}, s.got.Get("baggage"))
			require.Equal(t, []string{"x"}, s.got.Get("other"))
			b, err := baggage.Parse(s.got.Get("baggage")[0])
			require.NoError(t, err)
			require.Equal(t, "1", b.Member(shadow.BaggageKey).Value())
			mine, _ := metadata.FromOutgoingContext(ctx)
			require.Empty(t, mine.Get("turnout-shadow"), "the caller's metadata is as it was")

			_, err = call(metadata.AppendToOutgoingContext(t.Context(), "baggage", "user=alice"), marking)
			require.NoError(t, err)
			require.Empty(t, s.got.Get("turnout-shadow"))
			require.Equal(t, []string{"user=alice"}, s.got.Get("baggage"))
		})
	}
}
