package etcdshim_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

const nodeID = shard.NodeID(0x11)

// dialerTo finds every node at addr.
func dialerTo(addr string, id peer.Identity) *peer.Dialer {
	return peer.NewDialer(peer.DialerConfig{Identity: id, Resolve: func(shard.NodeID) (string, bool) { return addr, true }})
}

// meshTo is a bare mesh to a node's client port under some identity.
func meshTo(t *testing.T, addr string, id peer.Identity, open func(context.Context, grpc.ClientConnInterface) (pb.Peer_CallsClient, error)) *peerrpc.Mesh {
	t.Helper()
	d := dialerTo(addr, id)
	m := peerrpc.New(peerrpc.Config{Node: id.Node, Dial: d.For(peer.ClassCalls), Open: open})
	t.Cleanup(func() {
		_ = m.Close()
		_ = d.Close()
	})
	return m
}

// TestRefusals calls a node's client port as a client should not. Afterwards everything works.
func TestRefusals(t *testing.T) {
	c := start(t, 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	plain, err := clientv3.New(c.config())
	plain = opened(t, plain, err)
	before, err := plain.Put(ctx, "a", "1")
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	m := meshTo(t, c.addrs[0], peer.Identity{ClusterID: clusterID, Node: peer.Client}, peer.OpenClientCalls)
	now, err := m.Call(ctx, nodeID, &pb.PeerRequest{Oracle: &pb.OracleRequest{}})
	if err != nil || now.Oracle.GetRevision() != before.Header.Revision {
		t.Fatalf("the current revision: %v, %v", now, err)
	}
	rev, epoch := now.Oracle.Revision, now.Oracle.Epoch

	key := []byte("a")
	put := &pb.PutOp{Key: key, Value: key}
	span := &pb.Span{Start: key, End: []byte("b")}
	fence := func(f *pb.FenceRequest) *pb.PeerRequest {
		f.RangeId = uint64(shard.FirstRangeID)
		return &pb.PeerRequest{Fence: f}
	}
	write := func(op *pb.Op) *pb.PeerRequest {
		return &pb.PeerRequest{Write: &pb.WriteRequest{RangeId: uint64(shard.FirstRangeID), Op: op}}
	}
	for name, req := range map[string]*pb.PeerRequest{
		"nothing":              {},
		"an allocation":        {Oracle: &pb.OracleRequest{Count: 1}},
		"a close":              {Close: &pb.CloseRequest{Revision: 1 << 50, Epoch: 1 << 50}},
		"a push":               {ClosedPush: &pb.ClosedPush{Revision: 1 << 50}},
		"a history":            {History: &pb.HistoryRequest{RangeId: 2}},
		"a hash":               {Hash: &pb.HashRequest{RangeId: 2}},
		"a range's compaction": {CompactRange: &pb.CompactRangeRequest{RangeId: 2, Revision: 1 << 50}},
		"a resolve":            {Resolve: &pb.ResolveRequest{RangeId: 2, Resolve: &pb.Resolve{}}},
		"a lease attached":     {LeaseAttach: &pb.LeaseAttachRequest{Id: 1, Span: span}},
		"a lease":              {LeaseGrant: &pb.LeaseGrantRequest{Ttl: 1}},
		"a revoke":             {LeaseRevoke: &pb.LeaseRevokeRequest{Id: 1}},
		"a member":             {MemberAttrs: &pb.MemberAttrsRequest{Id: uint64(nodeID), ClientUrls: []string{"http://evil"}}},
		"an alarm":             {Alarm: &pb.AlarmRequest{Action: 1, Alarm: 1}},
		"a node's status":      {NodeStatus: &pb.NodeStatusRequest{}},
		"an expiry":            write(&pb.Op{ExpireLease: 1}),
		"an expiry in a put":   write(&pb.Op{ExpireLease: 1, Put: put}),
		"two in one":           write(&pb.Op{Put: put, Delete: &pb.DeleteOp{Key: key}}),
		"an empty op":          write(&pb.Op{}),
		"no op":                write(nil),
		"an empty key":         write(&pb.Op{Put: &pb.PutOp{Value: key}}),
		"a long value":         write(&pb.Op{Put: &pb.PutOp{Key: key, Value: make([]byte, 66<<10)}}),
		"an empty op inside":   write(&pb.Op{Txn: &pb.TxnOp{Success: []*pb.Op{{}}}}),
		"an epoch to come":     fence(&pb.FenceRequest{Span: span, Revision: rev, Epoch: math.MaxUint64}),
		"a revision to come":   fence(&pb.FenceRequest{Span: span, Revision: math.MaxInt64, Epoch: epoch}),
		"no revision":          fence(&pb.FenceRequest{Span: span, Epoch: epoch}),
		"no span":              fence(&pb.FenceRequest{Revision: rev, Epoch: epoch}),
		"a read above":         fence(&pb.FenceRequest{Span: span, Revision: rev, Epoch: epoch, Read: &pb.ReadRequest{Span: span, Revision: rev + 1}}),
	} {
		if resp, err := m.Call(ctx, nodeID, req); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: got %v, %v", name, resp, err)
		}
	}
	testNoNodeHere(ctx, t, c.addrs[0])
	testDeepFrame(ctx, t, c.addrs[0])

	// A frame's own header is not believed either: its revision and epoch are far ahead.
	liar := peerrpc.New(peerrpc.Config{Node: peer.Client, Open: peer.OpenClientCalls,
		Dial: func(shard.NodeID) (grpc.ClientConnInterface, error) {
			d := peer.NewDialer(peer.DialerConfig{Identity: peer.Identity{ClusterID: clusterID}, Resolve: func(shard.NodeID) (string, bool) { return c.addrs[0], true }})
			t.Cleanup(func() { _ = d.Close() })
			return d.Conn(nodeID, peer.ClassCalls)
		},
		Hints: func() (int64, uint64) { return math.MaxInt64, math.MaxUint64 },
	})
	_, _ = liar.Call(ctx, nodeID, &pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{}}) // whatever it answers
	if err := liar.Close(); err != nil {
		t.Errorf("close: %v", err)
	}

	after, err := plain.Put(ctx, "a", "2")
	if err != nil || after.Header.Revision != before.Header.Revision+1 {
		t.Errorf("put: %v, %v", after, err)
	}
	got, err := plain.Get(ctx, "", clientv3.WithPrefix())
	if err != nil || got.Count != 1 || got.Header.Revision != after.Header.Revision || got.Header.RaftTerm != before.Header.RaftTerm {
		t.Errorf("get: %v, %v", got, err)
	}
}

