package lead

import (
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// Limits bounds a leader core; all are positive.
type Limits struct {
	TableCount int // requests in flight, waiting ones included; beyond: ErrTooManyRequests
	TableBytes int
	Fences     int              // fences that wait
	FenceBytes int              // of their keys
	Attaching  int              // leases that are being attached
	BatchCount int              // requests of one entry
	BatchBytes int              // their bytes, unless one request is larger
	Allocs     int              // allocations under way
	Proposals  int              // entries proposed and not applied; beyond, requests gather
	Linger     bool             // batches are closed on beats
	Clock      func() time.Time // by which batches are told to have taken so long
	Tries      int              // times that a request begins again before it is given back
	Coordinate int              // transactions that are coordinated at a time
	// coordinateBytes bounds what those hold, and committed ones whose outcome is on its way.
	CoordinateBytes int
	Resolve         int // outcomes of transactions that have not been applied
	ResolveBytes    int
	Patience        time.Duration // of a lock: then its coordinator gives up, or is asked for
	EarlyWaiting    int           // requests and fences before the own term has applied
}

// batch is a group of requests that share an allocation and an entry.
type batch struct {
	id       uint64
	items    []*Item
	commits  []commitOf // instead of items: commits of transactions
	answered bool
	first    int64
	epoch    shard.Epoch
	err      error
	closed   time.Time
}

// proposal is an entry on its way.
type proposal struct {
	items  []*Item     // of a batch
	closed time.Time   // that batch
	done   func(error) // of any other entry: nil applied, else certainly without effect
}

// round is a question that several share: nobody may join it once it has been asked.
type round struct {
	id      uint64
	current []revisionWaiter
	fences  []*Fence
}

// revisionWaiter is told the current revision.
type revisionWaiter struct {
	it *Item // on whose behalf; nil: one that does not give up
	fn func(rev int64, epoch shard.Epoch, err error)
}

// Leader is one term of leadership: a pure core. Its methods are events; what is to be done comes
// out as actions. It reads the machine and the store, and changes neither.
type Leader struct {
	lim  Limits
	m    *apply.Machine
	base Base
	Term uint64
	own  bool // an entry of this term has applied
	dead bool // the leadership has ended: only proposed entries are still waited for

	earlyItems  []*Item
	earlyBytes  int
	earlyFences []*Fence

	tab   *table
	view  tableView
	known int64 // the highest revision known to be handed out
	runq  []*Item

	ready        []*Item // will write, in table order
	asked        []*batch
	unanswered   int
	lingering    bool  // a beat has been asked for
	ticked       bool  // it has come, and no batch has been closed since
	lastProposed int64 // the last revision proposed
	compact      int64 // the highest compaction proposed

	nextID    uint64
	proposals map[uint64]*proposal

	openCurrent *round
	currents    map[uint64]*round
	openProof   *round
	proofs      map[uint64]*round

	fences     []*Fence // all that wait
	fenceBytes int      // of them, and of earlyFences
	proven     []*Fence // of those, the ones that only wait for apply
	raising    shard.Epoch
	lockWait   []*Item
	gaveUp     bool // somebody has who may stand in a list of waiters

	compactions int // asked for and not answered

	attaching map[int64]*leaseAttach
	parked    []*Item // outside the table: they wait for a lease
	// parkedBytes is what those hold that still wait.
	parkedBytes int

	Txns txnWork

	Now time.Time // of the last tick
	Out []Action
}

// NewLeader begins a term over what m and base hold. The term serves once OwnTerm has been called.
func NewLeader(lim Limits, m *apply.Machine, base Base, term uint64) *Leader {
	l := &Leader{
		lim: lim, m: m, base: base, Term: term,
		tab: newTable(), proposals: make(map[uint64]*proposal),
		currents: make(map[uint64]*round), proofs: make(map[uint64]*round),
		attaching: make(map[int64]*leaseAttach), Txns: newTxnWork(),
	}
	l.view = tableView{base: base, tab: l.tab, at: max(m.Last, base.CompactRevision())}
	return l
}

// Take hands out what is to be done, and keeps buf, which is empty, for what comes next; rounds that
// were open until now are closed.
func (l *Leader) Take(buf []Action) []Action {
	out := l.Out
	l.Out = buf
	l.openCurrent, l.openProof = nil, nil
	return out
}

// Emit adds an action. It is for callbacks that the driver has given: they may do nothing else.
func (l *Leader) Emit(a Action) { l.Out = append(l.Out, a) }

func (l *Leader) id() uint64 {
	l.nextID++
	return l.nextID
}

// NotLeader is the error of this term's end.
func (l *Leader) NotLeader() error {
	return &shard.NotLeaderError{Range: l.m.Desc.ID, Term: l.Term}
}

// ---- events: requests

// Request takes a new request. The footprint has been collected.
func (l *Leader) Request(it *Item) {
	if l.dead {
		l.finish(it, nil, l.NotLeader())
		return
	}
	if !l.own {
		if len(l.earlyItems) >= l.lim.EarlyWaiting || Over(l.earlyBytes, it.Size, l.lim.TableBytes) {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return
		}
		l.earlyItems = append(l.earlyItems, it)
		l.earlyBytes += it.Size
		return
	}
	if l.tab.count+len(l.parked) >= l.lim.TableCount || Over(l.tab.bytes+l.parkedBytes, it.Size, l.lim.TableBytes) {
		l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	l.admit(it)
	l.Run()
}

// OwnTerm: an entry of this term has applied, so the applied state holds all that was committed
// before (hazard 26).
func (l *Leader) OwnTerm() {
	if l.own || l.dead {
		return
	}
	l.own = true
	l.lastProposed = l.m.Last
	l.noteBase()
	l.recoverTxns()
	items, fences := l.earlyItems, l.earlyFences
	l.earlyItems, l.earlyBytes, l.earlyFences = nil, 0, nil
	for _, it := range items {
		if it.phase != phaseDone {
			l.Request(it)
		}
	}
	for _, f := range fences {
		if !f.over {
			l.fenceBytes -= f.size
			l.Fence(f)
		}
	}
}

func (l *Leader) noteBase() {
	l.view.at = max(l.view.at, l.m.Last, l.base.CompactRevision())
	l.known = max(l.known, l.view.at)
}

// admit lets a request into the table, once its leases are attached.
func (l *Leader) admit(it *Item) {
	if l.dead {
		l.finish(it, nil, l.NotLeader())
		return
	}
	if !l.m.Within(&it.Fp) {
		l.finish(it, nil, l.wrongRange())
		return
	}
	if it.Op.GetExpireLease() != 0 {
		l.admitExpiry(it)
		return
	}
	if len(it.Fp.Leases) > 0 && !l.leasesAttached(it) {
		if it.Prep != nil && it.Prep.noWait && it.phase == phaseLease && it.blockers > 0 {
			l.finish(it, nil, shard.ErrConflict)
		}
		return
	}
	l.enter(it)
}

func (l *Leader) wrongRange() error {
	return &shard.WrongRangeError{Range: l.m.Desc.ID, Known: []shard.Descriptor{l.m.Desc}}
}

// enter places it at the end of the table, behind the overlapping requests that have not been
// evaluated.
func (l *Leader) enter(it *Item) {
	l.unpark(it)
	it.forgetPrediction()
	it.phase, it.rev, it.effects, it.blockers = phaseBlocked, 0, nil, 0
	l.tab.enter(it)
	l.tab.conflicts(it, func(x *Item) {
		if x.holds() && x.seq < it.seq {
			x.onReady = append(x.onReady, it)
			it.blockers++
		}
	})
	switch {
	case it.blockers == 0:
		l.runq = append(l.runq, it)
	case it.Prep != nil && it.Prep.noWait: // those ahead may wait for a lock
		l.finish(it, nil, shard.ErrConflict)
	}
}

// Run carries on with every request that waits for nothing any more.
func (l *Leader) Run() {
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

func (l *Leader) unblock(waiting []*Item) {
	for _, w := range waiting {
		if w.blockers--; w.blockers == 0 && w.phase != phaseDone {
			l.runq = append(l.runq, w)
		}
	}
}

// evaluate decides, against the applied state and those ahead, whether it will write.
func (l *Leader) evaluate(it *Item) {
	if l.m.Locked(&it.Fp) {
		if it.Prep != nil && it.Prep.noWait {
			l.finish(it, nil, shard.ErrConflict)
			return
		}
		it.forgetPrediction() // what it was evaluated on changes with the lock
		l.lockWait = append(l.lockWait, it)
		return
	}
	switch {
	case it.Op.GetExpireLease() != 0:
		l.evaluateExpiry(it)
		return
	case !l.leasesValid(it): // an expiry has come between: it begins again at meta, without a revision
		l.again(it)
		return
	case it.Prep != nil:
		l.evaluatePrepare(it)
		return
	}
	if p := it.foresight(); p != nil {
		l.decided(it, p.out, p.effects, p.err, p.view.tab == nothingAhead)
		return
	}
	if !l.light(it.Op) {
		l.predictApart(it)
		return
	}
	l.view.known, l.view.missing = l.known, it.Missing
	out, effects, err := l.view.predict(it.Op, max(l.compact, l.base.CompactRevision()))
	l.decided(it, out, effects, err, true)
}

// decided goes on with a request that has been evaluated; final is false where those ahead, by which it
// was, may have applied meanwhile.
func (l *Leader) decided(it *Item, out outcome, effects []effect, err error, final bool) {
	if err != nil {
		l.finish(it, nil, err)
		return
	}
	switch out {
	case writesSomething:
		l.becomeReady(it, effects)
	case dependsOnUnknown:
		switch {
		case l.awaitAhead(it) > 0:
		case final:
			// Those ahead have applied since: nothing is unknown any more, except that the
			// compare names a revision which nobody has yet.
			l.readsOnly(it)
		default:
			l.runq = append(l.runq, it)
		}
	default:
		l.readsOnly(it)
	}
}

func (l *Leader) becomeReady(it *Item, effects []effect) {
	it.effects, it.phase = effects, phaseReady
	l.ready = append(l.ready, it)
	l.resolved(it)
}

// resolved lets those go on that waited for it to be evaluated.
func (l *Leader) resolved(it *Item) {
	waiting := it.onReady
	it.onReady = nil
	l.unblock(waiting)
}

// awaitAhead makes it wait until the overlapping writers ahead of it have left the table, and
// returns how many those are.
func (l *Leader) awaitAhead(it *Item) int {
	l.tab.conflicts(it, func(x *Item) {
		if x.writes() && x.seq < it.seq {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	})
	return it.blockers
}

// readsOnly: it writes nothing. It hides from later requests, and is answered once those that it
// was evaluated against are applied, at a fenced revision.
func (l *Leader) readsOnly(it *Item) {
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
func (l *Leader) askCurrent(it *Item) {
	it.phase = phaseFencing
	l.askRevision(it, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case it.phase == phaseDone:
		case err != nil:
			l.finish(it, nil, unasked(err))
		case epoch < l.m.Epoch: // of an oracle that has been replaced
			l.askAgain(it)
		default:
			it.At = rev
			l.Fence(&Fence{Acc: it.Fp.Acc, Rev: rev, Epoch: epoch, Done: func(_ uint64, err error) {
				switch {
				case it.phase == phaseDone:
				case errorsIsStale(err):
					l.askAgain(it)
				case err != nil:
					l.finish(it, nil, err)
				default:
					l.Emit(Action{Kind: ActEvaluate, Item: it})
				}
			}})
		}
	})
}

func (l *Leader) askAgain(it *Item) {
	if it.tries++; it.tries > l.lim.Tries {
		l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	l.askCurrent(it)
}

// askRevision joins the next question for Current, on behalf of it, which may be nil.
func (l *Leader) askRevision(it *Item, fn func(rev int64, epoch shard.Epoch, err error)) {
	r := l.openCurrent
	if r == nil {
		r = &round{id: l.id()}
		l.openCurrent = r
		l.currents[r.id] = r
		l.Emit(Action{Kind: ActCurrent, Id: r.id})
	}
	r.current = append(r.current, revisionWaiter{it, fn})
}

// Current answers a question for Current.
func (l *Leader) Current(id uint64, rev int64, epoch shard.Epoch, err error) {
	r := l.currents[id]
	delete(l.currents, id)
	if r == nil || l.dead {
		return
	}
	if err == nil && epoch >= l.m.Epoch {
		l.known = max(l.known, rev)
	}
	for _, w := range r.current {
		w.fn(rev, epoch, err)
	}
	l.Run()
}

// Evaluated is the outcome at the fenced revision: an answer, or that the request would write, or
// that the revision could not be read any more.
func (l *Leader) Evaluated(it *Item, res *pb.Result, wouldWrite, again bool, err error) {
	switch {
	case it.phase == phaseDone || l.dead:
	case wouldWrite:
		l.again(it)
	case again:
		l.askAgain(it)
	case err != nil:
		l.finish(it, nil, err)
	default:
		l.finish(it, &pb.WriteResponse{Result: res, Revision: it.At, Term: l.Term}, nil)
	}
	l.Run()
}

// again sends a request that certainly had no effect back to the beginning.
func (l *Leader) again(it *Item) {
	if it.answer { // nobody waits for it
		l.gone(it)
		return
	}
	if it.tries++; it.tries > l.lim.Tries {
		l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	l.gone(it)
	l.admit(it)
}

// gone takes it out of the table and lets those go on that waited for that.
func (l *Leader) gone(it *Item) {
	l.unpark(it)
	it.forgetPrediction()
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
func (l *Leader) finish(it *Item, resp *pb.WriteResponse, err error) {
	l.gone(it)
	l.reply(it, resp, err)
}

func (l *Leader) reply(it *Item, resp *pb.WriteResponse, err error) {
	if it.answer {
		return
	}
	it.answer = true
	l.Emit(Action{Kind: ActReply, Item: it, Resp: resp, Err: err})
}
