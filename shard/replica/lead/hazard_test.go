package lead

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

// Every hazard of the range's protocol is a test here, named after it, that fails when its rule is
// taken out.

func (e *env) drain() string {
	s := e.out.String()
	e.out.Reset()
	return s
}

func (e *env) wantOut(t *testing.T, parts ...string) {
	t.Helper()
	out := e.drain()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Fatalf("want %q in:\n%s", p, out)
		}
	}
}

func (e *env) wantNot(t *testing.T, part string) {
	t.Helper()
	if out := e.drain(); strings.Contains(out, part) {
		t.Fatalf("do not want %q in:\n%s", part, out)
	}
}

// fenceOn asks for a fence on a key and prints its answer under name.
func (e *env) fenceOn(name, key string, rev int64, epoch shard.Epoch) {
	e.fenceOf(name, &Fence{Rev: rev, Epoch: epoch, Acc: []eval.Access{{Key: []byte(key)}}})
}

// fenceBy fences a key at what the oracle says, until a deadline.
func (e *env) fenceBy(name, key string, deadline time.Time) {
	e.fenceOf(name, &Fence{Rev: e.rev, Epoch: e.epoch, Acc: []eval.Access{{Key: []byte(key)}}, Deadline: deadline})
}

func (e *env) fenceOf(name string, f *Fence) {
	f.Done = func(index uint64, err error) {
		if err != nil {
			e.printf("%s: error: %s", name, replicatest.ErrName(err))
			return
		}
		e.printf("%s: fenced at index %d", name, index)
	}
	e.l.Fences.Fence(f)
	e.l.Run()
	e.collect(e.l)
}

func newLed(t *testing.T) *env {
	t.Helper()
	e := newEnv(testLimits())
	e.own()
	e.drain()
	return e
}

// A revision belongs to the leader term that asked for it.
func TestHazard1RevisionOfAnotherTerm(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	old, asked := e.l, e.allocs[0]
	e.allocs = nil
	e.lead(testLimits())
	e.own()
	e.wantOut(t, "w: error: not leader")
	old.Batches.Allocated(asked.Id, 100, e.epoch, nil)
	e.collect(old)
	e.wantNot(t, "propose")

	// Forwarded by mistake, the entry is refused by every replica.
	e.write("x", replicatest.Put("k", "2"), time.Time{})
	e.alloc(0)
	if err := e.applyOne(e.term + 1); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "refused: "+apply.ErrWrongTerm.Error())
	if e.st.Dump() != "" {
		t.Fatalf("it had an effect: %s", e.st.Dump())
	}
}

// The proof of leadership is of a moment after the revision was handed out.
func TestHazard2And31ProofIsNotOlderThanTheFence(t *testing.T) {
	e := newLed(t)
	e.fenceOn("f1", "k", 10, 1)
	e.fenceOn("f2", "k", 20, 1)
	if len(e.confirms) != 2 {
		t.Fatalf("%d proofs under way: the second fence shares one that began before it", len(e.confirms))
	}
	e.drain()
	e.confirm(0, true)
	out := e.drain()
	if !strings.Contains(out, "f1: fenced") || strings.Contains(out, "f2: fenced") {
		t.Fatalf("after the first proof: %s", out)
	}
	e.confirm(0, false)
	e.wantOut(t, "f2: error")
}

