package peer

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"pontoon/internal/pb"
)

// Discover asks whoever answers at the address of a peer port of which cluster it is. creds is as in DialerConfig. No identity is needed for that. With confirm
// the answer is the meta group's of now, and an error where that cannot be asked; else it is what the node knows, which may be nothing.
func Discover(ctx context.Context, creds func(addr string) credentials.TransportCredentials, addr string, confirm bool) (*pb.DiscoverResponse, error) {
	at := placeOf(addr)
	conn, err := grpc.NewClient(connectionStatic+at.name,
		grpc.WithTransportCredentials(creds(addr)), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, at.network, at.at)
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(MessageBytesMax)))
	if err != nil {
		return nil, fmt.Errorf("peer: connection to %s: %w", addr, err)
	}
	defer func() { _ = conn.Close() }() // it only tears down
	return pb.NewPeerClient(conn).Discover(ctx, &pb.DiscoverRequest{Confirm: confirm})
}
