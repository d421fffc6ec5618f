package admission

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
)

// FuzzCall: what a routing client sends is refused, or made anew from what it may say; that
// passes again unchanged.
func FuzzCall(f *testing.F) {
	key := &pb.Span{Start: []byte("k"), End: []byte("l")}
	for _, req := range []*pb.PeerRequest{
		{Write: &pb.WriteRequest{RangeId: 2, Generation: 1, Op: &pb.Op{Put: &pb.PutOp{Key: []byte("k")}}}},
		{Fence: &pb.FenceRequest{RangeId: 2, Span: key, Revision: 4, Epoch: 2, Read: &pb.ReadRequest{Span: key, Revision: 3}}},
		{Read: &pb.ReadRequest{Span: key, Revision: 3, MaxBytes: -1, Limit: -5}},
		{Oracle: &pb.OracleRequest{}}, {Descriptors: &pb.DescriptorsRequest{}}, {Compact: &pb.CompactRequest{Revision: 9}},
		{Transfer: &pb.TransferRequest{RangeId: 3, Node: 7}},
		{BeginOp: &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte("k"), Reason: "why"}}}, {Ops: &pb.OpsRequest{Id: 3}}, {Plan: &pb.PlanRequest{Mode: "repair", NodesOnly: true}}, {Unstick: &pb.UnstickRequest{Key: []byte("k")}}, {Borders: &pb.BordersRequest{}},
		{Write: &pb.WriteRequest{}}, {Fence: &pb.FenceRequest{}}, {Hash: &pb.HashRequest{}},
	} {
		b, err := req.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	d := New(smallLimits)
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &pb.PeerRequest{}
		if req.UnmarshalVT(b) != nil {
			return
		}
		once, err := d.Call(req)
		if err != nil {
			return
		}
		if _, err := once.MarshalVT(); err != nil {
			t.Fatal(err)
		}
		again, err := d.Call(once)
		if err != nil || !proto.Equal(once, again) {
			t.Fatalf("%v became %v, %v", once, again, err)
		}
	})
}