// While a transaction is prepared, the feed and the final revision end at its effective floor.
func TestHazard3HoldBack(t *testing.T) {
	e := newLed(t)
	e.rev = 99
	e.write("w", replicatest.Put("a", "1"), time.Time{})
	e.settle(t)
	applied := func(ent *pb.Entry) []*shard.Event {
		t.Helper()
		ent.Term, ent.Epoch = e.term, 1
		e.index++
		d, err := e.m.Decide(apply.Entry{Index: e.index, Term: e.term, Data: apply.Marshal(ent)})
		if err != nil {
			t.Fatal(err)
		}
		evs, err := e.st.Apply(d.Change)
		if err != nil {
			t.Fatal(err)
		}
		e.m.Commit(d)
		return evs
	}
	var f apply.Feed
	take := func(evs []*shard.Event) (revs []int64) {
		out, _ := f.Add(evs, e.m.EffectiveFloor())
		for _, ev := range out {
			revs = append(revs, ev.KV.ModRevision)
		}
		return revs
	}
	id := &pb.TxnID{AnchorRange: 9, Term: 1, Seq: 1}
	write := []*pb.Span{pb.FromSpan(shard.Point([]byte("x")))}
	take(applied(&pb.Entry{Prepare: &pb.Prepare{Id: id, Write: write, Floor: 90}}))
	if got := e.m.EffectiveFloor(); got != 100 {
		t.Fatalf("effective floor %d: the floor of 90 does not cover what had been applied", got)
	}
	revs := take(applied(&pb.Entry{Closed: 105, Batch: &pb.Batch{FirstRevision: 105, Requests: []*pb.Op{replicatest.Put("k", "1")}}}))
	if len(revs) != 0 || e.m.Final() != 100 {
		t.Fatalf("the feed released %v, final %d", revs, e.m.Final())
	}
	// A write below the lock is refused, and one that only overlaps a read is not.
	applied(&pb.Entry{Batch: &pb.Batch{FirstRevision: 106, Requests: []*pb.Op{replicatest.Put("x", "1")}}})
	if _, ok, _ := e.st.Get([]byte("x"), math.MaxInt64); ok {
		t.Fatal("a write landed under the lock")
	}
	eff := &pb.Effects{ParticipantKey: []byte("x"), Ops: []*pb.Op{replicatest.Put("x", "2")}, FirstSub: []int64{0}}
	revs = take(applied(&pb.Entry{Resolve: &pb.Resolve{Id: id, Committed: true, Revision: 102, Effects: eff}}))
	if !slices.Equal(revs, []int64{102, 105}) {
		t.Fatalf("released %v", revs)
	}
	if e.m.Final() != 106 {
		t.Fatalf("final %d after the locks went", e.m.Final())
	}
}

// A put with a lease waits for a revoked lease's expiry and then begins again at meta.
func TestHazard5PutBehindExpiry(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.PutLease("k", "1", 7), time.Time{})
	e.settle(t)
	e.wantOut(t, "attachment lease 7 grant 0 attached false remove false", "attach? lease 7")
	e.l.Attachments.Attached(7, 3, nil)
	e.attaches = nil
	e.collect(e.l)
	e.wantOut(t, "attachment lease 7 grant 3 attached true", "allocate")
	e.settle(t)
	e.wantOut(t, "w1: rev 2 wrote true")

	e.write("expire", &pb.Op{ExpireLease: 7}, time.Time{})
	e.write("w2", replicatest.PutLease("k2", "1", 7), time.Time{}) // queues on the lease
	e.settle(t)
	e.wantOut(t, "expire: rev 3 wrote true deleted 1@3", "attach? lease 7")
	if len(e.m.Attachments) != 1 || e.m.Attachments[7].Attached {
		t.Fatalf("attachments %v: the put must begin again with a pending one", e.m.Attachments)
	}
	e.l.Attachments.Attached(7, 0, shard.ErrLeaseNotFound)
	e.collect(e.l)
	e.settle(t)
	e.wantOut(t, "w2: error: "+shard.ErrLeaseNotFound.Error())
	if len(e.m.Attachments) != 0 || e.st.Dump() != "" {
		t.Fatalf("attachments %v, content %s", e.m.Attachments, e.st.Dump())
	}
}

// A put that was admitted over an attachment is refused at apply when that has been removed.
func TestHazard5PutIsCheckedAtApply(t *testing.T) {
	e := newLed(t)
	ent := &pb.Entry{Term: e.term, Epoch: 1, Proposer: 2, Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{replicatest.PutLease("k", "1", 7)}}}
	if err := e.applyEntry(apply.Entry{Term: e.term, Data: apply.Marshal(ent)}); err != nil {
		t.Fatal(err)
	}
	if e.st.Dump() != "" {
		t.Fatalf("orphan: %s", e.st.Dump())
	}
}

