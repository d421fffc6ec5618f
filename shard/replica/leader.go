package replica

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// limits bounds a leader core; all are positive.
type limits struct {
	tableCount   int // requests in flight, waiting ones included; beyond: ErrTooManyRequests
	tableBytes   int
	fences       int // fences that wait
	batchCount   int // requests of one entry
	batchBytes   int // their bytes, unless one request is larger
	allocs       int // allocations under way
	proposals    int // entries proposed and not applied; beyond, requests gather
	tries        int // times that a request begins again before it is given back
	earlyWaiting int // requests and fences before the own term has applied
}

// batch is a group of requests that share an allocation and an entry.
type batch struct {
	id       uint64
	items    []*item
	answered bool
	first    int64
	epoch    shard.Epoch
	err      error
}

// proposal is an entry on its way.
type proposal struct {
	items []*item     // of a batch
	done  func(error) // of any other entry: nil applied, else certainly without effect
}

// round is a question that several share: nobody may join it once it has been asked.
type round struct {
	id      uint64
	current []func(rev int64, epoch shard.Epoch, err error)
	fences  []*fence
}

// leader is one term of leadership: a pure core. Its methods are events; what is to be done comes
// out as actions. It reads the machine and the store, and changes neither.
type leader struct {
	lim  limits
	m    *machine
	base Reader
	term uint64
	own  bool // an entry of this term has applied
	dead bool // the leadership has ended: only proposed entries are still waited for

	earlyItems  []*item
	earlyFences []*fence

	tab   *table
	view  tableView
	known int64 // the highest revision known to be handed out
	runq  []*item

	ready        []*item // will write, in table order
	asked        []*batch
	unanswered   int
	lastProposed int64 // the last revision proposed
	compact      int64 // the highest compaction proposed

	nextID    uint64
	proposals map[uint64]*proposal

	openCurrent *round
	currents    map[uint64]*round
	openProof   *round
	proofs      map[uint64]*round

	fences   []*fence // all that wait
	proven   []*fence // of those, the ones that only wait for apply
	raising  shard.Epoch
	lockWait []*item

	works  map[int64]*leaseWork
	parked []*item // outside the table: they wait for a lease

	now time.Time // of the last tick
	out []action
}

func newLeader(lim limits, m *machine, base Reader, term uint64) *leader {
	l := &leader{
		lim: lim, m: m, base: base, term: term,
		tab: newTable(), proposals: make(map[uint64]*proposal),
		currents: make(map[uint64]*round), proofs: make(map[uint64]*round),
		works: make(map[int64]*leaseWork),
	}
	l.view = tableView{base: base, tab: l.tab, at: max(m.last, base.CompactRevision())}
	return l
}

// take hands out what is to be done; rounds that were open until now are closed.
func (l *leader) take(buf []action) []action {
	buf = append(buf, l.out...)
	clear(l.out)
	l.out = l.out[:0]
	l.openCurrent, l.openProof = nil, nil
	return buf
}

func (l *leader) emit(a action) { l.out = append(l.out, a) }

func (l *leader) id() uint64 {
	l.nextID++
	return l.nextID
}

func (l *leader) notLeader() error {
	return &shard.NotLeaderError{Range: l.m.desc.ID, Term: l.term}
}

// ---- events: requests

