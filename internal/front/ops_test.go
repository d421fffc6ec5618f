package front

import (
	"context"
	"fmt"
	"testing"

	"pontoon/internal/admission"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// deciding is the meta group, which begins every move.
type deciding struct{ moves []*pb.MoveOp }

func (d *deciding) CallFunc(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if mv := req.BeginOp.GetMove(); mv != nil {
		d.moves = append(d.moves, mv)
	}
	cb(&pb.PeerResponse{Ops: &pb.OpsResponse{Ops: []*pb.MetaOp{{Id: 7, RangeId: 5}}}}, nil)
}

// TestBothEndsOfAMove: who is named goes on to the meta group as it is, also the same node twice, which that refuses.
func TestBothEndsOfAMove(t *testing.T) {
	meta := &deciding{}
	client := metaclient.New(metaclient.Config{Self: 1, Calls: meta, Meta: shard.Descriptor{ID: shard.MetaID, Replicas: []shard.Replica{{ID: 1, Node: 1}}}})
	defer client.Close()
	o := &ops{client: client, admission: admission.New(admission.Limits{}), members: func(name string) (shard.Member, error) {
		for i, known := range []string{"n1", "n2"} {
			if name == known {
				return shard.Member{ID: shard.NodeID(i + 1), Name: name}, nil
			}
		}
		return shard.Member{}, fmt.Errorf("%w: nobody has the name %q", shard.ErrInvalid, name)
	}}
	for _, tt := range []struct {
		from, to         string
		wantFrom, wantTo uint64
	}{{"n1", "n2", 1, 2}, {"n2", "n2", 2, 2}, {"n1", "", 1, 0}, {"", "n2", 0, 2}, {"", "", 0, 0}} {
		meta.moves = nil
		op, err := o.BeginMove(t.Context(), 5, tt.from, tt.to, "why")
		if err != nil || op.ID != 7 || len(meta.moves) != 1 || meta.moves[0].From != tt.wantFrom || meta.moves[0].To != tt.wantTo || meta.moves[0].RangeId != 5 {
			t.Errorf("from %q to %q: %+v, %v; asked for %v", tt.from, tt.to, op, err, meta.moves)
		}
	}
	meta.moves = nil
	if op, err := o.BeginMove(t.Context(), 5, "n1", "n9", "why"); err == nil || len(meta.moves) != 0 {
		t.Errorf("to nobody: %+v, asked for %v", op, meta.moves)
	}
}
