package metaclient

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestOps: ops are begun once, even where the answer is lost, and looked at as often as needed.
func TestOps(t *testing.T) {
	f := &fakeCaller{came: make(chan struct{}, 1)}
	c := New(Config{Self: 1, Calls: f, Meta: pb.ToDescriptor(layout(1).Meta)})
	defer c.Close()
	ctx := t.Context()
	op := shard.Op{ID: 7, Kind: shard.OpSplit, Range: 2, Generation: 3, Key: []byte("k"), Child: 9, Replicas: []shard.Replica{{ID: 5, Node: 1}}, Reason: "why", Began: 1000}
	answer := &pb.PeerResponse{Ops: &pb.OpsResponse{Ops: []*pb.MetaOp{pb.FromOp(&op)}, Waiting: []string{"no leader"}}}
	f.auto = func(call *fakeCall) (*pb.PeerResponse, error) {
		switch {
		case call.req.BeginOp != nil && string(call.req.BeginOp.Split.Key) == "k" && call.req.BeginOp.Split.Reason == "why" && call.req.BeginOp.Split.StickyS == 5:
			return answer, nil
		case call.req.Ops.GetId() == 7:
			return answer, nil
		case call.req.Ops != nil && call.req.Ops.Id == 0:
			return &pb.PeerResponse{Ops: &pb.OpsResponse{Ops: []*pb.MetaOp{{Id: 3, EndedMs: 5, Failure: "no space", StoodUs: 1500}, pb.FromOp(&op)}}}, nil
		case call.req.Ops != nil && call.req.Ops.Id == 9:
			return &pb.PeerResponse{Ops: &pb.OpsResponse{}}, nil
		}
		return nil, shard.ErrAmbiguous
	}
	got, err := c.Begin(ctx, &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte("k"), Reason: "why", StickyS: 5}})
	if err != nil || got.ID != 7 || got.Outcome() != shard.OpUnderWay || got.Waiting != "no leader" || string(got.Key) != "k" || got.Replicas[0].ID != 5 {
		t.Errorf("begun: %+v, %v", got, err)
	}
	if got, err := c.Op(ctx, 7); err != nil || got.Child != 9 {
		t.Errorf("one: %+v, %v", got, err)
	}
	list, err := c.Ops(ctx)
	if err != nil || len(list) != 2 || list[0].Outcome() != shard.OpGivenUp || list[0].Stood != 1500*time.Microsecond || list[1].ID != 7 || list[1].Waiting != "" {
		t.Errorf("all: %+v, %v", list, err)
	}
	before := f.total
	if _, err := c.Begin(ctx, &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte("l")}}); !errors.Is(err, shard.ErrAmbiguous) || f.total != before+1 {
		t.Errorf("a lost answer: %v, asked %d times", err, f.total-before)
	}
	if _, err := c.Op(ctx, 9); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("an answer without an op: %v", err)
	}
	if _, err := c.Op(ctx, 0); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "id 0") {
		t.Errorf("op 0: %v", err)
	}
}
