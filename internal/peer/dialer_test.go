package peer_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

// serve runs a gRPC server on a free port of loopback until the test ends.
func serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer(opts...)
	register(gs)
	done := make(chan error, 1)
	go func() { done <- gs.Serve(lis) }()
	t.Cleanup(func() {
		gs.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return lis.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func dialer(t *testing.T, cfg peer.DialerConfig) *peer.Dialer {
	t.Helper()
	cfg.Identity = peer.Identity{ClusterID: peertest.ClusterID, Node: 1}
	d := peer.NewDialer(cfg)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// call sends one frame over a stream of its own and awaits it back.
func call(t *testing.T, d *peer.Dialer, to shard.NodeID, id uint64) error {
	t.Helper()
	cc, err := d.Conn(to, peer.ClassCalls)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := pb.NewPeerClient(cc).Calls(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.PeerFrame{Requests: []*pb.PeerRequest{{Id: id}}}); err != nil {
		return err
	}
	f, err := stream.Recv()
	if err == nil && f.Requests[0].Id != id {
		t.Errorf("call %d was answered with %d", id, f.Requests[0].Id)
	}
	return err
}

func TestDialerResolves(t *testing.T) {
	net := peertest.NewNet()
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve})
	if _, err := d.Conn(2, peer.ClassCalls); !errors.Is(err, peer.ErrUnknownNode) {
		t.Errorf("a node without an address: %v", err)
	}
	net.Set(2, "")
	if _, err := d.Conn(2, peer.ClassCalls); !errors.Is(err, peer.ErrUnknownNode) {
		t.Errorf("a node with an empty address: %v", err)
	}
	net.Set(2, closedPort(t))
	first, err := d.For(peer.ClassCalls)(2)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := d.Conn(2, peer.ClassCalls); again != first {
		t.Error("another connection to the same address")
	}
	if other, _ := d.Conn(2, peer.ClassBulk); other == first {
		t.Error("two classes share a connection")
	}
}

// What the system at the other end acknowledges is known of a connection, where this system tells.
func TestDialerKnowsWhatIsAcknowledged(t *testing.T) {
	net := peertest.NewNet()
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve})
	if ago, known := d.Acknowledged(2, peer.ClassCalls); known {
		t.Errorf("nobody was dialled, and it is known: %v", ago)
	}
	net.Serve(t, 2, nil, &parts{}, nil)
	if err := call(t, d, 2, 1); err != nil {
		t.Fatal(err)
	}
	if ago, known := d.Acknowledged(2, peer.ClassCalls); known != (runtime.GOOS == "linux") || ago > time.Minute {
		t.Errorf("acknowledged %v ago, %v", ago, known)
	}
	if _, known := d.Acknowledged(2, peer.ClassBulk); known {
		t.Error("another class has no connection")
	}
}

// A node that has moved is found at its new address, and what hung on the old one breaks.
func TestDialerFollowsANodeThatMoves(t *testing.T) {
	net := peertest.NewNet()
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve})
	old, moved := &parts{}, &parts{}
	net.Serve(t, 2, nil, old, nil)
	stream, err := open(t, d, 2, "Calls")
	if err != nil {
		t.Fatal(err)
	}
	peertest.Eventually(t, "the stream at the old address", func() bool { return len(old.visitors()) == 1 })
	net.Set(2, serve(t, peer.NewServer(peer.Identity{ClusterID: peertest.ClusterID, Node: 2}, nil, nil, moved, nil).Register, peer.ServerOptions()...))
	if err := call(t, d, 2, 1); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(pb.PeerFrame)); err == nil {
		t.Error("the stream to the old address still lives")
	}
	if len(old.visitors()) != 1 || len(moved.visitors()) != 1 {
		t.Errorf("visits: %v, %v", old.visitors(), moved.visitors())
	}
}

