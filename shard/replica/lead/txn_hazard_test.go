package lead

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// drive does what may happen, except for the tasks whose name begins with one of hold, and except for
// the logs of the ranges in stuck, until nothing is left.
func (w *world) drive(hold []string, stuck ...*env) {
	w.quiet = true
	for range 100000 {
		if !w.driveOne(hold, stuck...) {
			return
		}
	}
	w.t.Fatalf("does not come to rest: %v", w)
}

// driveOne does the oldest thing that may happen, messages before logs; false: there is none.
func (w *world) driveOne(hold []string, stuck ...*env) bool {
	held := func(t worldTask) bool {
		return slices.ContainsFunc(hold, func(h string) bool { return strings.HasPrefix(t.name, h) })
	}
	if i := slices.IndexFunc(w.tasks, func(t worldTask) bool { return !held(t) }); i >= 0 {
		task := w.tasks[i]
		w.tasks = slices.Delete(w.tasks, i, i+1)
		task.run()
		return true
	}
	i := slices.IndexFunc(w.envs, func(e *env) bool { return len(e.log) > 0 && !slices.Contains(stuck, e) })
	if i >= 0 {
		w.apply(w.envs[i])
	}
	return i >= 0
}

// pass lets time go by, in ticks.
func (w *world) pass(d time.Duration, hold []string, stuck ...*env) {
	for ; d > 0; d -= 25 * time.Millisecond {
		w.tick(25 * time.Millisecond)
		w.drive(hold, stuck...)
	}
}

// answer is the i-th that a client got.
func (w *world) answer(i int) string {
	if i >= len(w.answers) {
		return "none"
	}
	a := w.answers[i]
	if a.err != nil {
		return "error: " + replicatest.ErrName(a.err)
	}
	return fmt.Sprintf("rev %d wrote %v %s", a.resp.Revision, a.resp.Wrote, replicatest.ResultString(a.resp.Result))
}

func (w *world) want(i int, answer string) {
	w.t.Helper()
	if got := w.answer(i); got != answer {
		w.t.Errorf("answer %d: %s, want %s", i, got, answer)
	}
}

func (w *world) noLocks() {
	w.t.Helper()
	for _, e := range w.envs {
		if n := len(e.m.Prepared); n != 0 {
			w.t.Errorf("%v: %d transactions hold locks", e.m.Desc.ID, n)
		}
	}
}

func putAll(keys string) *pb.Op {
	var ops []*pb.Op
	for _, k := range keys {
		ops = append(ops, replicatest.Put(string(k), "t"))
	}
	return replicatest.Txn(nil, ops, nil)
}

// TestHazard4ACoordinatorDiesWithItsTerm: its participants have let go, and what it still hears from
// them makes no commit any more.
func TestHazard4ACoordinatorDiesWithItsTerm(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	anchor, last := w.env([]byte("a")), w.env([]byte("c"))
	w.issue(putAll("abc"), 0)
	w.drive(nil, last) // a and b are locked, c is slow
	if len(anchor.m.Prepared) != 1 || len(last.log) != 1 {
		t.Fatalf("%d locked in the anchor, %d entries wait in the last", len(anchor.m.Prepared), len(last.log))
	}
	w.depose(anchor)
	w.drive(nil, last)
	w.want(0, "error: not leader")
	w.depose(anchor)
	w.drive(nil) // now c locks, and says so
	w.pass(3*time.Second, nil)
	w.noLocks()
	w.check()
	if len(w.applied) != 0 {
		t.Errorf("committed: %v", w.applied)
	}
}