// A request that failed its compare is evaluated again as a whole at its revision.
func TestHazard7aEvaluatedAgainAsAWhole(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.Put("k", "1"), time.Time{})
	e.settle(t)
	e.drain()
	e.write("cas", replicatest.Cas("k", "mine", 3), time.Time{}) // k is at 2: it writes nothing
	e.write("w2", replicatest.Put("k", "2"), time.Time{})        // 3
	e.alloc(0)
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "current?", "w2: rev 3")
	e.answerCurrent(0, 3)
	e.confirm(0, true)
	e.wantNot(t, "cas: ")
	e.runEval(0)
	e.settle(t)
	e.wantOut(t, "cas: rev 4 wrote true txn true {put@4 prev 2@3}")
}

// The losers of contended requests take no revision.
func TestHazard7bLosersTakeNoRevision(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "0"), time.Time{})
	e.settle(t)
	for _, name := range []string{"a", "b", "c"} {
		e.write(name, replicatest.Cas("k", name, 2), time.Time{})
	}
	e.settle(t)
	if e.rev != 3 {
		t.Fatalf("the oracle stands at %d after two effective writes", e.rev)
	}
	e.wantOut(t, "a: rev 3 wrote true txn true {put@3 prev 0@2}",
		"b: rev 3 wrote false txn false {range@3[k=a@3] count 1 more false}",
		"c: rev 3 wrote false txn false {range@3[k=a@3] count 1 more false}")
}

// A compare on a revision that nobody has yet waits until it is known.
func TestHazard7bUnknownRevisionIsWaitedFor(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "0"), time.Time{})      // will be 2
	e.write("cas", replicatest.Cas("k", "1", 2), time.Time{}) // guesses it
	e.write("late", replicatest.Put("k", "2"), time.Time{})
	e.settle(t)
	e.wantOut(t, "w: rev 2", "cas: rev 3 wrote true txn true", "late: rev 4")
}

// A higher epoch is logged before its fence is answered, and binds from then on.
func TestHazard9Epochs(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	e.settle(t)
	e.drain()
	e.write("stale", replicatest.Put("k", "2"), time.Time{})
	e.fenceOn("f", "k", 1500, 6)
	e.wantOut(t, "epoch 6 raise", "confirm?")
	e.confirm(0, true)
	e.wantNot(t, "f: ")
	// The stale oracle's answer is behind the raise in the log, or thrown away before.
	e.alloc(0)
	e.wantOut(t, "allocate")
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	// The request has been asked for anew: it gets more than 1500.
	e.wantOut(t, "f: fenced at index")
	e.fenceOn("low", "k", 1400, 1)
	e.wantOut(t, "low: error: "+shard.ErrStaleEpoch.Error())

	ent := &pb.Entry{Term: e.term, Epoch: 1, Proposer: 2, Batch: &pb.Batch{FirstRevision: 951, Requests: []*pb.Op{replicatest.Put("k", "3")}}}
	if err := e.applyEntry(apply.Entry{Term: e.term, Data: apply.Marshal(ent)}); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "refused: "+apply.ErrLowEpoch.Error())
	again, err := apply.LoadMachine(1, replicatest.TestDesc, e.st)
	if err != nil || again.Epoch != 6 {
		t.Fatalf("the next leader remembers epoch %d, %v", again.Epoch, err)
	}
	e.epoch, e.rev = 6, 1500
	e.settle(t)
	e.wantOut(t, "stale: rev 1501")
}

