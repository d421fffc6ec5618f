package placement

import (
	"testing"

	"pontoon/internal/pb"
)

// TestCost: as etcd counts, with nested transactions.
func TestCost(t *testing.T) {
	put := func(n int) *pb.Op { return &pb.Op{Put: &pb.PutOp{Key: []byte("k"), Value: make([]byte, n)}} }
	for want, op := range map[int64]*pb.Op{
		256 + 1 + 9: put(9),
		0:           {Delete: &pb.DeleteOp{Key: []byte("k")}},
		2*257 + 30:  {Txn: &pb.TxnOp{Success: []*pb.Op{put(500)}, Failure: []*pb.Op{put(10), {Txn: &pb.TxnOp{Failure: []*pb.Op{put(20)}}}}}},
	} {
		if want == 2*257+30 { // 757 in the other branch is dearer
			want = 757
		}
		if got := Cost(op); got != want {
			t.Errorf("%v costs %d, want %d", op, got, want)
		}
	}
}

// TestQuota: what the disk allows leaves a part of it free, also of a small one.
func TestQuota(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct{ stated, taken, free, used, want int64 }{
		{-1, 5, 100, 100, NoQuota}, {7, 100, 0, 0, 7}, {0, 1, 0, 0, NoQuota},
		{0, 3 * gib, 90 * gib, 10 * gib, 88 * gib}, {0, 0, 8 * gib, 8 * gib, 7 * gib}, {0, 10, 1000, 0, 910}, {0, 5, 10, 990, 0},
	} {
		if got := Quota(tt.stated, tt.taken, tt.free, tt.used); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}