// TestHazard4FirstInTheLogWins: Commit and Abort apply only while the anchor's Prepare stands.
func TestHazard4FirstInTheLogWins(t *testing.T) {
	id := &pb.TxnID{AnchorRange: 2, Term: 6, Seq: 1}
	prepare := &pb.Entry{Prepare: &pb.Prepare{Id: id, AnchorKey: []byte("a"), Write: []*pb.Span{pb.FromSpan(shard.Point([]byte("a")))}}}
	commit := &pb.Entry{Commit: &pb.Commit{Id: id, Revision: 9, Effects: []*pb.Effects{
		{ParticipantKey: []byte("a"), Ops: []*pb.Op{replicatest.Put("a", "1")}, FirstSub: []int64{0}}}}}
	abort := &pb.Entry{Abort: &pb.Abort{Id: id}}
	for _, first := range []*pb.Entry{commit, abort} {
		e := newEnv(testLimits())
		e.own()
		for _, ent := range []*pb.Entry{prepare, first, commit, abort} {
			ent.Term, ent.Epoch = e.term, 1
			if err := e.applyEntry2(apply.Marshal(ent)); err != nil {
				t.Fatal(err)
			}
		}
		_, found, _ := e.st.Get([]byte("a"), 100)
		if committed := first == commit; found != committed || (e.m.Records[apply.ToTxnID(id)] != nil) != committed {
			t.Errorf("first %s: the put is there: %v, records %d", entryString(first), found, len(e.m.Records))
		}
	}
}

// TestHazard16AStuckRangeHoldsNobodyForLong: a transaction that cannot lock everywhere lets go.
func TestHazard16AStuckRangeHoldsNobodyForLong(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	stuck := w.env([]byte("c"))
	w.issue(putAll("abc"), 5*time.Second)
	w.drive(nil, stuck)
	w.issue(replicatest.Put("a", "plain"), 0)
	w.drive(nil, stuck)
	w.want(0, "none")                                                                   // a is locked
	w.pass(w.lim.LockTimeout+500*time.Millisecond, []string{"prepare answered"}, stuck) // nor is it heard of
	if got := w.answer(0); !strings.HasPrefix(got, "rev 2 wrote true") {
		t.Errorf("the plain write: %s", got)
	}
	w.pass(6*time.Second, nil, stuck)
	w.want(1, "error: "+shard.ErrTimeout.Error())
	w.pass(3*time.Second, nil)
	w.noLocks()
	w.check()
}

// TestHazard19ALargeDeleteIsASmallCommit: the decision names spans, however many keys they hold.
func TestHazard19ALargeDeleteIsASmallCommit(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	for i := range 500 {
		w.issue(replicatest.Put(fmt.Sprintf("%c%04d", 'a'+i%4, i), strings.Repeat("v", 100)), 0)
		w.drive(nil)
	}
	w.issue(replicatest.Del("a", "z"), 0)
	w.drive(nil, w.env([]byte("a"))) // the anchor's Prepare waits in its log
	w.apply(w.env([]byte("a")))
	w.drive(nil, w.env([]byte("a")))
	e := w.env([]byte("a"))
	if len(e.log) != 1 || len(e.log[0].data) > 300 {
		t.Fatalf("%d entries, the first of %d bytes", len(e.log), len(e.log[0].data))
	}
	w.drive(nil)
	w.want(500, "rev 502 wrote true deleted 500@502")
	w.check()
}

// TestHazard23ResolveDoesNotOvertake: an outcome waits for the plain writes whose revisions are on
// their way.
func TestHazard23ResolveDoesNotOvertake(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	id := &pb.TxnID{AnchorRange: 9, Term: 1, Seq: 1}
	it := NewPrepareItem(&pb.PrepareRequest{Epoch: 1, Prepare: &pb.Prepare{Id: id, AnchorKey: []byte("z9"), Floor: 1,
		Write: []*pb.Span{pb.FromSpan(shard.Point([]byte("d")))}}}, func(*pb.WriteResponse, error) {})
	e.l.Participants.Prepare(it)
	e.collect(e.l)
	e.settle(t)
	e.write("c", replicatest.Put("c", "plain"), time.Time{}) // gets 2, late
	a := e.allocs[0]
	e.allocs = nil
	e.l.Participants.Resolve(&pb.Resolve{Id: id, Committed: true, Revision: 3, Effects: &pb.Effects{
		ParticipantKey: []byte("d"), Ops: []*pb.Op{replicatest.Put("d", "t")}, FirstSub: []int64{0}}}, 1, func(error) {})
	e.collect(e.l)
	if len(e.log) != 0 {
		t.Fatal("the outcome at 3 was proposed while 2 was on its way")
	}
	e.l.Batches.Allocated(a.Id, 2, 1, nil)
	e.collect(e.l)
	e.settle(t)
	if got := fmt.Sprint(e.events); got != "[c@2 d@3]" {
		t.Errorf("events %s", got)
	}
}

