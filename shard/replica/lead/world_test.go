package lead

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

// world is several ranges, each a leader core with its machine, an oracle, a meta group that knows
// leases, and the messages between them. Everything that may happen is a pending task; a random
// choice, or a test, says what happens next.
type world struct {
	t    testing.TB
	rng  *rand.Rand
	lim  Limits
	envs []*env
	m    *shard.Map
	// maps are all that there were, the newest last. A message of a name in byMap is routed by that map, else by the newest, or, with
	// staleMaps, by any.
	maps      []*shard.Map
	byMap     map[string]*shard.Map
	staleMaps bool
	byID      map[shard.RangeID]*env
	nextRange shard.RangeID
	now       time.Time
	rev       int64
	epoch     shard.Epoch
	tasks     []worldTask
	ops       map[apply.TxnID]*pb.Op
	// writes says which of them have effects: only those own their revision.
	writes map[apply.TxnID]bool
	// applied is every request that the logs hold, by what the machines said of it.
	applied []appliedOp
	acked   int64
	answers []faultAnswer
	leases  map[int64]*worldLease
	reads   []worldRead
	quiet   bool // no message gets lost any more
	// moved counts transfers of leaders. With holdTransfers they wait in heldTransfers.
	moved         int
	holdTransfers bool
	heldTransfers []Action
}

// worldRead is what a client read of a range at a revision.
type worldRead struct {
	span    shard.Span
	rev     int64
	content string
}

type worldTask struct {
	name string
	run  func()
}

type worldLease struct {
	grant  uint64
	spans  []shard.Span
	ending bool
}

// worldFeed is what a hub sees of a range, and what it was promised.
type worldFeed struct {
	feed   apply.Feed
	closed int64 // here, or in the range of which this was a part
	final  int64 // as the range says
	last   mvcc.Rev
}

func newWorld(t testing.TB, seed uint64, cuts ...string) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 31)), lim: testLimits(), now: time.Unix(5000, 0), rev: 1, epoch: 1,
		ops: map[apply.TxnID]*pb.Op{}, writes: map[apply.TxnID]bool{}, leases: map[int64]*worldLease{},
	}
	var ds []shard.Descriptor
	start := []byte{}
	for i := range len(cuts) + 1 {
		d := replicatest.TestDesc
		d.ID, d.Span.Start = shard.RangeID(2+i), start
		if i < len(cuts) {
			d.Span.End = []byte(cuts[i])
		}
		start = d.Span.End
		ds = append(ds, d)
	}
	var err error
	if w.m, err = shard.NewMap(1, ds); err != nil {
		t.Fatal(err)
	}
	w.maps, w.nextRange = []*shard.Map{w.m}, shard.RangeID(2+len(ds))
	w.byID = map[shard.RangeID]*env{}
	for _, d := range ds {
		e := newEnvOf(w.lim, d)
		e.st.Cold = func(key []byte) bool { return len(key) > 0 && key[len(key)-1]%2 == 0 }
		w.addEnv(e)
		e.own()
		w.sweep(e)
	}
	return w
}

func (w *world) env(key []byte) *env {
	return w.envBy(w.m, key)
}

func (w *world) envBy(m *shard.Map, key []byte) *env { return w.byID[m.Lookup(key).ID] }

func (w *world) addEnv(e *env) {
	w.envs = append(w.envs, e)
	w.byID[e.m.Desc.ID] = e
}

// mapFor is the map by which a message of a name is routed.
func (w *world) mapFor(name string) *shard.Map {
	switch m := w.byMap[name]; {
	case m != nil:
		return m
	case w.staleMaps && w.rng.IntN(3) == 0:
		return w.maps[w.rng.IntN(len(w.maps))]
	}
	return w.m
}

func (w *world) later(name string, run func()) { w.tasks = append(w.tasks, worldTask{name, run}) }