// request takes a new request. The footprint has been collected.
func (l *leader) request(it *item) {
	if l.dead {
		l.finish(it, nil, l.notLeader())
		return
	}
	if !l.own {
		if len(l.earlyItems) >= l.lim.earlyWaiting {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return
		}
		l.earlyItems = append(l.earlyItems, it)
		return
	}
	if l.tab.count+len(l.parked) >= l.lim.tableCount || l.tab.bytes+it.size > l.lim.tableBytes && l.tab.count > 0 {
		l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	l.admit(it)
	l.run()
}

// ownTerm: an entry of this term has applied, so the applied state holds all that was committed
// before (hazard 26).
func (l *leader) ownTerm() {
	if l.own || l.dead {
		return
	}
	l.own = true
	l.lastProposed = l.m.last
	l.noteBase()
	items, fences := l.earlyItems, l.earlyFences
	l.earlyItems, l.earlyFences = nil, nil
	for _, it := range items {
		if it.phase != phaseDone {
			l.request(it)
		}
	}
	for _, f := range fences {
		if !f.over {
			l.fence(f)
		}
	}
}

func (l *leader) noteBase() {
	l.view.at = max(l.view.at, l.m.last, l.base.CompactRevision())
	l.known = max(l.known, l.view.at)
}

// admit lets a request into the table, once its leases are attached.
func (l *leader) admit(it *item) {
	if l.dead {
		l.finish(it, nil, l.notLeader())
		return
	}
	if !l.m.within(&it.fp) {
		l.finish(it, nil, l.wrongRange())
		return
	}
	if it.op.GetExpireLease() != 0 {
		l.admitExpiry(it)
		return
	}
	if len(it.fp.leases) > 0 && !l.leasesReady(it) {
		return
	}
	l.enter(it)
}

func (l *leader) wrongRange() error {
	return &shard.WrongRangeError{Range: l.m.desc.ID, Known: []shard.Descriptor{l.m.desc}}
}

// enter places it at the end of the table, behind the overlapping requests that have not been
// evaluated.
func (l *leader) enter(it *item) {
	it.phase, it.rev, it.effects, it.blockers = phaseBlocked, 0, nil, 0
	l.tab.enter(it)
	l.tab.conflicts(it, func(x *item) {
		if x.phase == phaseBlocked && x.seq < it.seq {
			x.onReady = append(x.onReady, it)
			it.blockers++
		}
	})
	if it.blockers == 0 {
		l.runq = append(l.runq, it)
	}
}

// run carries on with every request that waits for nothing any more.
func (l *leader) run() {
	for len(l.runq) > 0 {
		it := l.runq[0]
		l.runq = l.runq[1:]
		switch it.phase {
		case phaseLease:
			l.admit(it)
		case phaseBlocked:
			l.evaluate(it)
		case phaseReadsOnly:
			l.askCurrent(it)
		}
	}
	l.runq = l.runq[:0]
	l.flush()
}

func (l *leader) unblock(waiting []*item) {
	for _, w := range waiting {
		if w.blockers--; w.blockers == 0 {
			l.runq = append(l.runq, w)
		}
	}
}

// evaluate decides, against the applied state and those ahead, whether it will write.
func (l *leader) evaluate(it *item) {
	if l.m.locked(&it.fp) {
		l.lockWait = append(l.lockWait, it)
		return
	}
	if it.op.GetExpireLease() != 0 {
		l.evaluateExpiry(it)
		return
	}
	l.view.known = l.known
	out, effects, err := l.view.predict(it.op, max(l.compact, l.base.CompactRevision()))
	if err != nil {
		l.finish(it, nil, err)
		return
	}
	switch out {
	case writesSomething:
		l.becomeReady(it, effects)
	case dependsOnUnknown:
		if l.awaitAhead(it) == 0 {
			// Those ahead have applied since: nothing is unknown any more, except that the
			// compare names a revision which nobody has yet.
			l.readsOnly(it)
		}
	default:
		l.readsOnly(it)
	}
}

func (l *leader) becomeReady(it *item, effects []effect) {
	it.effects, it.phase = effects, phaseReady
	l.ready = append(l.ready, it)
	l.resolved(it)
}

// resolved lets those go on that waited for it to be evaluated.
func (l *leader) resolved(it *item) {
	waiting := it.onReady
	it.onReady = nil
	l.unblock(waiting)
}

// awaitAhead makes it wait until the overlapping writers ahead of it have left the table, and
// returns how many those are.
func (l *leader) awaitAhead(it *item) int {
	l.tab.conflicts(it, func(x *item) {
		if x.writes() && x.seq < it.seq {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	})
	return it.blockers
}

// readsOnly: it writes nothing. It hides from later requests, and is answered once those that it
// was evaluated against are applied, at a fenced revision.
func (l *leader) readsOnly(it *item) {
	n := l.awaitAhead(it)
	it.phase = phaseReadsOnly
	l.tab.unindex(it)
	l.resolved(it)
	if n == 0 {
		l.runq = append(l.runq, it)
	}
}

// ---- events: requests that write nothing

// askCurrent fetches the revision at which it will be evaluated as a whole.
func (l *leader) askCurrent(it *item) {
	it.phase = phaseFencing
	l.askRevision(func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case it.phase == phaseDone:
		case err != nil:
			l.finish(it, nil, unasked(err))
		case epoch < l.m.epoch: // of an oracle that has been replaced
			l.askAgain(it)
		default:
			it.at = rev
			l.fence(&fence{acc: it.fp.acc, rev: rev, epoch: epoch, done: func(_ uint64, err error) {
				switch {
				case it.phase == phaseDone:
				case errorsIsStale(err):
					l.askAgain(it)
				case err != nil:
					l.finish(it, nil, err)
				default:
					l.emit(action{kind: actEvaluate, item: it})
				}
			}})
		}
	})
}

