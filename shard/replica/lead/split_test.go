package lead

import (
	"errors"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

func (e *env) change(name string, entry *pb.Entry, deadline time.Time) {
	e.l.Barriers.Change(entry, deadline, func(_ time.Duration, err error) {
		if err != nil {
			e.printf("%s: error: %s", name, replicatest.ErrName(err))
			return
		}
		e.printf("%s: done", name)
	})
	e.collect(e.l)
}

func splitOfTest(at string, gen uint64) *pb.Entry {
	return &pb.Entry{Split: &pb.Split{At: []byte(at), Child: 9, Generation: gen, Op: 5, Replicas: []*pb.ReplicaDesc{
		{ReplicaId: 4, NodeId: 11}, {ReplicaId: 5, NodeId: 12}, {ReplicaId: 6, NodeId: 13},
	}}}
}

// TestASplitBehindADrain: what is ahead of a split is in the log before it, no revision is handed out meanwhile, and what waits is looked
// at anew: it is the child's, or it goes on.
func TestASplitBehindADrain(t *testing.T) {
	e := newLed(t)
	e.write("ahead", replicatest.Put("x", "1"), time.Time{})
	e.change("split", splitOfTest("m", 1), time.Time{})
	e.write("right", replicatest.Put("x", "2"), time.Time{})
	e.write("left", replicatest.Put("b", "2"), time.Time{})
	e.alloc(0)
	if len(e.log) != 1 {
		t.Fatalf("%d entries are proposed with a request ahead", len(e.log))
	}
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	if len(e.log) != 1 || len(e.allocs) != 0 {
		t.Fatalf("drained: %d entries are proposed, %d allocations asked for", len(e.log), len(e.allocs))
	}
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "ahead: rev 2", "split: done", "right: error: r2: the request's range")
	e.settle(t)
	e.wantOut(t, "left: rev 3") // dense: nothing is left out
	if e.m.Closed != 3 || e.m.Desc.Generation != 2 {
		t.Errorf("closed at %d, generation %d", e.m.Closed, e.m.Desc.Generation)
	}
}

// TestHazard12AFenceAcrossASplit: what was let in for keys that the range does not hold any more is refused, however its proof comes out; so is what comes for them
// later.
func TestHazard12AFenceAcrossASplit(t *testing.T) { hazard12(t) }

func hazard12(t *testing.T) {
	e := newLed(t)
	e.fenceOn("right", "x", 1, 1)
	e.fenceOn("left", "b", 1, 1)
	e.change("split", splitOfTest("m", 1), time.Time{})
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	for len(e.confirms) > 0 {
		e.confirm(0, true)
	}
	e.fenceOn("late", "x", 1, 1)
	e.settle(t)
	e.wantOut(t, "right: error: r2: the request's range", "left: fenced at index", "late: error: r2: the request's range")
}

// TestASplitIsRefused: the range goes on with all its keys.
func TestASplitIsRefused(t *testing.T) {
	e := newLed(t)
	e.change("late", splitOfTest("m", 7), time.Time{})
	e.write("w", replicatest.Put("x", "2"), time.Time{})
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.settle(t)
	e.wantOut(t, "w: rev 2")
	if e.m.Desc.Generation != 1 {
		t.Errorf("generation %d", e.m.Desc.Generation)
	}
	if err := e.l.CheckSplit(splitOfTest("m", 7).Split); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("it could have been known before: %v", err)
	}
	if err := e.l.CheckSplit(splitOfTest("m", 1).Split); err != nil {
		t.Error(err)
	}
}

// TestASplitEndsWithItsTerm: whoever asked is told to ask the next leader; the entry may yet apply.
func TestASplitEndsWithItsTerm(t *testing.T) {
	e := newLed(t)
	e.change("split", splitOfTest("m", 1), time.Time{})
	e.write("w", replicatest.Put("x", "2"), time.Time{})
	e.depose()
	e.wantOut(t, "split: error: not leader", "w: error: not leader")
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	if e.m.Desc.Generation != 2 {
		t.Errorf("generation %d", e.m.Desc.Generation)
	}
}