// sweep makes tasks of what the cores of a range have asked for.
func (w *world) sweep(e *env) {
	l := e.l
	allocs, currents, confirms, evals, others := e.allocs, e.currents, e.confirms, e.evals, e.others
	e.allocs, e.currents, e.confirms, e.evals, e.others = nil, nil, nil, nil, nil
	on := func(name string, fn func()) { // an event of the core that asked, if it still lives
		w.later(name, func() {
			l.Now = w.now
			fn()
			w.collect(e, l)
		})
	}
	for _, a := range allocs {
		w.later("allocate", func() { // at the oracle
			first, epoch := w.rev+1, w.epoch
			w.rev += a.Ask.Count
			on("allocated", func() {
				if epoch < w.epoch { // the client of the oracle throws away what is older than it has seen
					l.Batches.Allocated(a.Id, 0, 0, shard.ErrUnavailable)
					return
				}
				l.Batches.Allocated(a.Id, first, epoch, nil)
			})
		})
	}
	for _, l := range e.batchTicks {
		w.later("batch tick", func() {
			l.Batches.BatchTick()
			w.collect(e, l)
		})
	}
	e.batchTicks = nil
	for _, a := range currents {
		w.later("current", func() {
			rev, epoch := w.rev, w.epoch
			on("current", func() { l.Evaluations.Current(a.Id, rev, epoch, nil) })
		})
	}
	for _, a := range confirms {
		on("confirm", func() { l.Fences.Confirmed(a.Id, !l.deposed && e.l == l, e.index) })
	}
	for _, a := range evals {
		on("evaluate", func() {
			res, would, again, err := eval.EvaluateAt(e.st, a.Item.Op, a.Item.At)
			l.Evaluations.Evaluated(a.Item, res, would, again, err)
		})
	}
	for _, a := range e.attaches {
		on("attach", func() {
			grant, err := w.attach(a.Lease, a.Span)
			l.Attachments.Attached(a.Lease, grant, err)
		})
	}
	e.attaches = nil
	for _, a := range others {
		w.other(e, l, a, on)
	}
}

func (w *world) collect(e *env, l *Leader) {
	if l != nil {
		e.collect(l)
	}
	w.sweep(e)
}

func (w *world) attach(lease int64, span shard.Span) (uint64, error) {
	le := w.leases[lease]
	if le == nil || le.ending {
		return 0, shard.ErrLeaseNotFound
	}
	le.spans = append(le.spans, span)
	return le.grant, nil
}

// lost decides whether a message gets lost.
func (w *world) lost() bool { return !w.quiet && w.rng != nil && w.rng.IntN(40) == 0 }

// call sends a request to the leader of the range that holds key: it arrives later, is answered
// later, and either may be lost.
func (w *world) call(name string, key []byte, serve func(e *env, l *Leader, reply func(error)), answer func(error)) {
	w.callOn(name, func() *env { return w.envBy(w.mapFor(name), key) }, serve, answer)
}

// callOn is call to the leader of the range that to finds when the request arrives.
func (w *world) callOn(name string, to func() *env, serve func(e *env, l *Leader, reply func(error)), answer func(error)) {
	w.later(name, func() {
		e := to()
		l := e.l
		if w.lost() || l == nil {
			w.later(name+" refused", func() { answer(shard.ErrUnavailable) })
			return
		}
		l.Now = w.now
		serve(e, l, func(err error) {
			w.later(name+" answered", func() {
				if w.lost() {
					err = shard.ErrAmbiguous
				}
				answer(err)
			})
		})
		l.Run()
		w.collect(e, l)
	})
}

