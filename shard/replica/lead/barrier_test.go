package lead

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// transfer asks for a drained transfer, and prints its outcome under name.
func (e *env) transfer(name string, deadline time.Time) {
	e.l.Barriers.Transfer(0, deadline, func(stood time.Duration, err error) {
		if err != nil {
			e.printf("%s: error: %s", name, replicatest.ErrName(err))
			return
		}
		e.printf("%s: handed over", name)
	})
	e.collect(e.l)
}

// transfers takes the transfers that the core has begun, and those that it wants to end.
func (e *env) transfers() (begun, aborted []Action) {
	for _, a := range e.others {
		if a.Kind == ActTransfer {
			begun = append(begun, a)
		} else if a.Kind == ActAbortTransfer {
			aborted = append(aborted, a)
		}
	}
	e.others = slices.DeleteFunc(e.others, func(a Action) bool { return a.Kind == ActTransfer || a.Kind == ActAbortTransfer })
	return begun, aborted
}

func (e *env) wantTransfers(t *testing.T, begun, aborted int) []Action {
	t.Helper()
	b, a := e.transfers()
	if len(b) != begun || len(a) != aborted {
		t.Fatalf("%d transfers begun and %d aborted, want %d and %d", len(b), len(a), begun, aborted)
	}
	return b
}

func (e *env) tickAt(d time.Duration) {
	e.l.Tick(time.Unix(1, 0).Add(d))
	e.collect(e.l)
}

// TestHazard66HandedOverUndrained: a leader that hands over has first used every revision that it had allocated, and who waits
// meanwhile is told where to go, not left in doubt.
func TestHazard66HandedOverUndrained(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.Put("k", "1"), time.Time{})
	e.transfer("move", time.Time{})
	e.write("w2", replicatest.Put("x", "2"), time.Time{})
	e.wantTransfers(t, 0, 0) // a revision is being allocated
	e.alloc(0)
	e.wantTransfers(t, 0, 0) // its entry has not applied
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantTransfers(t, 1, 0)
	if len(e.allocs) != 0 {
		t.Fatal("a revision is allocated behind the barrier")
	}
	e.depose()
	e.wantOut(t, "w1: rev 2", "move: handed over", "w2: error: not leader")
	if e.rev != e.m.Last {
		t.Fatalf("revisions up to %d were handed out, the log has %d", e.rev, e.m.Last)
	}
}

// TestHazard64LocksAndAllocationsAreWaitedFor: what is prepared in the range, and what is being allocated for it,
// would be orphaned by a split behind the barrier.
func TestHazard64LocksAndAllocationsAreWaitedFor(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	anchor, last := w.env([]byte("a")), w.env([]byte("c"))
	w.issue(putAll("abc"), 0)
	w.drive(nil, last) // a and b are locked, c is slow
	for _, e := range []*env{anchor, w.env([]byte("b"))} {
		if len(e.m.Prepared) != 1 {
			t.Fatalf("%v: %d transactions are prepared", e.m.Desc.ID, len(e.m.Prepared))
		}
		e.transfer("move", time.Time{})
		w.sweep(e)
	}
	w.holdTransfers = true
	w.drive(nil, last)
	if n := len(w.heldTransfers); n != 0 {
		t.Fatalf("%d ranges were handed over while locked", n)
	}
	w.drive(nil)
	if n := len(w.heldTransfers); n != 2 {
		t.Fatalf("%d of 2 ranges have drained", n)
	}
	w.want(0, w.answer(0))
	w.noLocks()
	w.checkDense()
}

