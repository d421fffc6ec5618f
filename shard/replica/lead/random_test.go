package lead

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

// TestRandomDense drives the core with random requests and a random order of what may happen, with no
// failure, and checks what a client may rely on: every effective write has the previous revision
// plus one, what writes nothing takes none, and every answer is the one that a sequential model
// gives at its revision.
func TestRandomDense(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runDense(t, seed) })
	}
}

type denseAnswer struct {
	op   *pb.Op
	resp *pb.WriteResponse
}

func runDense(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	lim := testLimits()
	lim.Proposals = 1 + rng.IntN(4)
	lim.BatchCount = 1 + rng.IntN(5)
	e := newEnv(lim)
	e.own()
	e.someAsync(rng)
	var answers []denseAnswer
	n := 60
	issued := 0
	issue := func() {
		op := randomOp(rng, e.rev, 2)
		issued++
		it := newItem(op, func(resp *pb.WriteResponse, err error) {
			if err != nil {
				if apply.RequestError(err) {
					resp = &pb.WriteResponse{} // checked below only for taking no revision
				} else {
					t.Fatalf("seed %d: %v: %v", seed, op, err)
				}
			}
			answers = append(answers, denseAnswer{op, resp})
		})
		e.l.Request(it)
		e.collect(e.l)
	}
	for issued < n || len(answers) < n {
		var can []func()
		if issued < n {
			can = append(can, issue, issue)
		}
		if len(e.allocs) > 0 {
			can = append(can, func() { e.alloc(0) })
		}
		if len(e.log) > 0 {
			can = append(can, func() {
				if err := e.applyOne(0); err != nil {
					t.Fatal(err)
				}
			})
		}
		if len(e.currents) > 0 {
			can = append(can, func() { e.answerCurrent(rng.IntN(len(e.currents)), e.rev) })
		}
		if len(e.confirms) > 0 {
			can = append(can, func() { e.confirm(rng.IntN(len(e.confirms)), true) })
		}
		if len(e.preds) > 0 {
			can = append(can, func() { e.predict(rng.IntN(len(e.preds))) })
		}
		if len(e.evals) > 0 {
			can = append(can, func() { e.runEval(rng.IntN(len(e.evals))) })
		}
		if len(can) == 0 {
			t.Fatalf("seed %d: stuck with %d of %d answers", seed, len(answers), n)
		}
		can[rng.IntN(len(can))]()
	}
	checkDense(t, e, answers)
	if e.l.tab.count != 0 || len(e.l.tab.points) != 0 || len(e.l.tab.spanItems) != 0 || len(e.l.Fences.fences) != 0 {
		t.Fatalf("left in the table: %d items, %d keys, %d wide, %d fences", e.l.tab.count, len(e.l.tab.points), len(e.l.tab.spanItems), len(e.l.Fences.fences))
	}
}

func checkDense(t *testing.T, e *env, answers []denseAnswer) {
	t.Helper()
	byRev := map[int64]denseAnswer{}
	for _, a := range answers {
		if !a.resp.Wrote {
			continue
		}
		if _, dup := byRev[a.resp.Revision]; dup {
			t.Fatalf("revision %d twice", a.resp.Revision)
		}
		byRev[a.resp.Revision] = a
	}
	if e.rev != int64(len(byRev))+1 {
		t.Fatalf("%d effective writes, but the oracle stands at %d", len(byRev), e.rev)
	}
	model := replicatest.NewMemStore()
	for rev := int64(2); rev <= e.rev; rev++ {
		a, ok := byRev[rev]
		if !ok {
			t.Fatalf("gap at %d", rev)
		}
		s := &eval.Mutations{Overlay: eval.Overlay{Base: model, At: math.MaxInt64}, Rev: rev}
		ev := eval.Evaluator{View: s, Sink: s, Current: rev - 1, PriorRev: rev - 1, Rev: rev, Results: true}
		res, err := ev.Run(a.op)
		if err != nil {
			t.Fatalf("model at %d: %v", rev, err)
		}
		if got, want := replicatest.ResultString(a.resp.Result), replicatest.ResultString(res); got != want {
			t.Fatalf("at %d: got %s, want %s", rev, got, want)
		}
		applyMuts(t, model, &s.Overlay)
	}
	if got, want := e.st.Dump(), model.Dump(); got != want {
		t.Fatalf("content:\n%s\nmodel:\n%s", got, want)
	}
	for _, a := range answers {
		if a.resp.Wrote || a.resp.Result == nil {
			continue
		}
		res, would, _, err := eval.EvaluateAt(model, a.op, a.resp.Revision)
		if err != nil || would {
			t.Fatalf("%v at %d: would write %v, %v", a.op, a.resp.Revision, would, err)
		}
		if got, want := replicatest.ResultString(a.resp.Result), replicatest.ResultString(res); got != want {
			t.Fatalf("%v at %d: got %s, want %s", a.op, a.resp.Revision, got, want)
		}
	}
}

