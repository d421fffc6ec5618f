package replica

import (
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// limits bounds a leader core; all are positive.
type limits struct {
	tableCount int // requests in flight, waiting ones included; beyond: ErrTooManyRequests
	tableBytes int
	fences     int              // fences that wait
	fenceBytes int              // of their keys
	works      int              // leases that are being attached
	batchCount int              // requests of one entry
	batchBytes int              // their bytes, unless one request is larger
	allocs     int              // allocations under way
	proposals  int              // entries proposed and not applied; beyond, requests gather
	linger     bool             // batches are closed on beats
	clock      func() time.Time // by which batches are told to have taken so long
	tries      int              // times that a request begins again before it is given back
	coordinate int              // transactions that are coordinated at a time
	// coordinateBytes bounds what those hold, and committed ones whose outcome is on its way.
	coordinateBytes int
	resolve         int // outcomes of transactions that have not been applied
	resolveBytes    int
	patience        time.Duration // of a lock: then its coordinator gives up, or is asked for
	earlyWaiting    int           // requests and fences before the own term has applied
}

// batch is a group of requests that share an allocation and an entry.
type batch struct {
	id       uint64
	items    []*item
	commits  []commitOf // instead of items: commits of transactions
	answered bool
	first    int64
	epoch    shard.Epoch
	err      error
	closed   time.Time
}

// proposal is an entry on its way.
type proposal struct {
	items  []*item     // of a batch
	closed time.Time   // that batch
	done   func(error) // of any other entry: nil applied, else certainly without effect
}

// round is a question that several share: nobody may join it once it has been asked.
type round struct {
	id      uint64
	current []revisionWaiter
	fences  []*fence
}

// revisionWaiter is told the current revision.
type revisionWaiter struct {
	it *item // on whose behalf; nil: one that does not give up
	fn func(rev int64, epoch shard.Epoch, err error)
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
	earlyBytes  int
	earlyFences []*fence

	tab   *table
	view  tableView
	known int64 // the highest revision known to be handed out
	runq  []*item

	ready        []*item // will write, in table order
	asked        []*batch
	unanswered   int
	lingering    bool  // a beat has been asked for
	onBeat       bool  // it has come, and no batch has been closed since
	lastProposed int64 // the last revision proposed
	compact      int64 // the highest compaction proposed

	nextID    uint64
	proposals map[uint64]*proposal

	openCurrent *round
	currents    map[uint64]*round
	openProof   *round
	proofs      map[uint64]*round

	fences     []*fence // all that wait
	fenceBytes int      // of them, and of earlyFences
	proven     []*fence // of those, the ones that only wait for apply
	raising    shard.Epoch
	lockWait   []*item
	gaveUp     bool // somebody has who may stand in a list of waiters

	compactions int // asked for and not answered

	works  map[int64]*leaseWork
	parked []*item // outside the table: they wait for a lease
	// parkedBytes is what those hold that still wait.
	parkedBytes int

	txns txnWork

	now time.Time // of the last tick
	out []action
}

func newLeader(lim limits, m *machine, base Reader, term uint64) *leader {
	l := &leader{
		lim: lim, m: m, base: base, term: term,
		tab: newTable(), proposals: make(map[uint64]*proposal),
		currents: make(map[uint64]*round), proofs: make(map[uint64]*round),
		works: make(map[int64]*leaseWork), txns: newTxnWork(),
	}
	l.view = tableView{base: base, tab: l.tab, at: max(m.last, base.CompactRevision())}
	return l
}

// take hands out what is to be done, and keeps buf, which is empty, for what comes next; rounds that
// were open until now are closed.
func (l *leader) take(buf []action) []action {
	out := l.out
	l.out = buf
	l.openCurrent, l.openProof = nil, nil
	return out
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
		if len(l.earlyItems) >= l.lim.earlyWaiting || over(l.earlyBytes, it.size, l.lim.tableBytes) {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return
		}
		l.earlyItems = append(l.earlyItems, it)
		l.earlyBytes += it.size
		return
	}
	if l.tab.count+len(l.parked) >= l.lim.tableCount || over(l.tab.bytes+l.parkedBytes, it.size, l.lim.tableBytes) {
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
	l.recoverTxns()
	items, fences := l.earlyItems, l.earlyFences
	l.earlyItems, l.earlyBytes, l.earlyFences = nil, 0, nil
	for _, it := range items {
		if it.phase != phaseDone {
			l.request(it)
		}
	}
	for _, f := range fences {
		if !f.over {
			l.fenceBytes -= f.size
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
		if it.prep != nil && it.prep.noWait && it.phase == phaseLease && it.blockers > 0 {
			l.finish(it, nil, shard.ErrConflict)
		}
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
	l.unpark(it)
	it.phase, it.rev, it.effects, it.blockers = phaseBlocked, 0, nil, 0
	l.tab.enter(it)
	l.tab.conflicts(it, func(x *item) {
		if x.holds() && x.seq < it.seq {
			x.onReady = append(x.onReady, it)
			it.blockers++
		}
	})
	switch {
	case it.blockers == 0:
		l.runq = append(l.runq, it)
	case it.prep != nil && it.prep.noWait: // those ahead may wait for a lock
		l.finish(it, nil, shard.ErrConflict)
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
		if w.blockers--; w.blockers == 0 && w.phase != phaseDone {
			l.runq = append(l.runq, w)
		}
	}
}

// evaluate decides, against the applied state and those ahead, whether it will write.
func (l *leader) evaluate(it *item) {
	if l.m.locked(&it.fp) {
		if it.prep != nil && it.prep.noWait {
			l.finish(it, nil, shard.ErrConflict)
			return
		}
		l.lockWait = append(l.lockWait, it)
		return
	}
	switch {
	case it.op.GetExpireLease() != 0:
		l.evaluateExpiry(it)
		return
	case !l.leasesStand(it): // an expiry has come between: it begins again at meta, without a revision
		l.again(it)
		return
	case it.prep != nil:
		l.evaluatePrepare(it)
		return
	}
	l.view.known, l.view.missing = l.known, it.missing
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
	l.askRevision(it, func(rev int64, epoch shard.Epoch, err error) {
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

// askRevision joins the next question for Current, on behalf of it, which may be nil.
func (l *leader) askRevision(it *item, fn func(rev int64, epoch shard.Epoch, err error)) {
	r := l.openCurrent
	if r == nil {
		r = &round{id: l.id()}
		l.openCurrent = r
		l.currents[r.id] = r
		l.emit(action{kind: actCurrent, id: r.id})
	}
	r.current = append(r.current, revisionWaiter{it, fn})
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
	for _, w := range r.current {
		w.fn(rev, epoch, err)
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
	l.unpark(it)
	it.phase = phaseDone
	l.tab.leave(it)
	l.forgetExpiry(it)
	l.forgetPrepare(it)
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
