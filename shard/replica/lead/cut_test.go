package lead

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// split has a range cut at a key, unless it is being changed or does not hold keys on both sides.
func (w *world) split(e *env, at string) {
	d := e.m.Desc
	s := &pb.Split{At: []byte(at), Child: uint64(w.nextRange), Generation: uint64(d.Generation), Op: uint64(w.nextRange), Replicas: pb.FromReplicas(d.Replicas)}
	if e.l.Barriers.cur != nil || e.l.CheckSplit(s) != nil {
		return
	}
	w.nextRange++
	e.l.Now = w.now
	e.l.Barriers.Change(&pb.Entry{Split: s}, w.now.Add(20*time.Second), func(time.Duration, error) {})
	w.collect(e, e.l)
}

// cut opens the range that an entry makes out of another.
func (w *world) cut(e *env, c *apply.Cut) *env {
	at := c.Right.Span.Start
	st := e.st.Cut(at)
	st.Pos = mvcc.Position{Index: 10, Term: 5}
	for _, u := range c.State {
		st.States[u.Key] = u.Value
	}
	child := newEnvOn(w.lim, c.Right, st)
	m, err := w.m.Apply(c.Left, c.Right)
	if err != nil {
		w.t.Fatal(err)
	}
	w.m, w.maps = m, append(w.maps, m)
	w.addEnv(child)
	return child
}

// cutNow cuts a range at rest.
func (w *world) cutNow(at string) (left, right *env) {
	left = w.env([]byte(at))
	w.split(left, at)
	w.drive(nil)
	right = w.env([]byte(at))
	if left == right {
		w.t.Fatalf("%v is not cut at %q", left.m.Desc.ID, at)
	}
	return left, right
}

// TestHazard39AnExpiryBehindASplit: it was let in by the range that held all keys, and is carried out by one that does not.
func TestHazard39AnExpiryBehindASplit(t *testing.T) { hazard39(t) }

func hazard39(t *testing.T) {
	w := newWorld(t, 1)
	w.leases[1] = &worldLease{grant: 1}
	w.issue(replicatest.PutLease("b", "1", 1), 0)
	w.issue(replicatest.PutLease("x", "1", 1), 0)
	w.drive(nil)
	w.split(w.env([]byte("b")), "m")
	w.expire(1)
	w.drive(nil)
	w.pass(time.Second, nil)
	w.settle()
	w.check()
	if got := w.env([]byte("x")).st.Dump(); got != "" || w.leases[1] != nil {
		t.Errorf("after the lease: %s", got)
	}
	w.checkRevisions(4) // two puts and an expiry: the refusal took none
}

// checkRevisions: the oracle has handed out so many, 1 included.
func (w *world) checkRevisions(want int64) {
	w.t.Helper()
	if w.rev != want {
		w.t.Errorf("the oracle stands at %d, want %d", w.rev, want)
	}
}

// TestHazard39AParticipantThatHoldsLess refuses at apply too, whoever has let it in.
func TestHazard39AParticipantThatHoldsLess(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	e.m.Desc.Span.End = []byte("m")
	op := &pb.Op{ExpireLease: 7, ExpireSpan: pb.FromSpan(shard.All)}
	prepare := &pb.Prepare{Id: &pb.TxnID{AnchorRange: 9, Term: 1, Seq: 1}, Lease: 7, ExpireSpan: pb.FromSpan(shard.Span{Start: []byte("a"), End: []byte("n")})}
	d := e.decide(t, &pb.Entry{Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{op}}})
	if len(d.Errs) != 1 || !errors.Is(d.Errs[0], apply.ErrOutsideSpan) {
		t.Errorf("an expiry of all: %v", d.Errs)
	}
	if d := e.decide(t, &pb.Entry{Prepare: prepare}); !errors.Is(d.Refused, apply.ErrOutsideSpan) || d.Prepare != nil {
		t.Errorf("a participant of [a, n): %v", d.Refused)
	}
	prepare.ExpireSpan.End = []byte("m")
	if d := e.decide(t, &pb.Entry{Prepare: prepare}); d.Refused != nil {
		t.Errorf("a participant of [a, m): %v", d.Refused)
	}
}

