package lead

import (
	"pontoon/shard/replica/replicatest"
	"testing"
	"time"
)

// Requests wait for the batch tick together. One tick is requested at a time, and one batch is closed at each.
// Where batches are closed on ticks, the driver is told how long each took from there to its answers.
func TestHowLongABatchTakes(t *testing.T) {
	now := time.Unix(10, 0)
	lim := testLimits()
	lim.BatchDelay, lim.Proposals, lim.Clock = true, 2, func() time.Time { return now }
	e := newEnv(lim)
	e.own()
	e.write("a", replicatest.Put("a", "1"), time.Time{})
	now = now.Add(time.Second) // before its batch is closed
	e.batchTick()
	now = now.Add(5 * time.Millisecond)
	e.alloc(0)
	now = now.Add(2 * time.Millisecond)
	e.wantNot(t, "took")
	e.settle(t)
	e.wantOut(t, "took 7ms")
}

func TestABatchIsClosedOnATick(t *testing.T) {
	lim := testLimits()
	lim.BatchDelay, lim.Proposals = true, 2
	e := newEnv(lim)
	e.own()
	e.write("a", replicatest.Put("a", "1"), time.Time{})
	e.write("b", replicatest.Put("b", "1"), time.Time{})
	e.wantNot(t, "allocate")
	e.batchTick()
	e.wantOut(t, "allocate #1 n=2")
	e.alloc(0)
	e.write("c", replicatest.Put("c", "1"), time.Time{})
	if len(e.batchTicks) != 1 {
		t.Fatalf("%d ticks requested", len(e.batchTicks))
	}
	e.batchTick()
	e.alloc(0)
	e.write("d", replicatest.Put("d", "1"), time.Time{})
	if len(e.batchTicks) != 0 {
		t.Fatal("a tick is requested while no batch may be closed")
	}
	e.settle(t)
	e.wantOut(t, "a: rev 2", "b: rev 3", "c: rev 4", "d: rev 5")

	// What timed out before the tick does not let the next request pass without one.
	e.write("e", replicatest.Put("e", "1"), time.Unix(10, 0))
	e.l.Tick(time.Unix(20, 0))
	e.batchTick()
	e.drain()
	e.write("f", replicatest.Put("f", "1"), time.Time{})
	e.wantNot(t, "allocate")
	e.lead(lim)
	e.batchTick() // of the term before
	e.own()
	e.write("g", replicatest.Put("g", "1"), time.Time{})
	e.settle(t)
	e.wantOut(t, "g: rev 6")
}
