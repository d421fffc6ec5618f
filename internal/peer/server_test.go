package peer_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

// parts serves everything that a peer port has, and notes who came.
type parts struct {
	mu   sync.Mutex
	seen []shard.NodeID
}

func (p *parts) came(from shard.NodeID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, from)
	return nil
}

func (p *parts) visitors() []shard.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]shard.NodeID(nil), p.seen...)
}

func (p *parts) ServeRaft(from shard.NodeID, stream pb.Peer_RaftServer) error { return p.came(from) }

func (p *parts) ServeSnapshot(from shard.NodeID, stream pb.Peer_SnapshotServer) error {
	_ = p.came(from)
	return stream.SendAndClose(&pb.SnapshotResult{})
}

func (p *parts) TakesCalls() error { return nil }

// ServeCalls sends back what it gets.
func (p *parts) ServeCalls(from shard.NodeID, stream pb.Peer_CallsServer) error {
	_ = p.came(from)
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(f); err != nil {
			return err
		}
	}
}

func (p *parts) ServeLink(from shard.NodeID, stream pb.Peer_LinkServer) error {
	_ = p.came(from)
	return stream.Send(&pb.LinkFrame{})
}

func (p *parts) ServePackets(from shard.NodeID, stream pb.Peer_GossipPacketsServer) error {
	return p.came(from)
}

func (p *parts) ServeStream(from shard.NodeID, stream pb.Peer_GossipStreamServer) error {
	return p.came(from)
}

// streams opens one stream of each kind and returns what becomes of it.
var streams = map[string]func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error){
	"Raft": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).Raft(ctx)
	},
	"Snapshot": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).Snapshot(ctx)
	},
	"Calls": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).Calls(ctx)
	},
	"Link": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).Link(ctx)
	},
	"GossipPackets": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).GossipPackets(ctx)
	},
	"GossipStream": func(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
		return pb.NewPeerClient(cc).GossipStream(ctx)
	},
}

// open opens a stream of a kind and waits until it is accepted.
func open(t *testing.T, d *peer.Dialer, to shard.NodeID, kind string) (grpc.ClientStream, error) {
	t.Helper()
	cc, err := d.Conn(to, peer.ClassCalls)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := streams[kind](ctx, cc)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	return stream, err
}

func TestEveryStreamNamesItsCaller(t *testing.T) {
	for kind := range streams {
		t.Run(kind, func(t *testing.T) {
			net := peertest.NewNet()
			p := &parts{}
			net.Serve(t, 2, p, p, p)
			if _, err := open(t, net.Dialer(t, 1), 2, kind); err != nil {
				t.Fatal(err)
			}
			peertest.Eventually(t, "service", func() bool { return len(p.visitors()) == 1 })
			if got := p.visitors(); got[0] != 1 {
				t.Errorf("node %v came, as the service sees it", got[0])
			}
		})
	}
}

// A stranger's stream is refused with the reason, and no service hears of it.
func TestStrangersAreRefused(t *testing.T) {
	net := peertest.NewNet()
	p := &parts{}
	net.Serve(t, 2, p, p, p)
	addr, _ := net.Resolve(2)
	net.Set(3, addr) // an address that belongs to another node by now
	for _, tc := range []struct {
		name string
		id   peer.Identity
		to   shard.NodeID
		want string
	}{
		{"another cluster", peer.Identity{ClusterID: 0xc2, Node: 1}, 2, "cluster id mismatch: the caller belongs to cluster c2, this node to c1"},
		{"another node", peer.Identity{ClusterID: peertest.ClusterID, Node: 1}, 3, "the caller looked for node 3 at this address, but this is node 2"},
		{"its own id", peer.Identity{ClusterID: peertest.ClusterID, Node: 2}, 2, "the caller states this node's own id 2"},
		{"a client", peer.Identity{ClusterID: peertest.ClusterID, Node: peer.Client}, 2, "no node id was stated"},
	} {
		d := net.DialerAs(t, tc.id)
		for kind := range streams {
			_, err := open(t, d, tc.to, kind)
			if !peer.Refused(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s, %s: %v, want a refusal: %s", tc.name, kind, err, tc.want)
			}
		}
	}
	if got := p.visitors(); len(got) != 0 {
		t.Errorf("strangers reached a service: %v", got)
	}
}