// Only the writes that were in the table, with their Allocate sent, hold a fence up.
func TestHazard18FenceIsNotStarved(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.Put("k", "1"), time.Time{}) // asked
	e.write("w2", replicatest.Put("k", "2"), time.Time{}) // gathers: its Allocate has not been sent
	e.fenceOn("f", "k", 50, 1)
	e.confirm(0, true)
	e.wantNot(t, "f: ")
	e.alloc(0)
	e.write("w3", replicatest.Put("k", "3"), time.Time{})
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "w1: rev 2", "f: fenced")
	// An answer above the fence's revision ends the wait at once.
	e.fenceOn("g", "k", 1, 1)
	e.confirm(0, true)
	e.wantNot(t, "g: ")
	e.alloc(0)
	e.wantOut(t, "g: fenced")
	// A fence on a key that nobody writes waits for nobody.
	e.fenceOn("h", "other", 1000, 1)
	e.confirm(0, true)
	e.wantOut(t, "h: fenced")
}

// A fence fails with the leadership under which it began.
func TestHazard24FenceEndsWithTheLeadership(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("c", "1"), time.Time{})
	e.alloc(0)
	e.fenceOn("f", "c", 3, 1)
	e.confirm(0, true)
	e.wantNot(t, "f: ")
	kept := e.log
	e.depose()
	e.wantOut(t, "f: error: not leader")
	// The proposal is in the log and may yet commit: its fate is not told before it shows.
	e.log = kept
	e.wantNot(t, "w: ")
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "w: rev 2 wrote true")
}

// What was proposed in an ended term and does not show before the next term's first entry was
// certainly not applied.
func TestOrphanIsRefusedByALaterTerm(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("c", "1"), time.Time{})
	e.alloc(0)
	e.log = nil
	e.lead(testLimits())
	e.wantNot(t, "w: ")
	e.own()
	e.wantOut(t, "w: error: not leader")
}

// A new leader evaluates nothing before it has applied an entry of its own term.
func TestHazard26OwnTermFirst(t *testing.T) {
	e := newEnv(testLimits())
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	e.fenceOn("f", "k", 1, 1)
	if out := e.drain(); out != "" {
		t.Fatalf("before its own term: %s", out)
	}
	e.own()
	e.wantOut(t, "allocate", "confirm?")
}

// Two allocations of one range whose answers come out of order are used in the order asked, and one
// whose revisions are below those proposed is thrown away.
func TestHazard27SwappedBatches(t *testing.T) {
	lim := testLimits()
	lim.Allocs, lim.Proposals = 2, 4
	e := newEnv(lim)
	e.own()
	e.write("a", replicatest.Put("k", "1"), time.Time{})
	e.write("b", replicatest.Put("k", "2"), time.Time{})
	a, b := e.allocs[0], e.allocs[1]
	e.allocs = nil
	e.drain()
	e.l.Batches.Allocated(b.Id, 3, 1, nil)
	e.collect(e.l)
	e.wantNot(t, "propose")
	e.l.Batches.Allocated(a.Id, 2, 1, nil)
	e.collect(e.l)
	e.wantOut(t, "batch first 2 closed 2: put k=1\npropose term 6 epoch 1 batch first 3")

	e.rev = 3
	e.write("c", replicatest.Put("k", "3"), time.Time{})
	e.write("d", replicatest.Put("k", "4"), time.Time{})
	c, d := e.allocs[0], e.allocs[1]
	e.allocs = nil
	e.l.Batches.Allocated(c.Id, 5, 1, nil)
	e.l.Batches.Allocated(d.Id, 4, 1, nil)
	e.rev = 5
	e.collect(e.l)
	e.settle(t)
	e.wantOut(t, "c: rev 5", "d: rev 6")
	if kv, _, _ := e.st.Get([]byte("k"), math.MaxInt64); string(kv.Value) != "4" {
		t.Fatalf("k=%s", kv.Value)
	}
}

