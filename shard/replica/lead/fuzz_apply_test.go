package lead

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

func FuzzApply(f *testing.F) {
	f.Add(apply.Marshal(&pb.Entry{Term: 6, Epoch: 1, Proposer: 1, Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{
		replicatest.Put("a", "1"), replicatest.Cas("a", "2", 2), replicatest.Del("a", "c"), {ExpireLease: 7}, replicatest.Txn(nil, []*pb.Op{replicatest.Nested2()}, nil),
	}}}))
	f.Add(apply.Marshal(&pb.Entry{Term: 6, LeaseHalf: &pb.LeaseHalf{Lease: 7, Attached: true}}))
	f.Add(apply.Marshal(&pb.Entry{Term: 6, Prepare: &pb.Prepare{Id: &pb.TxnID{}, Floor: 3, Write: []*pb.Span{{}}}}))
	f.Add(apply.Marshal(&pb.Entry{Term: 6, Commit: &pb.Commit{Id: &pb.TxnID{}, Revision: 3, Effects: []*pb.Effects{{Ops: []*pb.Op{replicatest.Put("a", "1")}, FirstSub: []int64{0}}}}}))
	f.Add(apply.Marshal(&pb.Entry{Term: 6, Resolve: &pb.Resolve{Id: &pb.TxnID{}}}))
	f.Add(apply.Marshal(&pb.Entry{Term: 6, Split: &pb.Split{}}))
	f.Add([]byte{0xff, 0x00, 0x12})
	f.Fuzz(func(t *testing.T, data []byte) {
		e := newEnv(testLimits())
		e.own()
		for range 2 { // the second time over what the first one left
			if err := e.applyEntry2(data); err != nil {
				return
			}
		}
	})
}
