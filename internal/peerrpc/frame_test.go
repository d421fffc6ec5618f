package peerrpc

import (
	"errors"
	"net"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// silentListener accepts connections by the kernel only and never says anything.
func silentListener(t *testing.T) string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis.Addr().String()
}

// FuzzFrame puts messages together by hand and takes them apart by generated code.
func FuzzFrame(f *testing.F) {
	f.Add(uint64(1), int64(1000), int64(77), uint64(3), []byte("value"), uint64(9))
	f.Add(uint64(0), int64(0), int64(-1), uint64(1<<63), []byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, id uint64, timeout, rev int64, epoch uint64, value []byte, stale uint64) {
		req := &pb.PeerRequest{Id: stale, Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Value: value}}}}
		body, err := encodeBody(req)
		if err != nil {
			t.Fatal(err)
		}
		answer := encodeAnswer(&pb.PeerResponse{Hash: &pb.HashResponse{Hash: stale}}, calls.Hash)
		fr := newFrame(len(body)+len(answer), 2)
		room := cap(fr.raw)
		fr.addRequest(body, header{id: id, timeoutMs: timeout, rev: rev, epoch: epoch})
		fr.addResponse(answer, header{id: id, rev: rev, epoch: epoch})
		if cap(fr.raw) != room {
			t.Error("the frame had to grow")
		}
		var got pb.PeerFrame
		if err := got.UnmarshalVT(fr.raw); err != nil {
			t.Fatal(err)
		}
		req.TimeoutMs, req.Revision, req.Epoch = timeout, rev, epoch
		if id != 0 {
			req.Id = id
		}
		want := &pb.PeerFrame{
			Requests:  []*pb.PeerRequest{req},
			Responses: []*pb.PeerResponse{{Id: id, Revision: rev, Epoch: epoch, Hash: &pb.HashResponse{Hash: stale}}},
		}
		if !proto.Equal(&got, want) {
			t.Errorf("got %v, want %v", &got, want)
		}
	})
}

// TestAnswerTooLarge: what was carried out is not said to be refused for good because its answer cannot travel.
func TestAnswerTooLarge(t *testing.T) {
	prev := &pb.KeyValue{Value: make([]byte, 64<<20)}
	kvs := slices.Repeat([]*pb.KeyValue{prev}, peer.MessageBytesMax/len(prev.Value)+1)
	written := &pb.Result{Delete: &pb.DeleteResult{PrevKvs: kvs}}
	for _, c := range []struct {
		kind calls.Kind
		resp *pb.PeerResponse
		want error
	}{
		{calls.Write, &pb.PeerResponse{Write: &pb.WriteResponse{Result: written, Wrote: true}}, shard.ErrAmbiguous},
		{calls.Write, &pb.PeerResponse{Write: &pb.WriteResponse{Result: &pb.Result{Txn: &pb.TxnResult{Results: []*pb.Result{written}}}}}, shard.ErrAmbiguous},
		{calls.Prepare, &pb.PeerResponse{Prepare: &pb.PrepareResponse{Pages: []*pb.ReadResponse{{Kvs: kvs}}}}, shard.ErrAmbiguous},
		{calls.Read, &pb.PeerResponse{Read: &pb.ReadResponse{Kvs: kvs}}, shard.ErrInvalid},
		{calls.Fence, &pb.PeerResponse{Fence: &pb.FenceResponse{Read: &pb.ReadResponse{Kvs: kvs}}}, shard.ErrInvalid},
	} {
		var told pb.PeerResponse
		if err := told.UnmarshalVT(encodeAnswer(c.resp, c.kind)); err != nil {
			t.Fatal(err)
		}
		if _, err := split(&told); !errors.Is(err, c.want) || shard.Retryable(err) {
			t.Errorf("%s: %v, want %v", calls.Table[c.kind].Name, err, c.want)
		}
	}
}
