package replica

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// TestHeldBackOverARestart: what a prepared transaction held back before a restart is in the store and
// not in the feed any more. When the transaction has ended, the feed must say that there is a gap:
// else a watcher of this replica misses it. The same holds where the floor only rises.
func TestHeldBackOverARestart(t *testing.T) {
	dir := t.TempDir()
	index := uint64(raftgroup.InitialIndex)
	apply := func(r *Replica, e *pb.Entry) {
		t.Helper()
		index++
		e.Term, e.Epoch = 6, 1
		if err := r.Apply([]raftgroup.Entry{{Index: index, Term: 6, Data: apply.Marshal(e)}}); err != nil {
			t.Fatal(err)
		}
	}
	txn := func(seq uint64) *pb.TxnID { return &pb.TxnID{AnchorRange: 9, Term: 1, Seq: seq} }
	lock := func(key string) []*pb.Span { return []*pb.Span{pb.FromSpan(shard.Point([]byte(key)))} }
	r, err := Open(testConfig(dir, 0, nil, nil, &feedLog{}))
	if err != nil {
		t.Fatal(err)
	}
	apply(r, &pb.Entry{Prepare: &pb.Prepare{Id: txn(1), Write: lock("x"), Floor: 10}})
	apply(r, &pb.Entry{Batch: &pb.Batch{FirstRevision: 12, Requests: []*pb.Op{replicatest.Put("k", "1")}}})
	apply(r, &pb.Entry{Prepare: &pb.Prepare{Id: txn(2), Write: lock("y"), Floor: 10}})
	apply(r, &pb.Entry{Batch: &pb.Batch{FirstRevision: 14, Requests: []*pb.Op{replicatest.Put("k", "2")}}})
	if err := r.Close(); err != nil { // flushes: all of it is in the file
		t.Fatal(err)
	}
	feed := &feedLog{}
	r = open(t, testConfig(dir, 0, nil, nil, feed))
	for i, want := range []int64{12, 14} {
		before := len(feed.items)
		apply(r, &pb.Entry{Resolve: &pb.Resolve{Id: txn(uint64(i + 1))}})
		if got := r.ClosedRevision(); got != want {
			t.Fatalf("transaction %d has ended: closed at %d, not %d", i+1, got, want)
		}
		gap := false
		for _, it := range feed.items[before:] {
			gap = gap || it.Gap
		}
		if !gap {
			t.Errorf("the feed closes %d, says nothing of what it has lost, and did not publish it", want)
		}
	}
}