// An Allocate that answers after step-down and re-election is thrown away, and so is every other
// late answer.
func TestHazard28LateAnswers(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	e.write("d", replicatest.Del("none", ""), time.Time{})
	e.fenceOn("f", "k", 1, 1)
	old, alloc, current, confirm := e.l, e.allocs[0], e.currents[0], e.confirms[0]
	e.allocs, e.currents, e.confirms = nil, nil, nil
	e.lead(testLimits())
	e.own()
	e.drain()
	old.Batches.Allocated(alloc.Id, 100, 1, nil)
	old.Evaluations.Current(current.Id, 100, 1, nil)
	old.Fences.Confirmed(confirm.Id, true, e.index)
	old.Attachments.Attached(7, 1, nil)
	e.collect(old)
	if out := e.drain(); out != "" {
		t.Fatalf("a dead core acted: %s", out)
	}
}

// A pending attachment permits nothing: the put goes to meta first.
func TestHazard32PendingAttachment(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.PutLease("k", "1", 7), time.Time{})
	if err := e.applyOne(0); err != nil {
		t.Fatal(err)
	}
	e.wantOut(t, "attach? lease 7")
	e.attaches = nil
	e.lead(testLimits()) // the leader dies before meta has answered
	e.own()
	if h, ok := e.m.Attachments[7]; !ok || h.Attached {
		t.Fatalf("attachment %v, %v", h, ok)
	}
	e.drain()
	e.write("w2", replicatest.PutLease("k", "1", 7), time.Time{})
	out := e.drain()
	if !strings.Contains(out, "attach? lease 7") || strings.Contains(out, "allocate") {
		t.Fatalf("the put skipped meta: %s", out)
	}
	e.l.Attachments.Attached(7, 9, nil)
	e.collect(e.l)
	e.settle(t)
	e.wantOut(t, "w2: rev 2 wrote true")
	e.write("w3", replicatest.PutLease("k3", "1", 7), time.Time{})
	e.settle(t)
	e.wantOut(t, "w3: rev 3 wrote true")
	if h := e.m.Attachments[7]; !h.Attached || h.Grant != 9 {
		t.Fatalf("attachment %+v", h)
	}
}

// An expiry queues on the keys of the lease like everybody else, and takes no revision when nothing
// is left of them.
func TestHazard34ExpiryQueuesOnKeys(t *testing.T) {
	e := newLed(t)
	e.write("w1", replicatest.PutLease("k", "1", 7), time.Time{})
	e.settle(t)
	e.l.Attachments.Attached(7, 3, nil)
	e.collect(e.l)
	e.settle(t)
	e.drain()
	e.write("w2", replicatest.Put("k", "2"), time.Time{}) // no lease any more
	e.write("expire", &pb.Op{ExpireLease: 7}, time.Time{})
	e.write("w3", replicatest.Put("k", "3"), time.Time{})
	e.settle(t)
	e.wantOut(t, "w2: rev 3", "wrote false deleted 0", "w3: rev 4")
	if e.rev != 4 || len(e.m.Attachments) != 0 {
		t.Fatalf("rev %d, attachments %v", e.rev, e.m.Attachments)
	}
}

func TestDeadlines(t *testing.T) {
	e := newLed(t)
	start := time.Unix(1000, 0)
	late := start.Add(time.Second)
	e.write("proposed", replicatest.Put("a", "1"), late)
	e.alloc(0)
	e.write("asked", replicatest.Put("b", "1"), late)
	e.write("gathers", replicatest.Put("c", "1"), late)
	e.write("patient", replicatest.Put("d", "1"), start.Add(time.Hour))
	e.write("nothing", replicatest.Del("none", ""), late)
	e.drain()
	e.l.Tick(start)
	e.collect(e.l)
	e.wantNot(t, "error")
	e.l.Tick(late)
	e.collect(e.l)
	e.wantOut(t, "proposed: error: "+shard.ErrAmbiguousTimeout.Error(), "asked: error: "+shard.ErrTimeout.Error(),
		"gathers: error: "+shard.ErrTimeout.Error(), "nothing: error: "+shard.ErrTimeout.Error())
	e.settle(t)
	e.wantOut(t, "patient: rev 4") // 3 was asked for in vain
	if kv, ok, _ := e.st.Get([]byte("a"), math.MaxInt64); !ok || kv.ModRevision != 2 {
		t.Fatal("what was proposed is applied all the same")
	}
	if _, ok, _ := e.st.Get([]byte("b"), math.MaxInt64); ok {
		t.Fatal("a request that timed out was applied")
	}
	if e.l.Waiting() {
		t.Fatal("something is left")
	}
}

