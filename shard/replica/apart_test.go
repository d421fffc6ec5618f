package replica

import (
	"context"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/lead"
	"pontoon/shard/replica/replicatest"
)

// heldStore is a store whose scans, and whose lists of a lease's keys, wait.
type heldStore struct {
	lead.Base
	entered chan<- struct{}
	release <-chan struct{}
}

func (h heldStore) wait() {
	h.entered <- struct{}{}
	<-h.release
}

func (h heldStore) Scan(o mvcc.ScanOptions, fn func(*shard.KeyValue) bool) error {
	h.wait()
	return h.Base.Scan(o, fn)
}

func (h heldStore) LeaseKeys(lease int64, limit int) ([][]byte, error) {
	h.wait()
	return h.Base.LeaseKeys(lease, limit)
}

// TestAReadOfTheStoreHoldsNobody: calls come one after another on a goroutine that receives for a whole
// peer. What the evaluation of one reads of the store, however long that takes, holds up neither the next
// calls nor what others do.
func TestAReadOfTheStoreHoldsNobody(t *testing.T) {
	compare := &pb.Compare{Target: eval.TargetVersion, Key: []byte("a"), RangeEnd: []byte("m"), Number: 9}
	for name, op := range map[string]*pb.Op{
		"a compare of a span": replicatest.Txn(compare, []*pb.Op{replicatest.Put("b", "1")}, nil),
		"a delete of a span":  replicatest.Del("a", "m"),
		"the end of a lease":  {ExpireLease: 7},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			entered, release := make(chan struct{}, 8), make(chan struct{})
			f.r.mu.Lock()
			f.r.base = func(st *mvcc.Store) lead.Base { return heldStore{st, entered, release} }
			f.r.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			held, next, fenced := make(chan error, 1), make(chan error, 1), make(chan error, 1)
			received := make(chan struct{})
			go func() { // the goroutine that receives
				defer close(received)
				f.r.Write(ctx, &pb.WriteRequest{Op: op}, func(_ *pb.WriteResponse, err error) { held <- err })
				<-entered
				f.r.Write(ctx, &pb.WriteRequest{Op: replicatest.Put("z", "1")}, func(_ *pb.WriteResponse, err error) { next <- err })
				f.r.Fence(ctx, &pb.FenceRequest{Span: pb.FromSpan(shard.Point([]byte("z"))), Revision: 1, Epoch: 1},
					func(_ *pb.FenceResponse, err error) { fenced <- err })
			}()
			for _, ch := range []chan error{next, fenced} {
				select {
				case err := <-ch:
					if err != nil {
						t.Error(err)
					}
				case <-ctx.Done():
					t.Fatal("a call waits for another's read of the store")
				}
			}
			<-received
			select {
			case err := <-held:
				t.Error("the read was not held: ", err)
			default:
			}
			close(release)
			if err := <-held; err != nil {
				t.Error(err)
			}
		})
	}
}
