package replica

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// world is several ranges, each a leader core with its machine, an oracle, a meta group that knows
// leases, and the messages between them. Everything that may happen is a pending task; a random
// choice, or a test, says what happens next.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	lim   limits
	envs  []*env
	feeds []*worldFeed
	m     *shard.Map
	now   time.Time
	rev   int64
	epoch shard.Epoch
	tasks []worldTask
	ops   map[txnID]*pb.Op
	// writes says which of them have effects: only those own their revision.
	writes map[txnID]bool
	// applied is every request that the logs hold, by what the machines said of it.
	applied []appliedOp
	acked   int64
	answers []faultAnswer
	leases  map[int64]*worldLease
	reads   []worldRead
	quiet   bool // no message gets lost any more
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
	feed   feed
	closed int64
	last   mvcc.Rev
}

func newWorld(t testing.TB, seed uint64, cuts ...string) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 31)), lim: testLimits(), now: time.Unix(5000, 0), rev: 1, epoch: 1,
		ops: map[txnID]*pb.Op{}, writes: map[txnID]bool{}, leases: map[int64]*worldLease{},
	}
	var ds []shard.Descriptor
	start := []byte{}
	for i := range len(cuts) + 1 {
		d := testDesc
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
	for _, d := range ds {
		e := newEnvOf(w.lim, d)
		w.envs, w.feeds = append(w.envs, e), append(w.feeds, &worldFeed{})
		e.own()
		w.sweep(e)
	}
	return w
}

func (w *world) env(key []byte) *env {
	id := w.m.Lookup(key).ID
	return w.envs[int(id)-2]
}

func (w *world) later(name string, run func()) { w.tasks = append(w.tasks, worldTask{name, run}) }

// sweep makes tasks of what the cores of a range have asked for.
func (w *world) sweep(e *env) {
	l := e.l
	allocs, currents, confirms, evals, others := e.allocs, e.currents, e.confirms, e.evals, e.others
	e.allocs, e.currents, e.confirms, e.evals, e.others = nil, nil, nil, nil, nil
	on := func(name string, fn func()) { // an event of the core that asked, if it still lives
		w.later(name, func() {
			l.now = w.now
			fn()
			w.collect(e, l)
		})
	}
	for _, a := range allocs {
		w.later("allocate", func() { // at the oracle
			first, epoch := w.rev+1, w.epoch
			w.rev += int64(a.n)
			on("allocated", func() {
				if epoch < w.epoch { // the client of the oracle throws away what is older than it has seen
					l.allocated(a.id, 0, 0, shard.ErrUnavailable)
					return
				}
				l.allocated(a.id, first, epoch, nil)
			})
		})
	}
	for _, a := range currents {
		w.later("current", func() {
			rev, epoch := w.rev, w.epoch
			on("current", func() { l.current(a.id, rev, epoch, nil) })
		})
	}
	for _, a := range confirms {
		on("confirm", func() { l.proved(a.id, !l.dead && e.l == l, e.index) })
	}
	for _, a := range evals {
		on("evaluate", func() {
			res, would, again, err := evaluateAt(e.st, a.item.op, a.item.at)
			l.evaluated(a.item, res, would, again, err)
		})
	}
	for _, a := range e.attaches {
		on("attach", func() {
			grant, err := w.attach(a.lease, a.span)
			l.attached(a.lease, grant, err)
		})
	}
	e.attaches = nil
	for _, a := range others {
		w.other(e, l, a, on)
	}
}