func applyMuts(t testing.TB, st *replicatest.MemStore, s *eval.Overlay) {
	t.Helper()
	c := replicatest.MvccChange(st.Pos.Index+1, s.Muts)
	if _, err := st.Apply(c); err != nil {
		t.Fatal(err)
	}
}

func randomKey(rng *rand.Rand) string { return string(rune('a' + rng.IntN(4))) }

func randomOp(rng *rand.Rand, rev int64, depth int) *pb.Op {
	k := randomKey(rng)
	v := fmt.Sprint(rng.IntN(1000))
	switch rng.IntN(10) {
	case 0, 1:
		return replicatest.Put(k, v)
	case 2:
		return replicatest.Del(k, "")
	case 3:
		return replicatest.Del(k, string(rune('b'+rng.IntN(4))))
	case 4:
		return &pb.Op{Put: &pb.PutOp{Key: []byte(k), IgnoreValue: true, PrevKv: true}}
	case 5:
		return replicatest.Cas(k, v, max(0, rev-int64(rng.IntN(4))+2))
	default:
		if depth == 0 {
			return replicatest.Put(k, v)
		}
		t := &pb.TxnOp{}
		for range rng.IntN(3) {
			t.Compare = append(t.Compare, randomCompare(rng, rev))
		}
		for range rng.IntN(3) {
			t.Success = append(t.Success, randomInner(rng, rev, depth-1))
		}
		for range rng.IntN(3) {
			t.Failure = append(t.Failure, randomInner(rng, rev, depth-1))
		}
		return &pb.Op{Txn: t}
	}
}

func randomInner(rng *rand.Rand, rev int64, depth int) *pb.Op {
	switch rng.IntN(5) {
	case 0:
		return replicatest.Get(randomKey(rng))
	case 1:
		return &pb.Op{Range: &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("z"), Revision: max(0, rev-int64(rng.IntN(4))), Limit: int64(rng.IntN(3))}}
	default:
		return randomOp(rng, rev, depth)
	}
}

func randomCompare(rng *rand.Rand, rev int64) *pb.Compare {
	c := &pb.Compare{Key: []byte(randomKey(rng)), Target: int32(rng.IntN(5)), Result: int32(rng.IntN(4))}
	if rng.IntN(3) == 0 {
		c.RangeEnd = []byte("z")
	}
	switch c.Target {
	case eval.TargetVersion:
		c.Number = int64(rng.IntN(3))
	case eval.TargetValue:
		c.Value = []byte(fmt.Sprint(rng.IntN(1000)))
	case eval.TargetLease:
	default:
		c.Number = max(0, rev+3-int64(rng.IntN(8)))
	}
	return c
}

// TestRandomFaults adds to the same what may go wrong: leaders come and go with part of their
// log, allocations come out of order or get lost, entries are dropped, patience ends. Every answer must
// agree with the log that came of it: what was acknowledged is there, what was refused is not, and
// revisions rise in real time.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runFaults(t, seed) })
	}
}

type faultRun struct {
	t       testing.TB
	rng     *rand.Rand
	lim     Limits
	e       *env
	now     time.Time
	answers []faultAnswer
	issued  int
	acked   int64 // highest revision answered so far
	applied []appliedOp
	content string // what the ranges hold in the end
}

type faultAnswer struct {
	op   *pb.Op
	resp *pb.WriteResponse
	err  error
	over int64 // acknowledged before it was issued
}