// TestHazard25NothingWrittenIsLoggedToo: a transaction that writes nothing is answered only once that
// is decided in the anchor's log; a coordinator that has lost its term answers nothing.
func TestHazard25NothingWrittenIsLoggedToo(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	anchor := w.env([]byte("a"))
	op := replicatest.Txn(replicatest.IfVersion("a", 7), []*pb.Op{replicatest.Put("b", "x")}, []*pb.Op{replicatest.Get("b")})
	w.issue(op, 0)
	w.drive([]string{"current", "plan"}) // nothing yet: the floor is not known
	w.drive([]string{"plan"})
	if len(anchor.m.Prepared) != 1 {
		t.Fatal("not locked")
	}
	w.drive([]string{"current"})
	w.drive(nil, anchor) // evaluated at its revision; the decision waits in the log
	w.want(0, "none")
	anchor.log = nil // and is lost
	w.depose(anchor)
	w.drive(nil)
	w.want(0, "error: not leader")
	w.pass(3*time.Second, nil)
	w.noLocks()
	w.check()
}

// TestHazard29ACommitLiesAboveItsFloors: a revision that does not is not used.
func TestHazard29ACommitLiesAboveItsFloors(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	for range 5 {
		w.issue(replicatest.Put("b", "older"), 0)
		w.drive(nil)
	}
	w.issue(putAll("ab"), 0)
	w.drive([]string{"allocate"})
	w.rev = 2 // an oracle that is wrong about leading hands out what has been used
	w.drive(nil)
	if got := w.answer(5); !strings.HasPrefix(got, "rev 7 ") {
		t.Errorf("committed: %s", got)
	}
	w.noLocks()
}

// TestHazard30QueuedPreparesDieWithTheirCoordinators: they do not take the lock one after another.
func TestHazard30QueuedPreparesDieWithTheirCoordinators(t *testing.T) {
	w := newWorld(t, 1, "b", "c", "d")
	e := w.env([]byte("b"))
	prepare := func(seq uint64, deadline time.Duration) *Item {
		it := NewPrepareItem(&pb.PrepareRequest{Epoch: 1, Prepare: &pb.Prepare{
			Id: &pb.TxnID{AnchorRange: 2, Term: 3, Seq: seq}, AnchorKey: []byte("a"), Floor: 1,
			Write: []*pb.Span{pb.FromSpan(shard.Point([]byte("b")))}}}, func(*pb.WriteResponse, error) {})
		it.Deadline = w.now.Add(deadline)
		e.l.Participants.Prepare(it)
		w.collect(e, e.l)
		return it
	}
	prepare(1, time.Second) // its coordinator is dead: the anchor knows nothing of it
	w.drive(nil)
	for seq := uint64(2); seq < 10; seq++ {
		prepare(seq, time.Second)
	}
	w.issue(replicatest.Put("b", "plain"), 0)
	w.drive(nil)
	w.want(0, "none")
	w.pass(w.lim.LockTimeout+300*time.Millisecond, nil)
	if got := w.answer(0); !strings.HasPrefix(got, "rev 2 ") {
		t.Errorf("behind the queue of the dead: %s", got)
	}
	w.noLocks()
}

