package replica

import (
	"errors"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// shrink takes the keys from at on away from the range, as a split does.
func (f *fixture) shrink(at string) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.mu.m.Desc.Span.End = []byte(at)
	f.r.mu.m.Desc.Generation++
	f.r.publishLocked()
}

// TestAGenerationRefusesNothing: a request is refused where the range does not hold its keys, and nowhere else.
func TestAGenerationRefusesNothing(t *testing.T) {
	f := newFixture(t)
	f.shrink("m")
	key := func(k string) []*pb.Span { return []*pb.Span{pb.FromSpan(shard.Point([]byte(k)))} }
	id := func(seq uint64) *pb.TxnID { return &pb.TxnID{AnchorRange: 9, Term: 1, Seq: seq} }
	calls := map[string]func(gen uint64, k string, seq uint64, got func(error)){
		"write": func(gen uint64, k string, _ uint64, got func(error)) {
			f.r.Write(t.Context(), &pb.WriteRequest{Generation: gen, Op: replicatest.Put(k, "1")}, func(_ *pb.WriteResponse, err error) { got(err) })
		},
		"expiry": func(gen uint64, k string, _ uint64, got func(error)) {
			op := &pb.Op{ExpireLease: 7, ExpireSpan: key(k)[0]}
			f.r.Write(t.Context(), &pb.WriteRequest{Generation: gen, Op: op}, func(_ *pb.WriteResponse, err error) { got(err) })
		},
		"prepare": func(gen uint64, k string, seq uint64, got func(error)) {
			req := &pb.PrepareRequest{Generation: gen, Epoch: 1, Prepare: &pb.Prepare{Id: id(seq), AnchorKey: []byte("z"), Read: key(k)}}
			f.r.Prepare(t.Context(), req, func(_ *pb.PrepareResponse, err error) { got(err) })
		},
		"resolve": func(gen uint64, k string, seq uint64, got func(error)) {
			req := &pb.ResolveRequest{Generation: gen, Epoch: 1, Resolve: &pb.Resolve{Id: id(seq), Committed: true, Revision: 1, Key: []byte(k)}}
			f.r.Resolve(t.Context(), req, got)
		},
		"inquire": func(gen uint64, k string, seq uint64, got func(error)) {
			req := &pb.InquireRequest{Generation: gen, Id: id(100 + seq), AnchorKey: []byte(k), Participant: key("z")[0]}
			f.r.Inquire(t.Context(), req, func(_ *pb.InquireResponse, err error) { got(err) })
		},
		"compact": func(_ uint64, k string, _ uint64, got func(error)) {
			f.r.CompactTo(t.Context(), &pb.CompactRangeRequest{Revision: 1, Span: key(k)[0]}, got)
		},
	}
	seq := uint64(0)
	for _, name := range []string{"write", "expiry", "resolve", "inquire", "compact", "prepare"} { // which locks
		call := calls[name]
		for _, gen := range []uint64{0, 1, 2, 9} {
			for _, k := range []string{"b", "x"} {
				seq++
				ch := make(chan error, 1)
				call(gen, k, seq, func(err error) { ch <- err })
				err := <-ch
				var wrong *shard.WrongRangeError
				switch {
				case k == "b" && err != nil:
					t.Errorf("%s of a key that is held, by generation %d: %v", name, gen, err)
				case k == "x" && (!errors.As(err, &wrong) || len(wrong.Known) != 1 || wrong.Known[0].Generation != 2):
					t.Errorf("%s of a key that is not, by generation %d: %v", name, gen, err)
				}
			}
		}
	}
}

// TestALeaderFollowsCompactions: what an answer of the oracle names is logged, though nobody asks this range for it.
func TestALeaderFollowsCompactions(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	f.mustWrite(t, replicatest.Put("b", "2"), "3 put@3")
	f.o.compacted.Store(3)
	f.mustWrite(t, replicatest.Put("c", "3"), "4 put@4")
	waitFor(t, func() bool {
		f.r.mu.Lock()
		defer f.r.mu.Unlock()
		return f.r.store.CompactRevision() == 3
	})
	index := f.r.AppliedIndex()
	f.mustWrite(t, replicatest.Put("d", "4"), "5 put@5")
	if got := f.r.AppliedIndex(); got != index+1 {
		t.Errorf("%d entries for one put: a compaction is logged once", got-index)
	}
}

// TestAPhysicalCompactionOfMoreThanIsHeld: the part that was cut off meanwhile has a file of its own.
func TestAPhysicalCompactionOfMoreThanIsHeld(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	f.mustWrite(t, replicatest.Put("b", "2"), "3 put@3")
	done := make(chan error, 1)
	f.r.CompactTo(t.Context(), &pb.CompactRangeRequest{Revision: 3, Physical: true, Span: pb.FromSpan(shard.All)}, func(err error) { done <- err })
	waitFor(t, f.r.Awaited)
	f.shrink("m")
	for more := true; more; {
		var err error
		if more, err = f.r.Maintain(1000); err != nil {
			t.Fatal(err)
		}
	}
	if wrong := (*shard.WrongRangeError)(nil); !errors.As(<-done, &wrong) {
		t.Errorf("all is said to be gone: %v", wrong)
	}
}

// TestACoordinatorKnowsItsOwnRangeBest: its range has been cut, and the map has not heard of it.
func TestACoordinatorKnowsItsOwnRangeBest(t *testing.T) {
	f := newFixture(t)
	old, err := shard.NewMap(1, []shard.Descriptor{replicatest.TestDesc})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.r.newest(old); got != old {
		t.Errorf("nothing is news: %v", got)
	}
	f.shrink("m")
	if got := f.r.newest(old); got != old {
		t.Errorf("a part of what is known leaves a hole: %v", got)
	}
	right := f.r.Desc()
	right.ID, right.Span = 9, shard.Span{Start: []byte("m")}
	f.r.mu.Lock()
	f.r.mu.m.Done = &pb.ChangeDone{Child: pb.FromDescriptor(right)}
	f.r.mu.Unlock()
	if got := f.r.newest(old); got.Len() != 2 || got.Lookup([]byte("x")).ID != 9 {
		t.Errorf("the child is not found: %v", got)
	}
}
