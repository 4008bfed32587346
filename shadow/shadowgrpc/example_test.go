package shadowgrpc_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/shadowgrpc"
)

type orders struct {
	health.UnimplementedHealthServer
}

func (orders) Check(ctx context.Context, _ *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
	// A Client.Send with ctx goes to the shadow topic.
	fmt.Println("stress:", shadow.Marked(ctx))
	return &health.HealthCheckResponse{}, nil
}

func Example() {
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(shadowgrpc.UnaryServerInterceptor()),
		grpc.ChainStreamInterceptor(shadowgrpc.StreamServerInterceptor()))
	health.RegisterHealthServer(server, orders{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(shadowgrpc.UnaryClientInterceptor()),
		grpc.WithChainStreamInterceptor(shadowgrpc.StreamClientInterceptor()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	client := health.NewHealthClient(conn)
	ctx := context.Background()
	for _, ctx := range []context.Context{ctx, shadow.WithMark(ctx)} {
		if _, err := client.Check(ctx, &health.HealthCheckRequest{}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// stress: false
	// stress: true
}
