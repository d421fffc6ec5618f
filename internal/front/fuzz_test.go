package front

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
)

// FuzzVetClient: what a routing client sends is refused, or made anew from what it may say; that
// passes again unchanged.
func FuzzVetClient(f *testing.F) {
	key := &pb.Span{Start: []byte("k"), End: []byte("l")}
	for _, req := range []*pb.PeerRequest{
		{Write: &pb.WriteRequest{RangeId: 2, Generation: 1, Op: &pb.Op{Put: &pb.PutOp{Key: []byte("k")}}}},
		{Fence: &pb.FenceRequest{RangeId: 2, Span: key, Revision: 4, Epoch: 2, Read: &pb.ReadRequest{Span: key, Revision: 3}}},
		{Read: &pb.ReadRequest{Span: key, Revision: 3, MaxBytes: -1, Limit: -5}},
		{Oracle: &pb.OracleRequest{}}, {Descriptors: &pb.DescriptorsRequest{}}, {Compact: &pb.CompactRequest{Revision: 9}},
		{Write: &pb.WriteRequest{}}, {Fence: &pb.FenceRequest{}}, {Hash: &pb.HashRequest{}},
	} {
		b, err := req.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	limits := etcdapi.Limits{MaxRequestBytes: 4096, MaxTxnOps: 8}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &pb.PeerRequest{}
		if req.UnmarshalVT(b) != nil {
			return
		}
		once, err := vetClient(req, limits)
		if err != nil {
			return
		}
		if _, err := once.MarshalVT(); err != nil {
			t.Fatal(err)
		}
		again, err := vetClient(once, limits)
		if err != nil || !proto.Equal(once, again) {
			t.Fatalf("%v became %v, %v", once, again, err)
		}
	})
}

// FuzzFeedFrame: whatever a frame of another node's feed says becomes an item.
func FuzzFeedFrame(f *testing.F) {
	frame := &pb.FeedFrame{Closed: 9, Events: []*pb.Event{{Kv: &pb.KeyValue{Key: []byte("k"), ModRevision: 3}}, {Delete: true, PrevKv: &pb.KeyValue{}}}}
	b, err := frame.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := &pb.FeedFrame{}
		if fr.UnmarshalVT(b) != nil {
			return
		}
		if item := frameToHub(fr); len(item.Events) != len(fr.Events) {
			t.Fatalf("%d events of %d", len(item.Events), len(fr.Events))
		}
	})
}