// testNoNodeHere: nobody is taken for a node on the client port, and no client on the peers'
// service, which is not there.
func testNoNodeHere(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	for name, id := range map[string]peer.Identity{
		"a node":          {ClusterID: clusterID, Node: 0x12},
		"another cluster": {ClusterID: clusterID + 1, Node: peer.Client},
	} {
		_, err := meshTo(t, addr, id, peer.OpenClientCalls).Call(ctx, nodeID, &pb.PeerRequest{Oracle: &pb.OracleRequest{}})
		if !errors.Is(err, shard.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := meshTo(t, addr, peer.Identity{ClusterID: clusterID, Node: 0x12}, nil).Call(ctx, nodeID, &pb.PeerRequest{Oracle: &pb.OracleRequest{}})
	if !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("the peers' service: %v", err)
	}
}

// testDeepFrame sends a transaction that nests so deep that decoding it could exhaust a stack.
func testDeepFrame(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	op := &pb.Op{Put: &pb.PutOp{Key: []byte("a")}}
	for range 20_000 {
		op = &pb.Op{Txn: &pb.TxnOp{Success: []*pb.Op{op}}}
	}
	d := dialerTo(addr, peer.Identity{ClusterID: clusterID, Node: peer.Client})
	defer func() { _ = d.Close() }()
	conn, err := d.Conn(nodeID, peer.ClassCalls)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewRoutingClient(conn).Calls(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.PeerFrame{Requests: []*pb.PeerRequest{{Id: 1, Write: &pb.WriteRequest{Op: op}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("a deep frame: %v", err)
	}
}