func (w *world) other(e *env, l *Leader, a Action, on func(string, func())) {
	switch a.Kind {
	case ActTransfer:
		w.transferring(e, l, a)
	case ActLocate:
		on("locate", func() {
			l.Coordinations.Located(a.Coord, SplitTxn(w.mapFor("locate"), a.Coord.It.Op, a.Coord.Spans), nil)
		})
	case ActPrepare:
		w.ops[a.Txn] = a.Coord.It.Op
		var resp *pb.PrepareResponse
		send := w.call
		if a.N == 0 { // the anchor is the coordinator's own range
			send = func(name string, _ []byte, serve func(*env, *Leader, func(error)), answer func(error)) {
				w.callOn(name, func() *env { return e }, serve, answer)
			}
		}
		send("prepare", a.Parts[a.N].Key, func(at *env, pl *Leader, reply func(error)) {
			var it *Item
			it = NewPrepareItem(a.Prepare, func(_ *pb.WriteResponse, err error) {
				if err == nil {
					resp = w.locked(at, it, a.Prepare)
				}
				reply(err)
			})
			it.Deadline = w.now.Add(a.Patience)
			pl.Participants.Prepare(it)
		}, func(err error) {
			l.Now = w.now
			l.Coordinations.Prepared(a.Coord, a.Txn, a.N, resp, err)
			w.collect(e, l)
		})
	case ActPlan:
		on("plan", func() {
			var plan *TxnPlan
			var err error
			if op := a.Coord.It.Op; op.GetExpireLease() != 0 {
				plan = PlanExpiry(op, a.Parts)
			} else {
				rd := &LockedReader{Ctx: context.Background(), Parts: a.Parts, Read: w.readPart}
				plan, err = PlanTxn(op, rd, a.Parts, a.Rev, a.Missing)
			}
			if err == nil {
				w.writes[a.Txn] = plan.writes
			}
			l.Coordinations.Planned(a.Coord, a.Txn, plan, err)
		})
	case ActResolve:
		w.call("resolve", a.Key, func(_ *env, pl *Leader, reply func(error)) { pl.Participants.Resolve(a.Resolve, a.Epoch, reply) }, func(err error) {
			if a.WantAck {
				l.Now = w.now
				l.Resolutions.ResolveAcked(a.Txn, a.Key, err)
				w.collect(e, l)
			}
		})
	case ActInquire:
		var resp *pb.InquireResponse
		w.call("inquire", a.Prepared.Body.AnchorKey, func(_ *env, pl *Leader, reply func(error)) {
			pl.Participants.Inquire(a.Prepared.Id, a.Prepared.Body.AnchorKey, a.Span, w.now.Add(time.Second), func(r *pb.InquireResponse, err error) {
				resp = r
				reply(err)
			})
		}, func(err error) {
			l.Now = w.now
			l.Participants.Inquired(a.Prepared.Id, resp, err)
			w.collect(e, l)
		})
	}
}

func (w *world) locked(at *env, it *Item, req *pb.PrepareRequest) *pb.PrepareResponse {
	p := it.Prep
	resp := &pb.PrepareResponse{Index: p.Index, Floor: p.Effective, Epoch: uint64(p.RangeEpoch), MissingLeases: it.Missing, Expired: p.Expired}
	if err := LockedPages(at.st, req, resp); err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *world) readPart(ctx context.Context, p *TxnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	e := w.env(p.Key)
	switch locked := e.m.FindPrepared(apply.ToTxnID(p.Body.Id)) != nil; {
	case !locked && len(w.maps) > 1: // the attempt is over, and the keys may have gone
		return nil, shard.ErrUnavailable
	case e.index < req.MinIndex:
		w.t.Fatalf("read before the lock: %d < %d", e.index, req.MinIndex)
	}
	return eval.ReadPage(ctx, e.st, pb.ToSpan(req.Span), req, 1<<20)
}

// apply applies the next entry of a range's log.
func (w *world) apply(e *env) {
	ent := &pb.Entry{}
	if err := ent.UnmarshalVT(e.log[0].data); err != nil {
		w.t.Fatal(err)
	}
	before := e.m.Last
	id := apply.ToTxnID(ent.Commit.GetId())
	stood := e.m.FindPrepared(id) != nil
	le := e.log[0]
	e.log = e.log[1:]
	d := w.applyEntry(e, apply.Entry{Term: le.term, Data: le.data})
	if worldTrace {
		fmt.Printf("r%d i%d t%d(led %d) %s refused=%v last=%d floor=%d\n", e.m.Desc.ID, e.index, le.term, e.term, entText(ent), d.Refused, e.m.Last, e.m.EffectiveFloor())
	}
	switch {
	case d.Refused != nil:
	case ent.Batch != nil && e.m.Last > before:
		for i, op := range ent.Batch.Requests {
			if d.Errs != nil && apply.Refusal(d.Errs[i]) { // it begins again
				continue
			}
			w.applied = append(w.applied, appliedOp{op, ent.Batch.FirstRevision + int64(i)})
		}
	case ent.Commit != nil && stood:
		if w.writes[id] {
			w.applied = append(w.applied, appliedOp{w.ops[id], ent.Commit.Revision})
		}
	}
}