// TestHazard69DrainsGiveWay: what a drain waits for may wait for another drain. It ends after 50 ms, lets what has
// waited pass, and tries again after pauses ten times as long, with twice the patience up to an election timeout.
func TestHazard69DrainsGiveWay(t *testing.T) {
	e := newLed(t)
	e.write("slow", replicatest.Put("k", "1"), time.Time{}) // its allocation is not answered
	e.transfer("move", time.Unix(1, 0).Add(time.Hour))
	inTable := func() bool { return e.l.Barriers.item != nil }
	var drains, pauses []time.Duration
	since, at := time.Duration(0), time.Duration(0)
	e.tickAt(0)
	for len(pauses) < 6 {
		was := inTable()
		at += 25 * time.Millisecond
		e.tickAt(at)
		if was == inTable() {
			continue
		}
		if was {
			drains = append(drains, at-since)
		} else {
			pauses = append(pauses, at-since)
			at += 25 * time.Millisecond // the new drain's time begins with its first tick
			e.tickAt(at)
		}
		since = at
	}
	ms := time.Millisecond
	if want := []time.Duration{50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms}; !slices.Equal(drains, want) {
		t.Errorf("drains %v, want %v", drains, want)
	}
	if want := []time.Duration{500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 10000 * ms}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
}

// TestADrainTakesAsLongAsRequestsDo: where batches take long, the first drain, and whoever takes over, get as long: 50 ms are never enough there, and
// after them the range would be left as it is.
func TestADrainTakesAsLongAsRequestsDo(t *testing.T) { longDrain(t) }

func longDrain(t *testing.T) {
	now := time.Unix(10, 0)
	lim := testLimits()
	lim.BatchDelay, lim.Proposals, lim.Allocs, lim.Clock = true, 2, 2, func() time.Time { return now }
	e := newEnv(lim)
	e.own()
	batch := func(name string, takes time.Duration) {
		e.write(name, replicatest.Put(name, "1"), time.Time{})
		e.batchTick()
		now = now.Add(takes)
	}
	for i := range 8 {
		batch(fmt.Sprint("w", i), 200*time.Millisecond)
		e.settle(t)
	}
	batch("slow", 0)
	e.transfer("move", time.Unix(1, 0).Add(time.Hour))
	e.tickAt(0)
	e.tickAt(500 * time.Millisecond)
	if e.l.Barriers.item == nil {
		t.Fatal("the drain has given way while a request took as long as others")
	}
	e.settle(t)
	e.wantTransfers(t, 1, 0)
	e.tickAt(510 * time.Millisecond)
	e.tickAt(1000 * time.Millisecond)
	e.wantTransfers(t, 0, 0)
	e.tickAt(1600 * time.Millisecond)
	e.wantTransfers(t, 0, 1)
}

// TestADrainThatGivesWayLetsPass: who waited behind it is served during the pause; with no time for another drain the
// barrier ends.
func TestADrainThatGivesWayLetsPass(t *testing.T) {
	e := newEnv(func() Limits { l := testLimits(); l.Allocs = 2; return l }())
	e.own()
	e.write("slow", replicatest.Put("k", "1"), time.Time{})
	e.transfer("move", time.Unix(1, 0).Add(300*time.Millisecond))
	e.write("behind", replicatest.Put("x", "2"), time.Time{})
	e.tickAt(0)
	if len(e.allocs) != 1 {
		t.Fatalf("%d allocations: the barrier holds nobody", len(e.allocs))
	}
	e.tickAt(60 * time.Millisecond)
	if len(e.allocs) != 2 {
		t.Fatalf("%d allocations: who waited is not served", len(e.allocs))
	}
	e.wantOut(t, "move: error: "+shard.ErrTimeout.Error())
	e.wantTransfers(t, 0, 0)
	e.settle(t)
	e.wantOut(t, "slow: rev 2", "behind: rev 3")
}

// TestATransferThatFailsGivesWay: nobody takes over within a quarter of an election timeout. The leader goes on with
// what has waited, and no revision is lost by it.
func TestATransferThatFailsGivesWay(t *testing.T) {
	e := newLed(t)
	e.transfer("move", time.Time{})
	began := e.wantTransfers(t, 1, 0)
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	e.tickAt(0)
	e.tickAt(240 * time.Millisecond)
	e.wantTransfers(t, 0, 0)
	e.tickAt(250 * time.Millisecond)
	e.tickAt(300 * time.Millisecond)
	e.wantTransfers(t, 0, 1)
	if len(e.allocs) != 0 {
		t.Fatal("a revision is allocated while another may take over")
	}
	e.l.Barriers.Acted(began[0].Id+7, nil) // of nobody
	e.l.Barriers.Acted(began[0].Id, nil)   // the term has not ended yet
	e.collect(e.l)
	if len(e.allocs) != 0 {
		t.Fatal("a revision is allocated although another has taken over")
	}
	e.l.Barriers.Acted(began[0].Id, shard.ErrTimeout)
	e.collect(e.l)
	e.wantOut(t, "move: error: "+shard.ErrTimeout.Error())
	e.settle(t)
	e.wantOut(t, "w: rev 2")
	e.transfer("again", time.Time{})
	e.wantTransfers(t, 1, 0)
}