// Who dials a port where nobody listens hears of it at each attempt, with the node's name, and
// never while somebody listens.
// A node that has no address any more has left: what hung on its connections breaks.
func TestDialerForgetsANodeThatLeaves(t *testing.T) {
	net := peertest.NewNet()
	member := true
	d := dialer(t, peer.DialerConfig{Resolve: func(node shard.NodeID) (string, bool) {
		addr, ok := net.Resolve(node)
		return addr, ok && member
	}})
	net.Serve(t, 2, nil, &parts{}, nil)
	stream, err := open(t, d, 2, "Calls")
	if err != nil {
		t.Fatal(err)
	}
	member = false
	if _, err := d.Conn(2, peer.ClassRaft); !errors.Is(err, peer.ErrUnknownNode) {
		t.Errorf("a connection to a node that has left: %v", err)
	}
	if err := stream.RecvMsg(new(pb.PeerFrame)); err == nil {
		t.Error("the stream still lives")
	}
}

func TestDialerTellsOfARefusal(t *testing.T) {
	net := peertest.NewNet()
	var refused, wrong atomic.Int64
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve, Refused: func(node shard.NodeID) {
		if node == 2 {
			refused.Add(1)
		} else {
			wrong.Add(1)
		}
	}})
	p := &parts{}
	net.Serve(t, 3, nil, p, nil)
	if err := call(t, d, 3, 1); err != nil {
		t.Fatal(err)
	}
	net.Set(2, closedPort(t))
	if err := call(t, d, 2, 1); err == nil {
		t.Error("a call to nobody succeeded")
	}
	peertest.Eventually(t, "a second attempt that is refused", func() bool { return refused.Load() >= 2 })
	if wrong.Load() != 0 {
		t.Error("a node that listens was said to refuse")
	}
}

func TestDialerFindsANodeThatReturns(t *testing.T) {
	net := peertest.NewNet()
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve})
	p := &parts{}
	srv := net.Serve(t, 2, nil, p, nil)
	stream, err := open(t, d, 2, "Calls")
	if err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	if err := stream.RecvMsg(new(pb.PeerFrame)); err == nil {
		t.Error("a stream outlived its server")
	}
	if err := call(t, d, 2, 1); err == nil {
		t.Error("a call succeeded while the node was away")
	}
	net.Serve(t, 2, nil, p, nil) // at the same address
	peertest.Eventually(t, "a call after its return", func() bool { return call(t, d, 2, 2) == nil })
}

// All connections of a dialer have the credentials of their address and the caller's options.
func TestDialerOptions(t *testing.T) {
	net := peertest.NewNet()
	net.Serve(t, 2, nil, &parts{}, nil)
	addr, _ := net.Resolve(2)
	var asked, used atomic.Int64
	d := dialer(t, peer.DialerConfig{
		Resolve: net.Resolve,
		Credentials: func(a string) credentials.TransportCredentials {
			if a == addr {
				asked.Add(1)
			}
			return insecure.NewCredentials()
		},
		Options: []grpc.DialOption{grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				used.Add(1)
				return streamer(ctx, desc, cc, method, opts...)
			})},
	})
	if err := call(t, d, 2, 1); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 1 || used.Load() != 1 {
		t.Errorf("credentials asked for %d times, options used %d times", asked.Load(), used.Load())
	}
}

// A message may be far larger than gRPC's own limit of 4 MiB: one huge transaction or page.
func TestLargeMessages(t *testing.T) {
	net := peertest.NewNet()
	net.Serve(t, 2, nil, &parts{}, nil)
	d := dialer(t, peer.DialerConfig{Resolve: net.Resolve})
	stream, err := open(t, d, 2, "Calls")
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte{7}, 20<<20)
	sent := &pb.PeerFrame{Requests: []*pb.PeerRequest{{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Key: []byte("k"), Value: value}}}}}}
	got := new(pb.PeerFrame)
	if err := stream.SendMsg(sent); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Requests[0].Write.Op.Put.Value, value) {
		t.Error("the value came back different")
	}
}

func TestDialerCloses(t *testing.T) {
	net := peertest.NewNet()
	net.Serve(t, 2, nil, &parts{}, nil)
	d := peer.NewDialer(peer.DialerConfig{Identity: peer.Identity{ClusterID: peertest.ClusterID, Node: 1}, Resolve: net.Resolve})
	stream, err := open(t, d, 2, "Calls")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(pb.PeerFrame)); err == nil {
		t.Error("a stream outlived its dialer")
	}
	if _, err := d.Conn(2, peer.ClassCalls); err == nil {
		t.Error("a closed dialer gave a connection")
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
