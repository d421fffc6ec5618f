package lead

import (
	"fmt"
	"math"
	"testing"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// emptyStore holds nothing.
type emptyStore struct{}

func (emptyStore) Get([]byte, int64) (shard.KeyValue, bool, error) {
	return shard.KeyValue{}, false, nil
}
func (emptyStore) Head([]byte, int64) (shard.KeyValue, bool, error) {
	return shard.KeyValue{}, false, nil
}
func (emptyStore) Scan(mvcc.ScanOptions, func(*shard.KeyValue) bool) error { return nil }
func (emptyStore) Count(shard.Span, int64) (int64, error)                  { return 0, nil }
func (emptyStore) LeaseKeys(int64, int) ([][]byte, error)                  { return nil, nil }
func (emptyStore) InMemory([]byte, int64) bool                             { return true }
func (emptyStore) CompactRevision() int64                                  { return 0 }

// BenchmarkLeaderPut is the leader core's part of a put, with an oracle and a group that answer at
// once, in batches of the given size.
func BenchmarkLeaderPut(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			m := &apply.Machine{Self: 1, Base: emptyStore{}, Shape: apply.Shape{Desc: replicatest.TestDesc}, Attachments: map[int64]apply.Attachment{}}
			l := NewLeader(testLimits(), m, emptyStore{}, 6)
			l.OwnTermApplied()
			ops := make([]*pb.Op, 1024)
			for i := range ops {
				ops[i] = replicatest.Put(fmt.Sprintf("key-%06d", i), "value")
			}
			done := 0
			reply := func(*pb.WriteResponse, error) { done++ }
			var acts []Action
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; {
				for range batch {
					l.Request(newItem(ops[i%len(ops)], reply))
					i++
				}
				for acts = l.TakeActions(acts[:0]); len(acts) > 0; acts = l.TakeActions(acts[:0]) {
					for _, a := range acts {
						switch a.Kind {
						case ActAllocate:
							l.Batches.Allocated(a.Id, m.Last+1, 1, nil)
						case ActPropose:
							applyBlind(l, m, a.Entry)
						case ActReply:
							a.Item.Reply(a.Resp, a.Err)
						}
					}
				}
			}
			b.StopTimer()
			if done < b.N {
				b.Fatalf("%d of %d answered", done, b.N)
			}
		})
	}
}

// applyBlind tells the core that an entry of blind puts has applied.
func applyBlind(l *Leader, m *apply.Machine, e *pb.Entry) {
	n := len(e.Batch.Requests)
	d := &apply.Decision{Entry: e, Results: make([]*pb.Result, n), Wrote: make([]bool, n), Last: e.Batch.FirstRevision + int64(n) - 1}
	d.Change.Pos.Index = m.Index + 1
	m.Commit(d)
	l.Applied(d)
}

// BenchmarkDecide is the machine's part of applying an entry of puts.
func BenchmarkDecide(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			m := &apply.Machine{Self: 1, Base: emptyStore{}, Shape: apply.Shape{Desc: replicatest.TestDesc}, Attachments: map[int64]apply.Attachment{}}
			reqs := make([]*pb.Op, batch)
			for i := range reqs {
				reqs[i] = &pb.Op{Put: &pb.PutOp{Key: []byte(fmt.Sprintf("key-%06d", i)), Value: make([]byte, 256)}}
			}
			data := apply.Marshal(&pb.Entry{Term: 6, Proposer: 1, Batch: &pb.Batch{FirstRevision: math.MaxInt32, Requests: reqs}})
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				if _, err := m.Decide(apply.Entry{Index: 11, Term: 6, Data: data}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchTxn is a transaction with a compare, a put and a delete.
func benchTxn(i int) *pb.Op {
	key := fmt.Sprintf("key-%06d", i)
	return replicatest.Txn(replicatest.IfVersion(key, 0), []*pb.Op{replicatest.Put(key, "value"), replicatest.Del(key+"x", "")}, []*pb.Op{replicatest.Get(key)})
}

// BenchmarkPredictTxn is what the leader core decides about a transaction before it is in the log.
func BenchmarkPredictTxn(b *testing.B) {
	v := predictor{base: emptyStore{}, tab: newTable(), maxAllocated: 10}
	op := benchTxn(1)
	b.ReportAllocs()
	for b.Loop() {
		if out, _, err := v.predict(op, 0); out != writesSomething || err != nil {
			b.Fatal(out, err)
		}
	}
}

// BenchmarkDecideTxn is the machine's part of applying an entry of 64 transactions, on the leader and on a
// follower.
func BenchmarkDecideTxn(b *testing.B) {
	for name, proposer := range map[string]uint64{"leader": 1, "follower": 2} {
		b.Run(name, func(b *testing.B) {
			m := &apply.Machine{Self: 1, Base: emptyStore{}, Shape: apply.Shape{Desc: replicatest.TestDesc}, Attachments: map[int64]apply.Attachment{}}
			reqs := make([]*pb.Op, 64)
			for i := range reqs {
				reqs[i] = benchTxn(i)
			}
			data := apply.Marshal(&pb.Entry{Term: 6, Proposer: proposer, Batch: &pb.Batch{FirstRevision: math.MaxInt32, Requests: reqs}})
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(reqs) {
				if _, err := m.Decide(apply.Entry{Index: 11, Term: 6, Data: data}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