func TestTableBounds(t *testing.T) {
	lim := testLimits()
	lim.TableCount = 2
	e := newEnv(lim)
	e.own()
	for _, n := range []string{"a", "b", "c"} {
		e.write(n, replicatest.Put(n, "1"), time.Time{})
	}
	e.wantOut(t, "c: error: "+shard.ErrTooManyRequests.Error())
	e.settle(t)
	e.write("d", replicatest.Put("d", "1"), time.Time{})
	e.settle(t)
	e.wantOut(t, "d: rev 4")
}

func TestCompactTo(t *testing.T) {
	e := newLed(t)
	e.write("w", replicatest.Put("k", "1"), time.Time{})
	e.settle(t)
	e.write("w2", replicatest.Put("k", "2"), time.Time{}) // asked: may get 3
	e.l.Proposals.CompactTo(3, nil, time.Time{}, func(err error) { e.printf("compacted: %v", err) })
	e.collect(e.l)
	e.answerCurrent(0, 3)
	e.confirm(0, true)
	e.wantNot(t, "compact 3") // not before what may get 3 is known
	e.settle(t)
	e.wantOut(t, "compact 3", "compacted: <nil>")
	if e.st.Compact != 3 {
		t.Fatalf("compacted at %d", e.st.Compact)
	}
	e.write("old", replicatest.Txn(nil, []*pb.Op{{Range: &pb.RangeOp{Key: []byte("k"), Revision: 2}}, replicatest.Put("k", "3")}, nil), time.Time{})
	e.settle(t)
	e.wantOut(t, "old: error: required revision has been compacted")
	if e.rev != 3 {
		t.Fatalf("a failed request took a revision: %d", e.rev)
	}
	e.l.Proposals.CompactTo(9, nil, time.Time{}, func(err error) { e.printf("compacted: %v", err) })
	e.collect(e.l)
	e.settle(t)
	e.wantOut(t, "compacted: "+shard.ErrFutureRevision.Error())
}

// TestACompactionIsOneEntry: whoever has every range compacted, and whoever waits for that, ask for the same at
// once, and again when an answer is late.
func TestACompactionIsOneEntry(t *testing.T) {
	e := newLed(t)
	for range 4 {
		e.write("w", replicatest.Put("k", "1"), time.Time{})
		e.settle(t)
	}
	answers, entries := map[int64]int{}, func() int { return strings.Count(e.out.String(), "compact ") }
	before := entries()
	ask := func(rev int64) {
		e.l.Proposals.CompactTo(rev, nil, time.Time{}, func(err error) {
			if err != nil {
				t.Errorf("compacted at %d: %v", rev, err)
			}
			answers[rev]++
		})
		e.collect(e.l)
	}
	ask(4)
	ask(4)
	ask(3) // is done with 4
	e.answerCurrent(0, 5)
	ask(4)
	e.settle(t)
	ask(4) // has been applied
	e.settle(t)
	ask(5)
	e.settle(t)
	if answers[3] != 1 || answers[4] != 4 || answers[5] != 1 {
		t.Errorf("answers: %v", answers)
	}
	if n := entries() - before; n != 2 {
		t.Errorf("%d entries for two compactions", n)
	}
	if n := e.l.Proposals.compactionWaiters; n != 0 || len(e.l.Proposals.compacting) != 0 {
		t.Errorf("%d and %d are still counted", n, len(e.l.Proposals.compacting))
	}
}