// decide decides an entry of the present term, and does not commit it.
func (e *env) decide(t *testing.T, ent *pb.Entry) *apply.Decision {
	t.Helper()
	ent.Term, ent.Epoch, ent.Proposer = e.term, 1, uint64(e.m.Self)
	d, err := e.m.Decide(apply.Entry{Index: e.index + 1, Term: e.term, Data: apply.Marshal(ent)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestHazard40ACompactionOfMoreThanIsHeld: it is refused, so that whoever has the key space compacted asks for the rest elsewhere.
func TestHazard40ACompactionOfMoreThanIsHeld(t *testing.T) { hazard40(t) }

func hazard40(t *testing.T) {
	w := newWorld(t, 1)
	e := w.env(nil)
	for range 3 {
		w.issue(replicatest.Put("x", "1"), 0)
		w.drive(nil)
	}
	var answers []error
	ask := func(span shard.Span) {
		e.l.Proposals.CompactTo(3, pb.FromSpan(span), w.now.Add(time.Hour), func(err error) { answers = append(answers, err) })
		w.collect(e, e.l)
	}
	ask(shard.All)
	w.split(e, "m")
	w.drive([]string{"current"}) // it is cut before the compaction knows what is final
	w.drive(nil)
	ask(shard.All)
	w.drive(nil)
	held := w.m.Lookup(nil).Span
	ask(held)
	w.drive(nil)
	var wrong *shard.WrongRangeError
	if len(answers) != 3 || !errors.As(answers[0], &wrong) || !errors.As(answers[1], &wrong) || answers[2] != nil {
		t.Errorf("asked for all while it was cut, for all, for what is held: %v", answers)
	}
	if d := e.decide(t, &pb.Entry{CompactTo: &pb.CompactTo{Revision: 4, Span: pb.FromSpan(shard.All)}}); !errors.Is(d.Refused, apply.ErrOutsideSpan) {
		t.Errorf("an entry for all: %v", d.Refused)
	}
	if d := e.decide(t, &pb.Entry{CompactTo: &pb.CompactTo{Revision: 4, Span: pb.FromSpan(held)}}); d.Refused != nil {
		t.Errorf("an entry for what is held: %v", d.Refused)
	}
}

// TestACompactionIsDueUntilItIsLogged: what the oracle names is logged once, without being asked for.
func TestACompactionIsDueUntilItIsLogged(t *testing.T) {
	e := newEnv(testLimits())
	if e.l.Proposals.CompactionDue(3) {
		t.Error("due before the own term has applied")
	}
	e.own()
	e.rev = 5
	due := func(rev int64, want bool) {
		t.Helper()
		if got := e.l.Proposals.CompactionDue(rev); got != want {
			t.Errorf("due at %d: %v", rev, got)
		}
	}
	due(3, true)
	e.l.Proposals.CompactTo(3, nil, time.Time{}, func(error) {})
	e.collect(e.l)
	due(3, false)
	due(4, true)
	e.answerCurrent(0, 5)
	e.confirm(0, true)
	due(3, false) // proposed
	e.settle(t)
	due(3, false)
	l := e.l
	e.depose()
	if l.Proposals.CompactionDue(4) {
		t.Error("due in a term that has ended")
	}
}

// TestHazard60AResolveAtTheWrongRange: an old map leads it to the range that held the participant's key before.
func TestHazard60AResolveAtTheWrongRange(t *testing.T) { hazard60(t) }

func hazard60(t *testing.T) {
	w := newWorld(t, 1, "c")
	old := w.m
	_, right := w.cutNow("m")
	w.byMap = map[string]*shard.Map{"resolve": old}
	w.issue(putAll("ax"), 0)
	w.drive(nil)
	w.want(0, "rev 2 wrote true txn true {put@2, put@2}")
	if n := len(w.env([]byte("a")).m.Records); n != 1 || len(right.m.Prepared) != 1 {
		t.Errorf("%d records, %d locks: the outcome has not reached who holds x", n, len(right.m.Prepared))
	}
	w.pass(w.lim.LockTimeout+time.Second, nil) // it asks
	w.noLocks()
	w.byMap = nil
	w.settle()
	w.check()
}

// committed commits a transaction that is anchored at f, in a range that is then cut in front of f, and whose participant at x has heard
// nothing.
func committed(t *testing.T) (w *world, old *shard.Map) {
	w = newWorld(t, 1, "n")
	old = w.m
	hold := []string{"resolve"}
	w.issue(putAll("fx"), 0)
	w.drive(hold)
	w.want(0, "rev 2 wrote true txn true {put@2, put@2}")
	w.tasks = nil // and never will
	w.split(w.env([]byte("a")), "c")
	w.drive(hold)
	return w, old
}

// TestHazard61AnInquiryAtTheWrongHalf: the record went with its key.
func TestHazard61AnInquiryAtTheWrongHalf(t *testing.T) { hazard61(t) }

func hazard61(t *testing.T) {
	w, old := committed(t)
	w.byMap = map[string]*shard.Map{"inquire": old}
	w.pass(w.lim.LockTimeout+time.Second, []string{"resolve"})
	if n := len(w.env([]byte("x")).m.Prepared); n != 1 {
		t.Errorf("%d locks: it has been told what the left part cannot know", n)
	}
	w.byMap = nil
	w.pass(time.Second, []string{"resolve"})
	w.noLocks()
	w.settle()
	w.check()
}

// TestHazard61TheProofIsOfTheKey: the key has gone while the leadership is being proved.
func TestHazard61TheProofIsOfTheKey(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	var got error
	e.l.Participants.Inquire(apply.TxnID{Anchor: 2, Term: 99, Seq: 1}, []byte("f"), shard.All, time.Time{}, func(_ *pb.InquireResponse, err error) { got = err })
	e.collect(e.l)
	e.m.Desc.Span.End = []byte("c")
	e.confirm(0, true)
	if wrong := (*shard.WrongRangeError)(nil); !errors.As(got, &wrong) {
		t.Errorf("answered %v", got)
	}
}

// TestHazard62TheRecordGoesWithItsKey: the right part answers, and brings the outcome to who has not heard of it.
func TestHazard62TheRecordGoesWithItsKey(t *testing.T) { hazard62(t) }

func hazard62(t *testing.T) {
	for _, hold := range []string{"inquire", "resolve"} {
		w, _ := committed(t)
		if n := len(w.env([]byte("f")).m.Records); n != 1 {
			t.Errorf("%d records in the part that holds the anchor key", n)
		}
		w.pass(w.lim.LockTimeout+2*time.Second, []string{hold})
		w.noLocks()
		w.settle()
		w.check()
	}
}

// TestHazard64ASplitWaitsForRevisions: a batch whose revisions are on their way is in the log before the cut, so none of them is lost;
// and so is the outcome of what is locked.
func TestHazard64ASplitWaitsForRevisions(t *testing.T) { hazard64(t) }

func hazard64(t *testing.T) {
	w := newWorld(t, 1, "n")
	e := w.env([]byte("a"))
	w.issue(replicatest.Put("d", "1"), 0)
	w.drive([]string{"allocated"})
	w.split(e, "c")
	w.drive([]string{"allocated"})
	if len(w.envs) != 2 {
		t.Error("cut while a revision was on its way")
	}
	w.drive(nil)
	w.want(0, "rev 2 wrote true put@2")
	w.issue(putAll("ax"), 0)
	w.drive([]string{"plan"}) // locked
	w.split(e, "b")
	w.drive([]string{"plan"})
	if len(w.envs) != 3 || len(e.m.Prepared) != 1 {
		t.Errorf("%d ranges, %d locks: cut over a lock", len(w.envs), len(e.m.Prepared))
	}
	w.drive(nil)
	w.want(1, "rev 3 wrote true txn true {put@3, put@3}")
	w.settle()
	w.check()
	w.checkDense()
	if len(w.envs) != 4 {
		t.Errorf("%d ranges", len(w.envs))
	}
}

// TestACoordinatorWhoseAnchorIsCut begins again: before it has locked anything it is refused, and who asks goes to the new range.
func TestACoordinatorWhoseAnchorIsCut(t *testing.T) {
	for _, hold := range []string{"locate", "current", "prepare"} {
		w := newWorld(t, 1, "n")
		w.issue(putAll("fx"), 0)
		w.drive([]string{hold})
		left, _ := w.cutHolding("c", hold)
		w.drive(nil)
		w.pass(time.Second, nil)
		w.want(0, "error: "+replicatest.ErrName(left.m.WrongRange()))
		w.noLocks()
		w.settle()
		w.check()
	}
}

func (w *world) cutHolding(at, hold string) (left, right *env) {
	left = w.env([]byte("a"))
	w.split(left, at)
	w.drive([]string{hold})
	return left, w.env([]byte(at))
}

// TestACoordinatorWhoseParticipantIsCut plans anew: its lock leaves the span of the range that held all of it.
func TestACoordinatorWhoseParticipantIsCut(t *testing.T) {
	w := newWorld(t, 1, "c")
	old := w.m
	w.byMap = map[string]*shard.Map{"locate": old}
	w.cutNow("m")
	w.issue(putAll("adx"), 0) // d and x were of one range
	w.drive(nil)
	w.want(0, "none")
	w.pass(200*time.Millisecond, nil)
	w.want(0, "none") // and nothing else is locked for long
	w.byMap = nil
	w.pass(time.Second, nil)
	w.want(0, "rev 2 wrote true txn true {put@2, put@2, put@2}")
	w.noLocks()
	w.settle()
	w.check()
	w.checkRevisions(2)
}

// runCuts drives ranges that are cut, by messages that follow any map that there was.
func runCuts(t *testing.T, seed uint64, faults bool) {
	w := newWorld(t, seed, [][]string{nil, {"c"}, {"b"}, {"d"}}[seed%4]...)
	w.lim.BatchCount, w.lim.Retries = 1+w.rng.IntN(5), 64
	for id := int64(1); id <= 2; id++ {
		w.leases[id] = &worldLease{grant: uint64(id)}
	}
	w.quiet, w.staleMaps = !faults, true
	grant := uint64(10)
	for range 2500 {
		switch {
		case w.rng.IntN(100) == 0:
			w.endOrGrant(&grant)
		case w.rng.IntN(150) == 0:
			at := randomKey(w.rng)
			w.split(w.env([]byte(at)), at)
		case faults && w.rng.IntN(100) == 0:
			w.fault(&grant)
		case w.rng.IntN(12) == 0:
			w.issue(w.randomOp(), 0)
		case w.rng.IntN(20) == 0:
			w.read("a", "z")
		case w.rng.IntN(30) == 0:
			w.tick(time.Duration(1+w.rng.IntN(80)) * time.Millisecond)
		default:
			w.step()
		}
	}
	w.settle()
	w.check()
	if faults {
		return
	}
	w.checkDense()
	if len(w.maps) == 1 {
		t.Error("nothing was cut")
	}
}

// TestRandomWorldCuts: splits leave no gap and nobody in doubt, whatever collides with them and by whichever map it comes.
func TestRandomWorldCuts(t *testing.T) {
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runCuts(t, seed, false) })
	}
}

// TestRandomWorldCutsFaults: the same while leaders fall and messages are lost.
func TestRandomWorldCutsFaults(t *testing.T) {
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runCuts(t, seed, true) })
	}
}

// noticeCuts runs what should notice a mutant of mutate.CutNames.
func noticeCuts(t *testing.T) {
	for _, scenario := range []func(*testing.T){hazard12, hazard39, hazard40, hazard60, hazard61, hazard62} {
		scenario(t)
	}
	for seed := uint64(1); seed <= *worldSeeds && !t.Failed(); seed++ {
		runCuts(t, seed, seed%2 == 0)
	}
}