type appliedOp struct {
	op  *pb.Op
	rev int64
}

func runFaults(t *testing.T, seed uint64) {
	r := &faultRun{t: t, rng: rand.New(rand.NewPCG(seed, 11)), lim: testLimits(), now: time.Unix(1000, 0)}
	r.lim.Allocs, r.lim.Proposals, r.lim.BatchCount, r.lim.Retries = 1+r.rng.IntN(3), 1+r.rng.IntN(4), 1+r.rng.IntN(5), 4
	r.lim.BatchDelay = r.rng.IntN(2) == 0
	r.e = newEnv(r.lim)
	r.e.own()
	r.e.someAsync(r.rng)
	const n = 80
	for steps := 0; r.issued < n || len(r.answers) < n; steps++ {
		if steps > 100000 {
			t.Fatalf("seed %d: stuck with %d of %d answers", seed, len(r.answers), n)
		}
		r.step(r.issued < n)
	}
	r.content = r.e.st.Dump()
	r.check()
}

func (r *faultRun) issue() {
	op := randomOp(r.rng, r.e.rev, 2)
	if r.e.l == nil {
		return
	}
	r.issued++
	over := r.acked
	it := newItem(op, func(resp *pb.WriteResponse, err error) {
		if err == nil {
			r.acked = max(r.acked, resp.Revision)
		}
		r.answers = append(r.answers, faultAnswer{op, resp, err, over})
	})
	if r.rng.IntN(4) == 0 {
		it.Deadline = r.now.Add(time.Duration(r.rng.IntN(3)) * time.Second)
	}
	r.e.l.Request(it)
	r.e.collect(r.e.l)
}

func (r *faultRun) step(more bool) {
	e, rng := r.e, r.rng
	switch rng.IntN(14) {
	case 0, 1, 2:
		if more {
			r.issue()
		}
	case 3, 4:
		if len(e.allocs) > 0 {
			r.alloc(rng.IntN(len(e.allocs)))
		}
	case 5, 6:
		r.apply(1)
	case 7:
		if len(e.currents) > 0 {
			e.answerCurrent(rng.IntN(len(e.currents)), e.rev)
		}
	case 8:
		if len(e.confirms) > 0 {
			e.confirm(rng.IntN(len(e.confirms)), rng.IntN(8) != 0)
		}
	case 9:
		if len(e.evals) > 0 {
			e.runEval(rng.IntN(len(e.evals)))
		}
	case 10:
		r.now = r.now.Add(time.Duration(rng.IntN(500)) * time.Millisecond)
		for _, l := range append([]*Leader{e.l}, e.pastTerms...) {
			l.Tick(r.now)
			e.collect(l)
		}
	case 11:
		r.fault()
	case 13:
		if len(e.preds) > 0 {
			e.predict(rng.IntN(len(e.preds)))
		}
	case 12:
		if len(e.batchTicks) > 0 {
			e.batchTick()
		}
	}
}

// alloc answers an allocation: rarely out of order, with an error, or of an older oracle.
func (r *faultRun) alloc(i int) {
	e := r.e
	if r.rng.IntN(20) != 0 {
		e.alloc(i)
		return
	}
	a := e.allocs[i]
	e.allocs = append(e.allocs[:i:i], e.allocs[i+1:]...)
	if r.rng.IntN(2) == 0 {
		e.l.Batches.Allocated(a.Id, 0, 0, shard.ErrUnavailable)
	} else {
		e.l.Batches.Allocated(a.Id, max(1, e.rev-5), e.epoch-1, nil)
	}
	e.collect(e.l)
}

func (r *faultRun) apply(n int) {
	e := r.e
	for ; n > 0 && len(e.log) > 0; n-- {
		before := e.m.Last
		ent := &pb.Entry{}
		if err := ent.UnmarshalVT(e.log[0].data); err != nil {
			r.t.Fatal(err)
		}
		if err := e.applyOne(0); err != nil {
			r.t.Fatal(err)
		}
		if ent.Batch != nil && e.m.Last > before {
			for i, op := range ent.Batch.Requests {
				r.applied = append(r.applied, appliedOp{op, ent.Batch.FirstRevision + int64(i)})
			}
		}
	}
}

