package peer

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"pontoon/internal/pb"
)

// Discover asks whoever answers at an address (host:port) of a peer port of which cluster it is. No identity is needed for that. With confirm
// the answer is the meta group's of now, and an error where that cannot be asked; else it is what the node knows, which may be nothing.
func Discover(ctx context.Context, addr string, confirm bool) (*pb.DiscoverResponse, error) {
	conn, err := grpc.NewClient(connectionStatic+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(MessageBytesMax)))
	if err != nil {
		return nil, fmt.Errorf("peer: connection to %s: %w", addr, err)
	}
	defer func() { _ = conn.Close() }() // it only tears down
	return pb.NewPeerClient(conn).Discover(ctx, &pb.DiscoverRequest{Confirm: confirm})
}

// URLAddr is host and port of a peer URL; etcd's peer port where none is stated. ok is false for what is no such URL.
func URLAddr(text string) (addr string, ok bool) { return urlAddr(text) }