// TestBehindABarrier: who waits for it, and who does not.
func TestBehindABarrier(t *testing.T) {
	type test struct {
		name  string
		enter func(e *env)
		waits bool
	}
	tests := []test{
		{"a put", func(e *env) { e.write("r", replicatest.Put("k", "1"), time.Time{}) }, true},
		{"a compare that may write nothing", func(e *env) { e.write("r", replicatest.Cas("k", "1", 7), time.Time{}) }, true},
		{"a delete of everything", func(e *env) { e.write("r", replicatest.Del("a", "z"), time.Time{}) }, true},
		{"an expiry without keys", func(e *env) { e.write("r", &pb.Op{ExpireLease: 7}, time.Time{}) }, true},
		{"a fence", func(e *env) { e.fenceOn("r", "k", e.rev, e.epoch) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newLed(t)
			e.transfer("move", time.Time{})
			e.drain()
			tt.enter(e)
			e.settle(t)
			if waits := e.drain() == ""; waits != tt.waits {
				t.Fatalf("it waits: %v", waits)
			}
			e.l.Barriers.Acted(e.wantTransfers(t, 1, 0)[0].Id, shard.ErrTimeout)
			e.collect(e.l)
			e.settle(t)
			if tt.waits {
				e.wantOut(t, "r: ")
			}
			if e.l.tab.count != 0 {
				t.Fatalf("%d items are left in the table", e.l.tab.count)
			}
		})
	}
}

// TestALockBehindABarrierConflicts: a transaction's first attempt waits for nobody, so it goes back and begins again.
func TestALockBehindABarrierConflicts(t *testing.T) {
	e := newLed(t)
	e.transfer("move", time.Time{})
	req := &pb.PrepareRequest{NoWait: true, Epoch: 1, Prepare: &pb.Prepare{
		Id: &pb.TxnID{AnchorRange: 9, Term: 6, Seq: 1}, AnchorKey: []byte("a"), Write: []*pb.Span{pb.FromSpan(shard.Point([]byte("k")))}}}
	e.l.Participants.Prepare(NewPrepareItem(req, func(_ *pb.WriteResponse, err error) { e.answered("lock", nil, err) }))
	e.collect(e.l)
	e.wantOut(t, "lock: error: "+replicatest.ErrName(shard.ErrConflict))
}

// TestWhatHasLeftTheSpanIsRefused: who waited behind a change of the span is looked at anew.
func TestWhatHasLeftTheSpanIsRefused(t *testing.T) {
	e := newLed(t)
	e.l.Barriers.raise(&barrier{act: func() {}, done: func(time.Duration, error) {}})
	e.write("stays", replicatest.Put("c", "1"), time.Time{})
	e.write("left", replicatest.Put("x", "1"), time.Time{})
	e.m.Desc.Span.End = []byte("m")
	e.l.Barriers.Acted(e.l.Barriers.cur.id, nil)
	e.collect(e.l)
	e.settle(t)
	e.wantOut(t, "left: error: r2: the request's range", "stays: rev 2")
}