func (r *faultRun) fault() {
	e := r.e
	switch r.rng.IntN(6) {
	case 0: // a new leader, which is this replica again, with part of the old log
		keep := r.rng.IntN(len(e.log) + 1)
		kept := e.log[:keep:keep]
		e.log = nil
		e.lead(r.lim)
		e.allocs, e.currents, e.confirms, e.evals, e.log = nil, nil, nil, nil, kept
		r.apply(keep)
		e.own()
	case 1: // the newest entry was not appended
		if n := len(e.log); n > 0 && e.l != nil {
			last := e.log[n-1]
			e.log = e.log[:n-1]
			e.l.Proposals.Dropped(last.id, shard.ErrUnavailable)
			e.collect(e.l)
		}
	case 2: // the oracle moves on, and a fence tells the range
		e.epoch++
		e.rev += 10
		e.fenceOn("f", randomKey(r.rng), e.rev, e.epoch)
	case 3:
		e.rev++ // another range writes
	}
}

// check returns the model's store.
func (r *faultRun) check() *replicatest.MemStore {
	t := r.t
	t.Helper()
	model := replicatest.NewMemStore()
	byRev := map[int64]appliedOp{}
	results := map[int64]string{}
	for _, a := range r.applied {
		if _, dup := byRev[a.rev]; dup || a.rev <= model.Last {
			t.Fatalf("revision %d is not above %d", a.rev, model.Last)
		}
		byRev[a.rev] = a
		s := &eval.Mutations{Overlay: eval.Overlay{Base: model, At: math.MaxInt64}, Rev: a.rev}
		ev := eval.Evaluator{View: s, Sink: s, Current: a.rev - 1, PriorRev: a.rev - 1, Rev: a.rev, Results: true}
		if res, err := ev.Run(a.op); err == nil {
			results[a.rev] = replicatest.ResultString(decoded(t, res))
			applyMuts(t, model, &s.Overlay)
		}
	}
	if got, want := r.content, model.Dump(); got != want {
		t.Fatalf("content:\n%s\nmodel:\n%s", got, want)
	}
	for _, a := range r.answers {
		switch {
		case a.err == nil && a.resp.Wrote:
			if byRev[a.resp.Revision].op.String() != a.op.String() || results[a.resp.Revision] != replicatest.ResultString(decoded(t, a.resp.Result)) {
				t.Fatalf("acknowledged at %d: %v %s; the log has %v %s", a.resp.Revision, a.op, replicatest.ResultString(a.resp.Result), byRev[a.resp.Revision].op, results[a.resp.Revision])
			}
			if a.resp.Revision <= a.over {
				t.Fatalf("revision %d after %d had been acknowledged", a.resp.Revision, a.over)
			}
		case a.err == nil:
			r.checkNothing(model, a, results)
		}
	}
	return model
}

// checkNothing checks an answer without effect: it is the state at its revision.
func (r *faultRun) checkNothing(model *replicatest.MemStore, a faultAnswer, results map[int64]string) {
	r.t.Helper()
	if a.resp.Revision < a.over {
		r.t.Fatalf("header %d after %d had been acknowledged", a.resp.Revision, a.over)
	}
	if results[a.resp.Revision] == replicatest.ResultString(decoded(r.t, a.resp.Result)) {
		return // it was in the log, and turned out to have no effect
	}
	res, would, _, err := eval.EvaluateAt(model, a.op, a.resp.Revision)
	if err != nil || would || replicatest.ResultString(decoded(r.t, res)) != replicatest.ResultString(decoded(r.t, a.resp.Result)) {
		r.t.Fatalf("%v at %d: got %s, want %s (would write %v, %v)", a.op, a.resp.Revision, replicatest.ResultString(a.resp.Result), replicatest.ResultString(res), would, err)
	}
}

// decoded sends a result over the wire, which knows no difference between absent and empty.
func decoded(t testing.TB, res *pb.Result) *pb.Result {
	t.Helper()
	out := &pb.Result{}
	if err := out.UnmarshalVT(apply.Marshal(res)); err != nil {
		t.Fatal(err)
	}
	return out
}