// applyEntry is env.applyEntry with the range's feed.
func (w *world) applyEntry(e *env, ent apply.Entry) *apply.Decision {
	e.index++
	ent.Index = e.index
	d, err := e.m.Decide(ent)
	if err != nil {
		w.t.Fatal(err)
	}
	var child *env
	if d.Cut != nil {
		child = w.cut(e, d.Cut)
		child.feed.closed = e.feed.closed
	}
	evs, err := e.st.Apply(d.Change)
	if err != nil {
		w.t.Fatal(err)
	}
	e.m.Commit(d)
	w.publish(e, evs)
	if child != nil {
		child.own()
		w.sweep(child)
	}
	for _, l := range e.pastTerms {
		l.Applied(d)
		if ent.Term > l.Term {
			l.Proposals.FailOpenProposals(false)
		}
		e.collect(l)
	}
	if e.l != nil {
		e.l.Now = w.now
		e.l.Applied(d)
		e.collect(e.l)
	}
	w.sweep(e)
	return d
}

// publish hands the events to the feed and checks what a hub relies on.
func (w *world) publish(e *env, evs []*shard.Event) {
	f := &e.feed
	out, _ := f.feed.Add(evs, e.m.EffectiveFloor())
	for _, ev := range out {
		rev := mvcc.Rev{Main: ev.KV.ModRevision, Sub: ev.Sub}
		if rev.Main <= f.closed {
			w.t.Fatalf("%v: an event at %d after %d was closed", e.m.Desc.ID, rev.Main, f.closed)
		}
		if !f.last.Less(rev) {
			w.t.Fatalf("%v: an event at %v after %v", e.m.Desc.ID, rev, f.last)
		}
		f.last = rev
	}
	c := e.m.Final()
	// Behind a split what is closed may lie above the floor of a transaction that locks now and will commit above it.
	if c < f.final && c != e.m.EffectiveFloor() {
		w.t.Fatalf("%v: final went back from %d to %d", e.m.Desc.ID, f.final, c)
	}
	f.final, f.closed = c, max(f.closed, c)
}

// depose ends a leadership; part of what it has proposed is kept by the next.
func (w *world) depose(e *env) { w.deposeKeeping(e, w.rng.IntN(len(e.log)+1)) }

func (w *world) deposeKeeping(e *env, keep int) {
	kept := e.log[:keep:keep]
	e.log = nil
	e.lead(w.lim)
	e.log = kept
	w.sweep(e)
	for len(e.log) > 0 && e.log[0].term < e.term {
		w.apply(e)
	}
	w.applyEntry(e, apply.Entry{Term: e.term})
	e.l.Now = w.now
	e.l.OwnTermApplied()
	w.collect(e, e.l)
}

func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for _, e := range w.envs {
		for _, l := range append(slices.Clone(e.pastTerms), e.l) {
			if l != nil {
				l.Tick(w.now)
				e.collect(l)
			}
		}
		w.sweep(e)
	}
}

// step does one of the things that may happen; false: there is none.
func (w *world) step() bool {
	var logs []*env
	for _, e := range w.envs {
		if len(e.log) > 0 {
			logs = append(logs, e)
		}
	}
	n := len(w.tasks) + 2*len(logs)
	if n == 0 {
		return false
	}
	i := w.rng.IntN(n)
	if i >= len(w.tasks) {
		w.apply(logs[(i-len(w.tasks))/2])
		return true
	}
	if w.rng.IntN(3) > 0 { // mostly in order
		i = w.rng.IntN(min(len(w.tasks), 3))
	}
	task := w.tasks[i]
	w.tasks = slices.Delete(w.tasks, i, i+1)
	task.run()
	return true
}

// settle lets everything come to its end.
func (w *world) settle() {
	w.quiet, w.staleMaps = true, false
	for range 400 {
		for range 100000 {
			if !w.step() {
				break
			}
		}
		w.tick(100 * time.Millisecond)
	}
	for range 100000 {
		if !w.step() {
			return
		}
	}
	w.t.Fatal("does not come to rest")
}