func (l *leader) askAgain(it *item) {
	if it.tries++; it.tries > l.lim.tries {
		l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	l.askCurrent(it)
}

// askRevision joins the next question for Current.
func (l *leader) askRevision(fn func(rev int64, epoch shard.Epoch, err error)) {
	r := l.openCurrent
	if r == nil {
		r = &round{id: l.id()}
		l.openCurrent = r
		l.currents[r.id] = r
		l.emit(action{kind: actCurrent, id: r.id})
	}
	r.current = append(r.current, fn)
}

// current answers a question for Current.
func (l *leader) current(id uint64, rev int64, epoch shard.Epoch, err error) {
	r := l.currents[id]
	delete(l.currents, id)
	if r == nil || l.dead {
		return
	}
	if err == nil && epoch >= l.m.epoch {
		l.known = max(l.known, rev)
	}
	for _, fn := range r.current {
		fn(rev, epoch, err)
	}
	l.run()
}

// evaluated is the outcome at the fenced revision: an answer, or that the request would write, or
// that the revision could not be read any more.
func (l *leader) evaluated(it *item, res *pb.Result, wouldWrite, again bool, err error) {
	switch {
	case it.phase == phaseDone || l.dead:
	case wouldWrite:
		l.again(it)
	case again:
		l.askAgain(it)
	case err != nil:
		l.finish(it, nil, err)
	default:
		l.finish(it, &pb.WriteResponse{Result: res, Revision: it.at, Term: l.term}, nil)
	}
	l.run()
}

// again sends a request that certainly had no effect back to the beginning.
func (l *leader) again(it *item) {
	if it.answer { // nobody waits for it
		l.gone(it)
		return
	}
	if it.tries++; it.tries > l.lim.tries {
		l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	l.gone(it)
	l.admit(it)
}

// gone takes it out of the table and lets those go on that waited for that.
func (l *leader) gone(it *item) {
	it.phase = phaseDone
	l.tab.leave(it)
	l.forgetExpiry(it)
	for _, f := range it.fences {
		l.fenceGone(f)
	}
	it.fences = nil
	l.resolved(it)
	waiting := it.onGone
	it.onGone = nil
	l.unblock(waiting)
}

// finish answers it and takes it out of the table.
func (l *leader) finish(it *item, resp *pb.WriteResponse, err error) {
	l.gone(it)
	l.reply(it, resp, err)
}

func (l *leader) reply(it *item, resp *pb.WriteResponse, err error) {
	if it.answer {
		return
	}
	it.answer = true
	l.emit(action{kind: actReply, item: it, resp: resp, err: err})
}

// ---- batches

// flush forms batches while allocations may be under way; requests gather otherwise.
func (l *leader) flush() {
	for len(l.ready) > 0 && l.unanswered < l.lim.allocs && len(l.asked)+len(l.proposals) < l.lim.proposals {
		n, bytes := 0, 0
		for n < len(l.ready) && n < l.lim.batchCount {
			bytes += l.ready[n].size
			if n > 0 && bytes > l.lim.batchBytes {
				break
			}
			n++
		}
		b := &batch{id: l.id(), items: slices.Clone(l.ready[:n])}
		rest := copy(l.ready, l.ready[n:])
		clear(l.ready[rest:])
		l.ready = l.ready[:rest]
		for _, it := range b.items {
			it.phase, it.above = phaseAsked, l.known
		}
		l.asked = append(l.asked, b)
		l.unanswered++
		l.emit(action{kind: actAllocate, id: b.id, n: n})
	}
}

// allocated answers an Allocate. Answers are used in the order in which they were asked for.
func (l *leader) allocated(id uint64, first int64, epoch shard.Epoch, err error) {
	if l.dead { // a revision belongs to the term that asked for it (hazards 1, 28)
		return
	}
	for _, b := range l.asked {
		if b.id == id && !b.answered {
			b.answered, b.first, b.epoch, b.err = true, first, epoch, err
			l.unanswered--
		}
	}
	for len(l.asked) > 0 && l.asked[0].answered {
		b := l.asked[0]
		l.asked = slices.Delete(l.asked, 0, 1)
		l.useBatch(b)
	}
	l.run()
}

func (l *leader) useBatch(b *batch) {
	items := b.items[:0]
	for _, it := range b.items {
		if it.phase == phaseAsked { // the others gave up
			items = append(items, it)
		}
	}
	b.items = items
	switch {
	case len(items) == 0:
	case b.err != nil:
		for _, it := range items {
			l.finish(it, nil, unasked(b.err))
		}
	case b.epoch < l.m.epoch || b.epoch < l.raising || b.first <= max(l.lastProposed, l.m.last, l.compact):
		l.reask(items)
	default:
		l.propose(b)
	}
}

// unasked turns an error of the oracle into what it means for a request: nothing was proposed,
// whatever became of the question.
func unasked(err error) error {
	switch {
	case errors.Is(err, shard.ErrAmbiguous), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return shard.ErrUnavailable
	}
	return err
}

// reask puts requests whose allocation cannot be used in front of those that wait for one.
func (l *leader) reask(items []*item) {
	kept := items[:0]
	for _, it := range items {
		if it.tries++; it.tries > l.lim.tries {
			l.finish(it, nil, shard.ErrUnavailable)
			continue
		}
		it.phase = phaseReady
		l.releaseFences(it, math.MaxInt64)
		kept = append(kept, it)
	}
	l.ready = slices.Insert(l.ready, 0, kept...)
}

func (l *leader) propose(b *batch) {
	n := len(b.items)
	last := b.first + int64(n) - 1
	ops := make([]*pb.Op, n)
	for i, it := range b.items {
		ops[i] = it.op
		it.phase, it.rev = phaseProposed, b.first+int64(i)
		l.releaseFences(it, it.rev)
	}
	l.lastProposed = last
	l.known = max(l.known, last)
	l.proposeEntry(&proposal{items: b.items}, &pb.Entry{
		Epoch: uint64(b.epoch), Closed: last,
		Batch: &pb.Batch{FirstRevision: b.first, Requests: ops},
	})
}

func (l *leader) proposeEntry(p *proposal, e *pb.Entry) {
	e.Term, e.Proposer = l.term, uint64(l.m.self)
	e.Generation = uint64(l.m.desc.Generation)
	e.ProposalId = l.id()
	l.proposals[e.ProposalId] = p
	l.emit(action{kind: actPropose, id: e.ProposalId, entry: e})
}

// applied is told of every entry that this replica has applied, after the machine has taken it.
func (l *leader) applied(d *decision) {
	if e := d.entry; e != nil && e.Term == l.term && e.Proposer == uint64(l.m.self) {
		if p := l.proposals[e.ProposalId]; p != nil {
			delete(l.proposals, e.ProposalId)
			l.settle(p, d)
		}
	}
	if l.dead {
		return
	}
	l.noteBase()
	if d.resolved != nil {
		l.locksChanged()
	}
	l.fencesApplied(d)
	l.run()
}

// settle answers the requests of an entry that was seen in the log.
func (l *leader) settle(p *proposal, d *decision) {
	if p.done != nil {
		p.done(d.refused)
		return
	}
	for i, it := range p.items {
		if d.refused != nil {
			l.again(it)
			continue
		}
		var err error
		if d.errs != nil {
			err = d.errs[i]
		}
		switch {
		case err == nil:
			l.finish(it, &pb.WriteResponse{
				Result: d.results[i], Revision: it.rev, Wrote: d.wrote[i], Term: l.term,
			}, nil)
		case refusal(err):
			l.again(it)
		default:
			l.finish(it, nil, err)
		}
	}
}

// dropped: the entry certainly was not appended.
func (l *leader) dropped(id uint64, err error) {
	p := l.proposals[id]
	if p == nil {
		return
	}
	delete(l.proposals, id)
	if p.done != nil {
		p.done(err)
	}
	for _, it := range p.items {
		l.finish(it, nil, err)
	}
	l.run()
}

// ---- events: the end

// lost: the leadership has ended. What was not proposed certainly will not be; what was is still
// waited for, because its fate shows when an entry of a later term applies here.
func (l *leader) lost() {
	if l.dead {
		return
	}
	l.dead = true
	err := l.notLeader()
	for _, it := range l.earlyItems {
		l.finish(it, nil, err)
	}
	for _, f := range l.earlyFences {
		l.endFence(f, 0, err)
	}
	for len(l.fences) > 0 { // a fence never outlives its leadership (hazard 24)
		l.endFence(l.fences[0], 0, err)
	}
	for _, it := range l.parked {
		if it.phase == phaseLease {
			l.finish(it, nil, err)
		}
	}
	for it := l.tab.first; it != nil; {
		next := it.next
		if it.phase != phaseProposed {
			l.finish(it, nil, err)
		}
		it = next
	}
	for _, id := range sortedKeys(l.currents) {
		for _, fn := range l.currents[id].current {
			fn(0, 0, err)
		}
	}
	l.earlyItems, l.earlyFences, l.proven, l.runq, l.ready = nil, nil, nil, nil, nil
	l.asked, l.currents, l.proofs, l.works, l.lockWait, l.parked = nil, nil, nil, nil, nil, nil
	l.openCurrent, l.openProof = nil, nil
}

// compactTo logs a compaction at rev once everything at or below rev is final.
func (l *leader) compactTo(rev int64, deadline time.Time, done func(error)) {
	answer := func(err error) { l.emit(action{kind: actCall, fn: func() { done(err) }}) }
	if l.dead {
		answer(l.notLeader())
		return
	}
	l.askRevision(func(now int64, epoch shard.Epoch, err error) {
		switch {
		case err != nil:
			answer(err)
			return
		case epoch < l.m.epoch:
			answer(shard.ErrStaleEpoch)
			return
		case rev > now:
			answer(shard.ErrFutureRevision)
			return
		}
		f := &fence{rev: rev, epoch: epoch, deadline: deadline}
		f.acc = append(f.one[:0], access{span: l.m.desc.Span})
		f.done = func(_ uint64, err error) {
			if err != nil || rev <= l.base.CompactRevision() {
				answer(err)
				return
			}
			l.compact = max(l.compact, rev)
			l.proposeEntry(&proposal{done: func(err error) {
				if err != nil {
					l.compact = l.base.CompactRevision()
				}
				answer(err)
			}}, &pb.Entry{CompactTo: &pb.CompactTo{Revision: rev}})
		}
		l.fence(f)
	})
	l.run()
}

// settled reports whether a dead core waits for nothing any more.
func (l *leader) settled() bool { return l.dead && len(l.proposals) == 0 }

// endOrphans ends the wait for what was proposed: with ambiguous set its outcome is unknown,
// otherwise an entry of a later term has applied and it certainly is not in the log.
func (l *leader) endOrphans(ambiguous bool) {
	err := l.notLeader()
	if ambiguous {
		err = shard.ErrAmbiguous
	}
	for _, id := range sortedKeys(l.proposals) {
		p := l.proposals[id]
		delete(l.proposals, id)
		if p.done != nil {
			p.done(err)
		}
		for _, it := range p.items {
			l.finish(it, nil, err)
		}
	}
}

func sortedKeys[V any](m map[uint64]V) []uint64 {
	keys := make([]uint64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// tick ends the patience of those whose deadline has come.
func (l *leader) tick(now time.Time) {
	l.now = now
	late := func(d time.Time) bool { return !d.IsZero() && !now.Before(d) }
	for _, it := range l.earlyItems {
		if it.phase != phaseDone && late(it.deadline) {
			l.finish(it, nil, shard.ErrTimeout)
		}
	}
	for _, f := range l.earlyFences {
		if late(f.deadline) {
			l.endFence(f, 0, shard.ErrTimeout)
		}
	}
	for i := 0; i < len(l.fences); {
		if f := l.fences[i]; late(f.deadline) {
			l.endFence(f, 0, shard.ErrTimeout)
			continue
		}
		i++
	}
	for _, it := range l.parked {
		if it.phase == phaseLease && late(it.deadline) {
			l.finish(it, nil, shard.ErrTimeout)
		}
	}
	l.dropUnparked()
	for it := l.tab.first; it != nil; {
		next := it.next
		switch {
		case !late(it.deadline):
		case it.phase == phaseProposed:
			l.reply(it, nil, shard.ErrAmbiguous) // it stays in the table
		default:
			l.finish(it, nil, shard.ErrTimeout)
		}
		it = next
	}
	if !l.dead {
		l.ready = slices.DeleteFunc(l.ready, func(it *item) bool { return it.phase != phaseReady })
		l.run()
	}
}

// waiting reports whether a tick may have something to do.
func (l *leader) waiting() bool {
	return l.tab.count > 0 || len(l.fences) > 0 || len(l.earlyItems) > 0 || len(l.earlyFences) > 0 || len(l.parked) > 0
}
