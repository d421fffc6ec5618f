package front

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

const (
	// loopbackBuffer is what is on its way in each direction.
	loopbackBuffer = 256 << 10
	// loopbackStream is what a call may have waiting for whoever made it.
	loopbackStream = 1 << 20
	// loopbackConnection is what all of them may: a call that is not read does not hold up the others.
	loopbackConnection = 16 << 20
)

// loopback is the front's own connection to its gRPC server, in memory. What is offered in another form than etcd's gRPC calls is asked for
// by it, as a client asks, so that every request passes the same interceptors. It has no certificate, and says nothing of who asks.
type loopback struct {
	listener *bufconn.Listener
	conn     *grpc.ClientConn
}

func newLoopback() (*loopback, error) {
	l := bufconn.Listen(loopbackBuffer)
	conn, err := grpc.NewClient("passthrough:///loopback",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(loopbackStream), grpc.WithStaticConnWindowSize(loopbackConnection),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, fmt.Errorf("the loopback connection: %w", err)
	}
	return &loopback{listener: l, conn: conn}, nil
}

func (l *loopback) close() error { return errors.Join(l.conn.Close(), l.listener.Close()) }
