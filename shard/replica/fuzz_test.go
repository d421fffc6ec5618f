package replica

import (
	"context"
	"sync/atomic"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// addMessage seeds a message, a half of it, and one with a bit changed.
func addMessage(f *testing.F, m apply.Marshaler) {
	b := apply.Marshal(m)
	f.Add(b)
	f.Add(b[:len(b)/2])
	bad := append([]byte{}, b...)
	if len(bad) > 0 {
		bad[len(bad)/2] ^= 0x40
	}
	f.Add(bad)
}

// FuzzCalls: whatever another node's call says, it is answered once, at the latest when the
// replica closes.
func FuzzCalls(f *testing.F) {
	all := pb.FromSpan(shard.All)
	for _, req := range []*pb.PeerRequest{
		{Write: &pb.WriteRequest{Op: replicatest.Put("a", "1")}},
		{Write: &pb.WriteRequest{Op: replicatest.Txn(replicatest.IfMod("a", 2), []*pb.Op{replicatest.Del("a", "c")}, []*pb.Op{replicatest.Get("x"), replicatest.Nested2()})}},
		{Write: &pb.WriteRequest{Op: &pb.Op{ExpireLease: 7}}},
		{Write: &pb.WriteRequest{}},
		{Fence: &pb.FenceRequest{Span: all, Revision: 2, Epoch: 1, Read: &pb.ReadRequest{Span: all, Revision: 2}}},
		{Fence: &pb.FenceRequest{}},
		{Read: &pb.ReadRequest{Span: all, Limit: 1, MaxBytes: 1, Reverse: true}},
		{Read: &pb.ReadRequest{Span: &pb.Span{Start: []byte("b"), End: []byte("a")}, Revision: -4, MinIndex: 1 << 60}},
		{History: &pb.HistoryRequest{Spans: []*pb.Span{all, all, {}}, From: 1, To: 9, MaxBytes: 1, PrevKv: true}},
		{Hash: &pb.HashRequest{Revision: 2}},
		{LeaseKeys: &pb.LeaseKeysRequest{Lease: 7}},
		{CompactRange: &pb.CompactRangeRequest{Revision: 1, Physical: true}},
	} {
		addMessage(f, req)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &pb.PeerRequest{}
		if req.UnmarshalVT(data) != nil {
			return
		}
		var asked, answered atomic.Int64
		t.Run("", func(t *testing.T) {
			fx := newFixture(t)
			if w := fx.write(t, replicatest.Put("a", "1")); w.err != nil {
				t.Fatal(w.err)
			}
			call(fx.r, req, func() { asked.Add(1) }, func() { answered.Add(1) })
			if w := fx.write(t, replicatest.Put("z", "1")); w.err != nil {
				t.Fatalf("the replica serves nobody any more: %v", w.err)
			}
		})
		if asked.Load() != answered.Load() {
			t.Fatalf("%d calls, %d answers: %v", asked.Load(), answered.Load(), req)
		}
	})
}

// call makes every call that the message holds.
func call(r *Replica, req *pb.PeerRequest, asked, answered func()) {
	ctx := context.Background()
	if q := req.Write; q != nil {
		asked()
		r.Write(ctx, q, func(*pb.WriteResponse, error) { answered() })
	}
	if q := req.Fence; q != nil && q.Epoch <= 1 && q.Revision <= 2 { // no oracle has handed out more
		asked()
		r.Fence(ctx, q, func(*pb.FenceResponse, error) { answered() })
	}
	if q := req.Read; q != nil {
		asked()
		r.Read(ctx, q, func(*pb.ReadResponse, error) { answered() })
	}
	if q := req.History; q != nil {
		_, _, _ = r.History(q)
	}
	if q := req.Hash; q != nil {
		asked()
		r.Hash(ctx, q, func(*pb.HashResponse, error) { answered() })
	}
	if q := req.LeaseKeys; q != nil {
		asked()
		r.LeaseKeys(ctx, q, func(*pb.LeaseKeysResponse, error) { answered() })
	}
	if q := req.CompactRange; q != nil && q.Revision <= 2 {
		asked()
		r.CompactTo(ctx, q, func(error) { answered() })
	}
}

// FuzzLoadState: the state that a store holds beside its versions is refused or read. Its
// checksums keep damage away from here; what this catches is a newer or a broken writer.
func FuzzLoadState(f *testing.F) {
	f.Add(apply.StateEpoch, apply.Marshal(&pb.LeaseHalf{}))
	f.Add(apply.AttachmentKey(7), apply.Marshal(&pb.LeaseHalf{Lease: 7, Attached: true}))
	f.Add(apply.StatePrep+"x", apply.Marshal(&pb.Prepare{Id: &pb.TxnID{Seq: 1}, Write: []*pb.Span{{}}}))
	f.Add(apply.StateRecord+"x", apply.Marshal(&pb.Commit{Id: &pb.TxnID{Seq: 1}, Revision: 4}))
	f.Add(apply.StatePrep, []byte{0xff})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		st := replicatest.NewMemStore()
		st.States = map[string][]byte{key: value}
		m, err := apply.LoadMachine(1, replicatest.TestDesc, st)
		if (m == nil) == (err == nil) {
			t.Fatalf("machine %v, error %v", m, err)
		}
	})
}
