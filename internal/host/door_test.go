package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"pontoon/internal/backend"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/placement/gossip"
	"pontoon/shard"
)

// kinds makes a request of every kind that a node may be asked, by what the format lists. A range's are for r2, and
// for a span and a revision where they take one.
func kinds() map[string]*pb.PeerRequest {
	out := map[string]*pb.PeerRequest{}
	fields := (&pb.PeerRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Kind() != protoreflect.MessageKind {
			continue
		}
		req := &pb.PeerRequest{}
		body := req.ProtoReflect().Mutable(fd).Message()
		set := func(name protoreflect.Name, v any) {
			if f := body.Descriptor().Fields().ByName(name); f != nil {
				body.Set(f, protoreflect.ValueOf(v))
			}
		}
		set("range_id", uint64(2))
		set("revision", int64(1))
		if f := body.Descriptor().Fields().ByName("span"); f != nil {
			body.Set(f, protoreflect.ValueOfMessage((&pb.Span{Start: []byte("a"), End: []byte("c")}).ProtoReflect()))
		}
		out[string(fd.Name())] = req
	}
	return out
}

// ask makes a call through the host's door and waits for its one answer.
func ask(t *testing.T, h *Host, req *pb.PeerRequest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	answers := make(chan *pb.PeerResponse, 2)
	h.Handle(ctx, 0x12, req, func(resp *pb.PeerResponse) { answers <- resp })
	select {
	case resp := <-answers:
		if resp == nil {
			t.Fatal("an answer that is none")
		}
		return pb.ErrorFromPB(resp.Error)
	case <-time.After(waitMax):
		t.Fatal("no answer")
		return nil
	}
}

// TestEveryKindOfCallThroughTheDoor: each kind is known to the part that serves it, also with nothing in it; one for
// a range that is not here says where it is, or that it is not known.
func TestEveryKindOfCallThroughTheDoor(t *testing.T) {
	h, err := Open(oneHost(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	r := runHost(h)
	defer r.stop(t)
	r.join(t)
	all := kinds()
	if len(all) < 20 {
		t.Fatalf("the format lists %d kinds", len(all))
	}
	for name, req := range all {
		if err := ask(t, h, req); errors.Is(err, shard.ErrUnimplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, req := range []*pb.PeerRequest{
		{Write: &pb.WriteRequest{RangeId: 2, Op: &pb.Op{Put: &pb.PutOp{Key: []byte("a"), Value: []byte("1")}}}},
		{RangeStatus: &pb.RangeStatusRequest{RangeId: 2}}, {NodeStatus: &pb.NodeStatusRequest{Ranges: true}},
		{Hash: &pb.HashRequest{RangeId: 2}}, {LeaseList: &pb.LeaseListRequest{}}, {Descriptors: &pb.DescriptorsRequest{}},
		{History: &pb.HistoryRequest{RangeId: 2, From: 1, Spans: []*pb.Span{{Start: []byte("a"), End: []byte("b")}}}},
		{LeaseKeys: &pb.LeaseKeysRequest{RangeId: 2, Lease: 5}}, {MetaStatus: &pb.MetaStatusRequest{}},
		{Close: &pb.CloseRequest{Revision: 1}}, {ClosedPush: &pb.ClosedPush{Ranges: []*pb.ClosedRange{{RangeId: 2}, {RangeId: 77}}}},
	} {
		if err := ask(t, h, req); err != nil {
			t.Errorf("%v: %v", req, err)
		}
	}
	if err := ask(t, h, &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 77}}); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("a range that nobody has: %v", err)
	}
	if err := ask(t, h, &pb.PeerRequest{}); !errors.Is(err, shard.ErrUnimplemented) && !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a call of no kind: %v", err)
	}
}

// elsewhere answers the meta client's question for the map: r3 is held by node 9, r4 by this one.
type elsewhere struct{}

func (elsewhere) CallFunc(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{Version: 1, Ranges: pb.FromDescriptors([]shard.Descriptor{
		{ID: 3, Generation: 1, Span: shard.Span{End: []byte("m")}, Replicas: []shard.Replica{{ID: 1, Node: 9}}},
		{ID: 4, Generation: 1, Span: shard.Span{Start: []byte("m")}, Replicas: []shard.Replica{{ID: 2, Node: 1}}},
	})}}, nil)
}

// TestARangeThatIsNotHere: the caller is told where to ask, or to come again where this node is to have it.
func TestARangeThatIsNotHere(t *testing.T) {
	client := metaclient.New(metaclient.Config{Self: 1, Calls: elsewhere{}, Meta: shard.Descriptor{Replicas: []shard.Replica{{ID: 1, Node: 9}}}})
	defer client.Close()
	if err := client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	rs := newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
	c := &dispatch{self: 1, cluster: backend.NewCluster(client, peer.NewDirectory(1, nil)), ranges: rs}
	h := &Host{dispatch: c}
	var wrong *shard.WrongRangeError
	if err := ask(t, h, &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 3}}); !errors.As(err, &wrong) || len(wrong.Known) != 1 || wrong.Known[0].ID != 3 {
		t.Errorf("held elsewhere: %v", err)
	}
	if err := ask(t, h, &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 4}}); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("held here, and not open yet: %v", err)
	}
}

// gossiper is gossip as the test says.
type gossiper struct {
	silence
	members []gossip.Member
	hint    gossip.Hint
}

func (g gossiper) Alive(node shard.NodeID) bool {
	for _, m := range g.members {
		if m.Node == node {
			return m.State != gossip.StateDead
		}
	}
	return false
}
func (g gossiper) Members() []gossip.Member                     { return g.members }
func (g gossiper) LeaderHint(shard.RangeID) (gossip.Hint, bool) { return g.hint, g.hint.Node != 0 }

// TestHints: who is dead is no leader to ask, nor a successor; a node without gossip takes everybody for alive.
func TestHints(t *testing.T) {
	m := membership{hints: gossiper{
		members: []gossip.Member{{Node: 1, State: gossip.StateAlive}, {Node: 2, State: gossip.StateDead}, {Node: 3, State: gossip.StateSuspect}},
		hint:    gossip.Hint{Node: 2},
	}}
	if n := m.leaderHint(5); n != 0 {
		t.Errorf("a dead node leads: %v", n)
	}
	d := shard.Descriptor{ID: 4, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}, {ID: 3, Node: 3}, {ID: 4, Node: 4, Role: shard.Learner}}}
	if r := successor(1, m, d); r != 3 {
		t.Errorf("replica %d is to lead instead of node 1", r)
	}
	if r := successor(1, membership{hints: silence{}}, d); r != 2 {
		t.Errorf("without gossip, replica %d is to lead instead of node 1", r)
	}
	if got := fmt.Sprint(m.count(gossip.StateDead), m.count(gossip.StateAlive), len(m.list())); got != "1 1 3" {
		t.Errorf("counted %s", got)
	}
	m.leave()
}