// TestOneBarrierAtATime: a second one is refused, and one that begins when nothing serves yet.
func TestOneBarrierAtATime(t *testing.T) {
	e := newEnv(testLimits())
	e.transfer("early", time.Time{})
	e.wantOut(t, "early: error: "+replicatest.ErrName(shard.ErrUnavailable))
	e.own()
	e.transfer("first", time.Time{})
	e.transfer("second", time.Time{})
	e.wantOut(t, "second: error: "+shard.ErrTooManyRequests.Error())
	l := e.l
	e.depose()
	e.wantOut(t, "first: handed over")
	l.Barriers.Transfer(0, time.Time{}, func(_ time.Duration, err error) {
		if nl := (*shard.NotLeaderError)(nil); !errors.As(err, &nl) {
			t.Errorf("asked of an ended term: %v", err)
		}
	})
	e.lead(testLimits())
	e.own()
	e.write("slow", replicatest.Put("k", "1"), time.Time{})
	e.transfer("draining", time.Time{})
	e.depose()
	e.wantOut(t, "draining: error: not leader")
}

// runTransfers is TestRandomWorldDense with leaders that hand over, or try to.
func runTransfers(t *testing.T, seed uint64) {
	w := startWorld(t, seed)
	w.quiet = true
	grant := uint64(10)
	for range 2000 {
		switch {
		case w.rng.IntN(100) == 0:
			w.endOrGrant(&grant)
		case w.rng.IntN(40) == 0:
			w.transfer(w.envs[w.rng.IntN(len(w.envs))])
		case w.rng.IntN(12) == 0:
			w.issue(w.randomOp(), 0)
		case w.rng.IntN(30) == 0:
			w.tick(time.Duration(1+w.rng.IntN(50)) * time.Millisecond)
		default:
			w.step()
		}
	}
	w.settle()
	w.check()
	w.checkDense()
	for i, a := range w.answers {
		if errors.Is(a.err, shard.ErrAmbiguous) {
			t.Errorf("answer %d is in doubt: %v", i, a.err)
		}
	}
	if w.moved == 0 {
		t.Error("no leader has moved")
	}
}

// transfer begins one of a range, unless one is under way.
func (w *world) transfer(e *env) {
	if e.l.Barriers.cur != nil {
		return
	}
	e.l.Now = w.now
	e.l.Barriers.Transfer(0, w.now.Add(20*time.Second), func(time.Duration, error) {})
	w.collect(e, e.l)
}

// transferring carries out a transfer that a core has begun: mostly the other replica takes over with the whole log.
func (w *world) transferring(e *env, l *Leader, a Action) {
	if n := len(e.m.Prepared) + len(l.Batches.allocating) + len(l.Proposals.proposals); n != 0 || l.tab.first != l.Barriers.item {
		w.t.Fatalf("%v: handed over with %d locks, allocations and entries under way", e.m.Desc.ID, n)
	}
	if w.holdTransfers {
		w.heldTransfers = append(w.heldTransfers, a)
		return
	}
	w.later("transfer", func() {
		if l.deposed {
			return
		}
		if w.rng.IntN(3) == 0 {
			l.Barriers.Acted(a.Id, shard.ErrTimeout)
			w.collect(e, l)
			return
		}
		w.moved++
		w.deposeKeeping(e, len(e.log))
	})
}

// TestRandomWorldTransfers: leaders that hand over leave no gap, whatever collides, and nobody in doubt.
func TestRandomWorldTransfers(t *testing.T) {
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runTransfers(t, seed) })
	}
}

// TestMutant runs what should notice one mutant.
func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	if slices.Contains(mutate.CutNames(), *mutatetest.Mutant) {
		noticeCuts(t)
		return
	}
	if slices.Contains(mutate.ConditionNames(), *mutatetest.Mutant) {
		TestAnAllocationIsConditional(t)
		TestNoAskUnderNewerSettingsWhileOthersAreOut(t)
		return
	}
	hazard64(t)
	longDrain(t)
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		runTransfers(t, seed)
	}
}

// TestMutants: each rule of barriers, and of requests to a range that has been cut, is noticed when it is taken out.
func TestMutants(t *testing.T) {
	names := slices.Concat(mutate.LeaderNames(), mutate.CutNames(), mutate.ConditionNames())
	mutatetest.Each(t, names, time.Minute, func(out string) string { return fmt.Sprintf("noticed: %.200s", out) }, "-test.run=^TestMutant$")
}