// TestHazard30AResolveEndsAQueuedPrepare: its coordinator gives up before it has locked.
func TestHazard30AResolveEndsAQueuedPrepare(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	id := func(seq uint64) *pb.TxnID { return &pb.TxnID{AnchorRange: 9, Term: 1, Seq: seq} }
	var got error
	for seq := uint64(1); seq <= 2; seq++ {
		it := NewPrepareItem(&pb.PrepareRequest{Epoch: 1, Prepare: &pb.Prepare{Id: id(seq), AnchorKey: []byte("z"),
			Write: []*pb.Span{pb.FromSpan(shard.Point([]byte("b")))}}}, func(_ *pb.WriteResponse, err error) { got = err })
		e.l.Participants.Prepare(it)
		e.collect(e.l)
		e.settle(t)
	}
	e.l.Participants.Resolve(&pb.Resolve{Id: id(2)}, 1, func(error) {})
	e.collect(e.l)
	if !errors.Is(got, shard.ErrConflict) || len(e.l.Participants.preparing) != 0 {
		t.Errorf("the queued prepare: %v, %d left", got, len(e.l.Participants.preparing))
	}
}

// TestHazard37ACommitWithoutEffectsIsNotRefused: it stands at a revision that others have passed.
func TestHazard37ACommitWithoutEffectsIsNotRefused(t *testing.T) {
	w := newWorld(t, 1, "c")
	anchor := w.env([]byte("a"))
	w.issue(replicatest.Txn(replicatest.IfVersion("a", 7), []*pb.Op{replicatest.Put("c", "x")}, []*pb.Op{replicatest.Get("c")}), 0)
	w.drive(nil, anchor)
	w.apply(anchor) // Prepare
	w.drive(nil, anchor)
	if len(anchor.log) != 1 {
		t.Fatalf("%d entries, want the decision", len(anchor.log))
	}
	decision := anchor.log
	anchor.log = nil
	w.issue(replicatest.Put("b", "on"), 0) // another key of the same range goes past its revision
	w.drive(nil)
	anchor.log = decision
	w.drive(nil)
	w.want(1, "rev 1 wrote false txn false {range@1[] count 0 more false}")
	w.noLocks()
	w.check()
}

// TestAnInquiryProvesTheLead: a leader that knows nothing of a transaction says so only once it has
// proved that it leads: another one may hold its record.
func TestAnInquiryProvesTheLead(t *testing.T) {
	e := newEnv(testLimits())
	e.own()
	answers := []string{}
	ask := func() {
		e.l.Participants.Inquire(apply.TxnID{Anchor: 2, Term: 99, Seq: 1}, []byte("a"), shard.All, time.Time{}, func(r *pb.InquireResponse, err error) {
			answers = append(answers, fmt.Sprintf("%v %v", r, err))
		})
		e.collect(e.l)
	}
	ask()
	if len(answers) != 0 {
		t.Fatalf("answered without a proof: %v", answers)
	}
	e.confirm(0, false)
	ask()
	e.confirm(0, true)
	if len(answers) != 2 || !strings.Contains(answers[0], "unavailable") || !strings.Contains(answers[1], "epoch:1") {
		t.Errorf("answers %v", answers)
	}
}

// killed are the transactions that TestKilledBetweenAnyTwoSteps kills.
var killed = map[string]func(w *world){
	"puts":   func(w *world) { w.issue(putAll("abc"), 0) },
	"delete": func(w *world) { w.issue(replicatest.Del("a", "z"), 0) },
	"compare": func(w *world) {
		w.issue(replicatest.Txn(replicatest.IfVersion("a", 1), []*pb.Op{replicatest.Put("b", "x")}, []*pb.Op{replicatest.Get("c")}), 0)
	},
	"nothing": func(w *world) {
		w.issue(replicatest.Txn(replicatest.IfVersion("a", 7), []*pb.Op{replicatest.Put("b", "x")}, []*pb.Op{replicatest.Get("c")}), 0)
	},
	"lease": func(w *world) {
		w.issue(replicatest.Txn(nil, []*pb.Op{replicatest.PutLease("b", "x", 1), replicatest.PutLease("c", "x", 1)}, nil), 0)
	},
	"expiry": func(w *world) { w.expire(2) },
}