func TestAPartThatIsNotThereIsUnimplemented(t *testing.T) {
	net := peertest.NewNet()
	net.Serve(t, 2, nil, nil, nil)
	d := net.Dialer(t, 1)
	for kind := range streams {
		if _, err := open(t, d, 2, kind); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// ended is a peer service that ends a stream well without having accepted it: none of ours does.
type ended struct{ pb.UnimplementedPeerServer }

func (ended) Raft(pb.Peer_RaftServer) error { return nil }

func TestAStreamThatEndsUnacceptedIsNoSuccess(t *testing.T) {
	net := peertest.NewNet()
	addr := serve(t, func(gs *grpc.Server) { pb.RegisterPeerServer(gs, ended{}) }, peer.ServerOptions()...)
	net.Set(2, addr)
	if _, err := open(t, net.Dialer(t, 1), 2, "Raft"); !peer.Refused(err) || !strings.Contains(err.Error(), "no peer service of ours") {
		t.Errorf("a stream that nobody accepted: %v", err)
	}
}

// clientPort serves routing clients alone, in the peers' encoding; a real one has etcd's services, too.
func clientPort(t *testing.T, svc peer.RoutingService) string {
	return serve(t, peer.NewRoutingServer(peer.Identity{ClusterID: peertest.ClusterID, Node: 2}, svc).Register, peer.ServerOptions()...)
}

type routed struct{ parts }

func (*routed) Discover(context.Context) (*pb.DiscoverResponse, error) {
	return &pb.DiscoverResponse{ClusterId: peertest.ClusterID, NodeId: 2}, nil
}

func TestClientsAreNobodyInParticular(t *testing.T) {
	svc := &routed{}
	net := peertest.NewNet()
	net.Set(2, clientPort(t, svc))
	d := net.DialerAs(t, peer.Identity{ClusterID: peertest.ClusterID, Node: peer.Client})
	cc, err := d.Conn(2, peer.ClassCalls)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := pb.NewRoutingClient(cc).Discover(t.Context(), &pb.DiscoverRequest{}); err != nil || resp.NodeId != 2 {
		t.Errorf("discover: %v, %v", resp, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := peer.OpenClientCalls(ctx, cc)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.PeerFrame{Requests: []*pb.PeerRequest{{Id: 5}}}); err != nil {
		t.Fatal(err)
	}
	if f, err := stream.Recv(); err != nil || len(f.Requests) != 1 || f.Requests[0].Id != 5 {
		t.Errorf("the service's answer: %v, %v", f, err)
	}
	if got := svc.visitors(); len(got) != 1 || got[0] != peer.Client {
		t.Errorf("came: %v", got)
	}
}

func TestTheClientPortTakesNobodyForANode(t *testing.T) {
	svc := &routed{}
	addr := clientPort(t, svc)
	for _, tc := range []struct {
		name string
		id   peer.Identity
		to   shard.NodeID
		want string
	}{
		{"a node", peer.Identity{ClusterID: peertest.ClusterID, Node: 1}, 2, `states to be node "1", and this is the port for clients`},
		{"another cluster", peer.Identity{ClusterID: 9, Node: peer.Client}, 2, "cluster id mismatch"},
		{"another node's address", peer.Identity{ClusterID: peertest.ClusterID, Node: peer.Client}, 3, "looked for node 3"},
	} {
		net := peertest.NewNet()
		net.Set(tc.to, addr)
		cc, err := net.DialerAs(t, tc.id).Conn(tc.to, peer.ClassCalls)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := peer.OpenClientCalls(t.Context(), cc)
		if err == nil {
			err = peer.AwaitAccepted(stream)
		}
		if !peer.Refused(err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want a refusal: %s", tc.name, err, tc.want)
		}
	}
	if got := svc.visitors(); len(got) != 0 {
		t.Errorf("reached the service: %v", got)
	}
}
