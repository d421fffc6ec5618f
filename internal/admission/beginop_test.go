package admission

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestBeginOp: what every node would have to keep is bounded, and who is refused is told why.
func TestBeginOp(t *testing.T) {
	d := New(smallLimits)
	ask := func(key, reason string) *pb.PeerRequest {
		return &pb.PeerRequest{Epoch: 3, BeginOp: &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte(key), Reason: reason, StickyS: 5}}}
	}
	for _, req := range []*pb.PeerRequest{
		ask("k", ""), ask(strings.Repeat("k", shard.BorderBytesMax), strings.Repeat("w", reasonBytesMax)), {Epoch: 3, Ops: &pb.OpsRequest{Id: 7}},
		{Epoch: 3, Unstick: &pb.UnstickRequest{Key: []byte("k")}}, {Epoch: 3, Borders: &pb.BordersRequest{}},
	} {
		if got, err := d.Call(req); err != nil || !proto.Equal(got, req) {
			t.Errorf("%.80v became %.80v, %v", req, got, err)
		}
	}
	for _, tt := range []struct {
		req *pb.PeerRequest
		err string
	}{
		{ask("", "why"), "the key space begins at the empty key"},
		{ask(strings.Repeat("k", shard.BorderBytesMax+1), ""), "a key of 4097 bytes"},
		{ask("k", strings.Repeat("w", reasonBytesMax+1)), "the reason"},
		{ask("k", "\xff"), "the reason"},
		{&pb.PeerRequest{BeginOp: &pb.BeginOpRequest{}}, "an op of no kind"},
		{&pb.PeerRequest{Unstick: &pb.UnstickRequest{}}, "no border is there"},
	} {
		if _, err := d.Call(tt.req); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%.80v: %v", tt.req, err)
		}
	}
}