// TestKilledBetweenAnyTwoSteps ends the leadership of each range, and of each two that one node may
// lead, after each step of a transaction, with what was proposed lost or kept. Whatever it was: all or nothing, no outcome that was told changes,
// and no lock is left a second after the lock's patience.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	for name, begin := range killed {
		t.Run(name, func(t *testing.T) {
			for steps := 0; ; steps++ {
				finished := false
				for a := range 4 {
					for b := a; b < 4; b++ {
						finished = killAfter(t, begin, steps, []int{a, b}, false) && killAfter(t, begin, steps, []int{a, b}, true)
					}
				}
				if finished {
					t.Logf("%d steps", steps)
					return
				}
			}
		})
	}
}

func killAfter(t *testing.T, begin func(*world), steps int, victims []int, keep bool) (finished bool) {
	w := newWorld(t, 1, "b", "c", "d")
	w.leases[1], w.leases[2] = &worldLease{grant: 1}, &worldLease{grant: 2}
	w.issue(replicatest.Put("a", "0"), 0)
	w.issue(replicatest.Put("c", "0"), 0)
	w.issue(replicatest.Txn(nil, []*pb.Op{replicatest.PutLease("b", "0", 2), replicatest.PutLease("d", "0", 2)}, nil), 0)
	w.drive(nil)
	w.quiet = true
	begin(w)
	for range steps {
		if !w.driveOne(nil) {
			finished = true
			break
		}
	}
	for _, v := range slices.Compact(victims) {
		e := w.envs[v]
		n := 0
		if keep {
			n = len(e.log)
		}
		w.deposeKeeping(e, n)
	}
	w.pass(w.lim.LockTimeout+time.Second, nil)
	w.noLocks()
	w.settle()
	w.check()
	if t.Failed() {
		t.Fatalf("after %d steps, ranges %v, what was proposed was kept: %v", steps, victims, keep)
	}
	return finished
}

// passSlowly lets time go by while every entry takes so long from its proposal until it has applied.
func (w *world) passSlowly(d, log time.Duration) {
	proposed := map[*env][]time.Time{}
	for ; d > 0; d -= 25 * time.Millisecond {
		w.tick(25 * time.Millisecond)
		w.drive(nil, w.envs...)
		for _, e := range w.envs {
			for len(proposed[e]) < len(e.log) {
				proposed[e] = append(proposed[e], w.now)
			}
			for len(proposed[e]) > 0 && w.now.Sub(proposed[e][0]) >= log {
				proposed[e] = proposed[e][1:]
				w.apply(e)
			}
		}
	}
}

// TestSlowLogsLetTransactionsPass: where a plain write takes as long as an attempt may hold its locks otherwise, one over several
// ranges takes a few times as long, and commits. Locks in turn take the sum.
func TestSlowLogsLetTransactionsPass(t *testing.T) {
	for _, log := range []time.Duration{600 * time.Millisecond, 1500 * time.Millisecond} {
		w := newWorld(t, 1, "b", "c", "d")
		w.issue(putAll("acd"), 7*time.Second)
		w.issue(replicatest.Put("b", "plain"), 7*time.Second)
		w.passSlowly(6*time.Second, log)
		for i := range 2 {
			if got := w.answer(i); !strings.Contains(got, "wrote true") {
				t.Errorf("entries take %v: answer %d: %s", log, i, got)
			}
		}
		if n := w.env([]byte("a")).l.Coordinations.Stats.Retried.Load(); n != 0 {
			t.Errorf("entries take %v: %d attempts were undone", log, n)
		}
		w.pass(3*time.Second, nil)
		w.noLocks()
		w.check()
	}
}