func (w *world) collect(e *env, l *leader) {
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
func (w *world) call(name string, key []byte, serve func(e *env, l *leader, reply func(error)), answer func(error)) {
	w.later(name, func() {
		e := w.env(key)
		l := e.l
		if w.lost() || l == nil {
			w.later(name+" refused", func() { answer(shard.ErrUnavailable) })
			return
		}
		l.now = w.now
		serve(e, l, func(err error) {
			w.later(name+" answered", func() {
				if w.lost() {
					err = shard.ErrAmbiguous
				}
				answer(err)
			})
		})
		l.run()
		w.collect(e, l)
	})
}

func (w *world) other(e *env, l *leader, a action, on func(string, func())) {
	switch a.kind {
	case actLocate:
		on("locate", func() { l.located(a.coord, splitTxn(w.m, a.coord.it.op, a.coord.spans), nil) })
	case actPrepare:
		w.ops[a.txn] = a.coord.it.op
		var resp *pb.PrepareResponse
		w.call("prepare", a.parts[a.n].key, func(at *env, pl *leader, reply func(error)) {
			var it *item
			it = newPrepareItem(a.prepare, func(_ *pb.WriteResponse, err error) {
				if err == nil {
					resp = w.locked(at, it, a.prepare)
				}
				reply(err)
			})
			it.deadline = w.now.Add(w.lim.patience)
			pl.prepare(it)
		}, func(err error) {
			l.now = w.now
			l.prepared(a.coord, a.txn, a.n, resp, err)
			w.collect(e, l)
		})
	case actPlan:
		on("plan", func() {
			var plan *txnPlan
			var err error
			if op := a.coord.it.op; op.GetExpireLease() != 0 {
				plan = planExpiry(op, a.parts)
			} else {
				rd := &lockedReader{ctx: context.Background(), parts: a.parts, read: w.readPart}
				plan, err = planTxn(op, rd, a.parts, a.rev, a.missing)
			}
			if err == nil {
				w.writes[a.txn] = plan.writes
			}
			l.planned(a.coord, a.txn, plan, err)
		})
	case actResolve:
		w.call("resolve", a.key, func(_ *env, pl *leader, reply func(error)) { pl.resolve(a.resolve, a.epoch, reply) }, func(err error) {
			if a.told {
				l.now = w.now
				l.resolvedAt(a.txn, a.key, err)
				w.collect(e, l)
			}
		})
	case actInquire:
		var resp *pb.InquireResponse
		w.call("inquire", a.prepared.body.AnchorKey, func(_ *env, pl *leader, reply func(error)) {
			pl.inquire(a.prepared.id, a.span, w.now.Add(time.Second), func(r *pb.InquireResponse, err error) {
				resp = r
				reply(err)
			})
		}, func(err error) {
			l.now = w.now
			l.inquired(a.prepared.id, resp, err)
			w.collect(e, l)
		})
	}
}

func (w *world) locked(at *env, it *item, req *pb.PrepareRequest) *pb.PrepareResponse {
	p := it.prep
	resp := &pb.PrepareResponse{Index: p.index, Floor: p.effective, Epoch: uint64(p.rangeEp), MissingLeases: it.missing, Expired: p.expired}
	if err := lockedPages(at.st, req, resp); err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *world) readPart(ctx context.Context, p *txnPart, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	e := w.env(p.key)
	if e.index < req.MinIndex {
		w.t.Fatalf("read before the lock: %d < %d", e.index, req.MinIndex)
	}
	return readPage(ctx, e.st, pb.ToSpan(req.Span), req, 1<<20)
}

// apply applies the next entry of a range's log.
func (w *world) apply(e *env) {
	ent := &pb.Entry{}
	if err := ent.UnmarshalVT(e.log[0].data); err != nil {
		w.t.Fatal(err)
	}
	before := e.m.last
	id := toTxnID(ent.Commit.GetId())
	stood := e.m.findPrepared(id) != nil
	le := e.log[0]
	e.log = e.log[1:]
	d := w.applyEntry(e, raftgroup.Entry{Term: le.term, Data: le.data})
	if worldTrace {
		fmt.Printf("r%d i%d t%d(led %d) %s refused=%v last=%d floor=%d\n", e.m.desc.ID, e.index, le.term, e.term, entText(ent), d.refused, e.m.last, e.m.effectiveFloor())
	}
	switch {
	case d.refused != nil:
	case ent.Batch != nil && e.m.last > before:
		for i, op := range ent.Batch.Requests {
			if d.errs != nil && refusal(d.errs[i]) { // it begins again
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
func (w *world) applyEntry(e *env, ent raftgroup.Entry) *decision {
	e.index++
	ent.Index = e.index
	d, err := e.m.decide(ent)
	if err != nil {
		w.t.Fatal(err)
	}
	evs, err := e.st.Apply(d.change)
	if err != nil {
		w.t.Fatal(err)
	}
	e.m.commit(d)
	w.publish(e, evs)
	for _, l := range e.olds {
		l.applied(d)
		if ent.Term > l.term {
			l.endOrphans(false)
		}
		e.collect(l)
	}
	if e.l != nil {
		e.l.now = w.now
		e.l.applied(d)
		e.collect(e.l)
	}
	w.sweep(e)
	return d
}

// publish hands the events to the feed and checks what a hub relies on.
func (w *world) publish(e *env, evs []mvcc.Event) {
	f := w.feeds[int(e.m.desc.ID)-2]
	out, _ := f.feed.take(evs, e.m.effectiveFloor())
	for _, ev := range out {
		rev := mvcc.Rev{Main: ev.KV.ModRevision, Sub: ev.Sub}
		if rev.Main <= f.closed {
			w.t.Fatalf("%v: an event at %d after %d was closed", e.m.desc.ID, rev.Main, f.closed)
		}
		if !f.last.Less(rev) {
			w.t.Fatalf("%v: an event at %v after %v", e.m.desc.ID, rev, f.last)
		}
		f.last = rev
	}
	if c := e.m.final(); c < f.closed {
		w.t.Fatalf("%v: final went back from %d to %d", e.m.desc.ID, f.closed, c)
	} else {
		f.closed = c
	}
}

// ---- what clients do

func (w *world) issue(op *pb.Op, deadline time.Duration) {
	over := w.acked
	it := &item{op: op, reply: func(resp *pb.WriteResponse, err error) {
		if err == nil {
			w.acked = max(w.acked, resp.Revision)
		}
		w.answers = append(w.answers, faultAnswer{op, resp, err, over})
	}}
	if deadline > 0 {
		it.deadline = w.now.Add(deadline)
	}
	parts := splitTxn(w.m, op, nil)
	if len(parts) == 0 {
		it.reply(nil, shard.ErrInvalid)
		return
	}
	e := w.env(parts[0].key)
	if e.l == nil {
		it.reply(nil, &shard.NotLeaderError{})
		return
	}
	e.l.now = w.now
	if len(parts) > 1 {
		e.l.coordinate(it, nil)
	} else {
		it.fp.acc = it.one[:0]
		it.fp.collect(op)
		it.size = op.SizeVT()
		e.l.request(it)
	}
	w.collect(e, e.l)
}

// read reads a span as a router does: the oracle's revision, then a fence on every range.
func (w *world) read(key, end string) {
	span := shard.FromEtcd([]byte(key), []byte(end))
	w.later("read", func() {
		rev, epoch := w.rev, w.epoch
		over := w.acked
		if rev < over {
			w.t.Fatalf("current revision %d after %d had been acknowledged", rev, over)
		}
		for _, d := range w.m.Overlapping(span) {
			clip := d.Span.Intersect(span)
			w.later("fence", func() { w.fence(w.env(clip.Start), clip, rev, epoch) })
		}
	})
}

func (w *world) fence(e *env, span shard.Span, rev int64, epoch shard.Epoch) {
	l := e.l
	f := &fence{rev: rev, epoch: epoch, deadline: w.now.Add(3 * time.Second)}
	f.acc = append(f.one[:0], access{span: span})
	f.done = func(index uint64, err error) {
		if err != nil {
			return
		}
		w.later("page", func() {
			if index > e.index {
				w.t.Fatalf("a fence answered with index %d, applied %d", index, e.index)
			}
			w.reads = append(w.reads, worldRead{span, rev, content(w.t, e.st, span, rev)})
		})
	}
	l.fence(f)
	l.run()
	w.collect(e, l)
}

func content(t testing.TB, st *memStore, span shard.Span, rev int64) string {
	var b strings.Builder
	err := st.Scan(mvcc.ScanOptions{Span: span, Rev: rev}, func(kv *mvcc.KeyValue) bool {
		fmt.Fprintf(&b, "%s=%s@%d/%d ", kv.Key, kv.Value, kv.ModRevision, kv.Version)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// expire ends a lease, again and again until the ranges have done it.
func (w *world) expire(id int64) {
	le := w.leases[id]
	le.ending = true
	op := &pb.Op{ExpireLease: id, ExpireGrant: le.grant}
	parts := splitTxn(w.m, op, le.spans)
	if len(parts) == 0 {
		delete(w.leases, id)
		return
	}
	again := func() { w.later("expire again", func() { w.expire(id) }) }
	it := &item{op: op, reply: func(resp *pb.WriteResponse, err error) {
		if err != nil {
			again()
			return
		}
		delete(w.leases, id)
	}}
	it.deadline = w.now.Add(5 * time.Second)
	e := w.env(parts[0].key)
	if e.l == nil {
		again()
		return
	}
	e.l.now = w.now
	if len(parts) > 1 {
		e.l.coordinate(it, le.spans)
	} else {
		it.fp.collect(op)
		e.l.request(it)
	}
	w.collect(e, e.l)
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
	w.applyEntry(e, raftgroup.Entry{Term: e.term})
	e.l.now = w.now
	e.l.ownTerm()
	w.collect(e, e.l)
}

func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for _, e := range w.envs {
		for _, l := range append(slices.Clone(e.olds), e.l) {
			if l != nil {
				l.tick(w.now)
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
	w.quiet = true
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

// check compares everything that was told with the logs, replayed in the order of their revisions.
func (w *world) check() {
	slices.SortStableFunc(w.applied, func(a, b appliedOp) int { return cmp.Compare(a.rev, b.rev) })
	r := &faultRun{t: w.t, e: &env{st: newMemStore()}, answers: w.answers, applied: w.applied}
	var got []string
	for _, e := range w.envs {
		got = append(got, e.st.dump())
		if n := len(e.m.prepared) + len(e.m.records); n != 0 {
			w.t.Errorf("%v: %d transactions are left", e.m.desc.ID, n)
		}
		if n := e.l.tab.count + len(e.l.fences) + len(e.l.txns.coords) + len(e.l.txns.idle) + len(e.l.txns.resolves); n != 0 {
			w.t.Errorf("%v: %d requests are left", e.m.desc.ID, n)
		}
		for lease := range e.m.halves {
			if le := w.leases[lease]; e.m.halves[lease].attached && (le == nil || le.grant != e.m.halves[lease].grant) {
				w.t.Errorf("%v: the half of lease %d, which is gone", e.m.desc.ID, lease)
			}
		}
		_ = e.st.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *mvcc.KeyValue) bool {
			if kv.Lease != 0 && w.leases[kv.Lease] == nil {
				w.t.Errorf("%s carries lease %d, which is gone", kv.Key, kv.Lease)
			}
			return true
		})
	}
	r.content = strings.Join(got, "")
	model := r.check()
	for _, rd := range w.reads {
		if want := content(w.t, model, rd.span, rd.rev); rd.content != want {
			w.t.Errorf("%v at %d was read as %q, it is %q", rd.span, rd.rev, rd.content, want)
		}
	}
}

// checkDense: without a failure every revision is an effect.
func (w *world) checkDense() {
	want := int64(2)
	for _, a := range w.applied {
		if a.rev != want {
			w.t.Fatalf("revision %d follows %d", a.rev, want-1)
		}
		want++
	}
	if want != w.rev+1 {
		w.t.Fatalf("the oracle stands at %d, the last effect has %d", w.rev, want-1)
	}
}

func (w *world) String() string {
	var b strings.Builder
	for _, t := range w.tasks {
		fmt.Fprintf(&b, "%s; ", t.name)
	}
	return b.String()
}

var worldTrace = os.Getenv("WORLD_TRACE") != ""

func entText(e *pb.Entry) string {
	switch {
	case e.Prepare != nil:
		return fmt.Sprintf("prepare %v w=%v r=%v lease=%d floor=%d", toTxnID(e.Prepare.Id), pb.ToSpans(e.Prepare.Write), pb.ToSpans(e.Prepare.Read), e.Prepare.Lease, e.Prepare.Floor)
	case e.Commit != nil:
		return fmt.Sprintf("commit %v at %d %v", toTxnID(e.Commit.Id), e.Commit.Revision, e.Commit.Effects)
	case e.Abort != nil:
		return fmt.Sprintf("abort %v", toTxnID(e.Abort.Id))
	case e.Resolve != nil:
		return fmt.Sprintf("resolve %v %v at %d %v", toTxnID(e.Resolve.Id), e.Resolve.Committed, e.Resolve.Revision, e.Resolve.Effects)
	case e.Drop != nil:
		return fmt.Sprintf("drop %v", toTxnID(e.Drop.Id))
	}
	return entryString(e)
}
