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

	tab   *table
	known int64 // the highest revision known to be handed out
	runq  []*Item

	gaveUp bool // somebody has who may stand in a list of waiters

	Evaluations   evaluations
	Batches       batches
	Proposals     proposals
	Fences        fences
	Attachments   attachments
	Coordinations coordinations
	Participants  participants
	Resolutions   resolutions

	Now time.Time // of the last tick
	Out []Action
}

// NewLeader begins a term over what m and base hold. The term serves once OwnTerm has been called.
func NewLeader(lim Limits, m *apply.Machine, base Base, term uint64) *Leader {
	l := &Leader{lim: lim, m: m, base: base, Term: term, tab: newTable()}
	l.Evaluations = newEvaluations(l)
	l.Batches = batches{l: l}
	l.Proposals = proposals{l: l, proposals: make(map[uint64]*proposal)}
	l.Fences = fences{l: l, proofs: make(map[uint64]*round)}
	l.Attachments = attachments{l: l, attaching: make(map[int64]*leaseAttach)}
	l.Coordinations = newCoordinations(l)
	l.Participants = newParticipants(l)
	l.Resolutions = resolutions{l: l, records: make(map[apply.TxnID]*resolution)}
	return l
}

// Take hands out what is to be done, and keeps buf, which is empty, for what comes next; rounds that
// were open until now are closed.
func (l *Leader) Take(buf []Action) []Action {
	out := l.Out
	l.Out = buf
	l.Evaluations.openCurrent, l.Fences.openProof = nil, nil
	return out
}

// Emit adds an action. It is for callbacks that the driver has given: they may do nothing else.
func (l *Leader) Emit(a Action) { l.Out = append(l.Out, a) }

func (l *Leader) id() uint64 {
	l.Proposals.nextID++
	return l.Proposals.nextID
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
		if len(l.Evaluations.earlyItems) >= l.lim.EarlyWaiting || Over(l.Evaluations.earlyBytes, it.Size, l.lim.TableBytes) {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return
		}
		l.Evaluations.earlyItems = append(l.Evaluations.earlyItems, it)
		l.Evaluations.earlyBytes += it.Size
		return
	}
	if l.tab.count+len(l.Attachments.parked) >= l.lim.TableCount || Over(l.tab.bytes+l.Attachments.parkedBytes, it.Size, l.lim.TableBytes) {
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
	l.Batches.lastProposed = l.m.Last
	l.noteBase()
	l.Resolutions.recoverTxns()
	items, fences := l.Evaluations.earlyItems, l.Fences.earlyFences
	l.Evaluations.earlyItems, l.Evaluations.earlyBytes, l.Fences.earlyFences = nil, 0, nil
	for _, it := range items {
		if it.phase != phaseDone {
			l.Request(it)
		}
	}
	for _, f := range fences {
		if !f.over {
			l.Fences.fenceBytes -= f.size
			l.Fences.Fence(f)
		}
	}
}

func (l *Leader) noteBase() {
	l.Evaluations.view.at = max(l.Evaluations.view.at, l.m.Last, l.base.CompactRevision())
	l.known = max(l.known, l.Evaluations.view.at)
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
		l.Attachments.admitExpiry(it)
		return
	}
	if len(it.Fp.Leases) > 0 && !l.Attachments.leasesAttached(it) {
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
	l.Attachments.unpark(it)
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
			l.Evaluations.evaluate(it)
		case phaseReadsOnly:
			l.Evaluations.askCurrent(it)
		}
	}
	l.runq = l.runq[:0]
	l.Batches.flush()
}

func (l *Leader) unblock(waiting []*Item) {
	for _, w := range waiting {
		if w.blockers--; w.blockers == 0 && w.phase != phaseDone {
			l.runq = append(l.runq, w)
		}
	}
}

// evaluate decides, against the applied state and those ahead, whether it will write.
func (es *evaluations) evaluate(it *Item) {
	if es.l.m.Locked(&it.Fp) {
		if it.Prep != nil && it.Prep.noWait {
			es.l.finish(it, nil, shard.ErrConflict)
			return
		}
		it.forgetPrediction() // what it was evaluated on changes with the lock
		es.lockWait = append(es.lockWait, it)
		return
	}
	switch {
	case it.Op.GetExpireLease() != 0:
		es.l.Attachments.evaluateExpiry(it)
		return
	case !es.l.Attachments.leasesValid(it): // an expiry has come between: it begins again at meta, without a revision
		es.l.again(it)
		return
	case it.Prep != nil:
		es.l.Participants.evaluatePrepare(it)
		return
	}
	if p := it.foresight(); p != nil {
		es.decided(it, p.out, p.effects, p.err, p.view.tab == nothingAhead)
		return
	}
	if !es.light(it.Op) {
		es.predictApart(it)
		return
	}
	es.view.known, es.view.missing = es.l.known, it.Missing
	out, effects, err := es.view.predict(it.Op, max(es.l.Proposals.compact, es.l.base.CompactRevision()))
	es.decided(it, out, effects, err, true)
}

// decided goes on with a request that has been evaluated; final is false where those ahead, by which it
// was, may have applied meanwhile.
func (es *evaluations) decided(it *Item, out outcome, effects []effect, err error, final bool) {
	if err != nil {
		es.l.finish(it, nil, err)
		return
	}
	switch out {
	case writesSomething:
		es.becomeReady(it, effects)
	case dependsOnUnknown:
		switch {
		case es.awaitAhead(it) > 0:
		case final:
			// Those ahead have applied since: nothing is unknown any more, except that the
			// compare names a revision which nobody has yet.
			es.readsOnly(it)
		default:
			es.l.runq = append(es.l.runq, it)
		}
	default:
		es.readsOnly(it)
	}
}

func (es *evaluations) becomeReady(it *Item, effects []effect) {
	it.effects, it.phase = effects, phaseReady
	es.l.Batches.ready = append(es.l.Batches.ready, it)
	es.l.resolved(it)
}

// resolved lets those go on that waited for it to be evaluated.
func (l *Leader) resolved(it *Item) {
	waiting := it.onReady
	it.onReady = nil
	l.unblock(waiting)
}

// awaitAhead makes it wait until the overlapping writers ahead of it have left the table, and
// returns how many those are.
func (es *evaluations) awaitAhead(it *Item) int {
	es.l.tab.conflicts(it, func(x *Item) {
		if x.writes() && x.seq < it.seq {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	})
	return it.blockers
}

// readsOnly: it writes nothing. It hides from later requests, and is answered once those that it
// was evaluated against are applied, at a fenced revision.
func (es *evaluations) readsOnly(it *Item) {
	n := es.awaitAhead(it)
	it.phase = phaseReadsOnly
	es.l.tab.unindex(it)
	es.l.resolved(it)
	if n == 0 {
		es.l.runq = append(es.l.runq, it)
	}
}

// ---- events: requests that write nothing

// askCurrent fetches the revision at which it will be evaluated as a whole.
func (es *evaluations) askCurrent(it *Item) {
	it.phase = phaseFencing
	es.askRevision(it, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case it.phase == phaseDone:
		case err != nil:
			es.l.finish(it, nil, unasked(err))
		case epoch < es.l.m.Epoch: // of an oracle that has been replaced
			es.askAgain(it)
		default:
			it.At = rev
			es.l.Fences.Fence(&Fence{Acc: it.Fp.Acc, Rev: rev, Epoch: epoch, Done: func(_ uint64, err error) {
				switch {
				case it.phase == phaseDone:
				case errorsIsStale(err):
					es.askAgain(it)
				case err != nil:
					es.l.finish(it, nil, err)
				default:
					es.l.Emit(Action{Kind: ActEvaluate, Item: it})
				}
			}})
		}
	})
}

func (es *evaluations) askAgain(it *Item) {
	if it.tries++; it.tries > es.l.lim.Tries {
		es.l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	es.askCurrent(it)
}

// askRevision joins the next question for Current, on behalf of it, which may be nil.
func (es *evaluations) askRevision(it *Item, fn func(rev int64, epoch shard.Epoch, err error)) {
	r := es.openCurrent
	if r == nil {
		r = &round{id: es.l.id()}
		es.openCurrent = r
		es.currents[r.id] = r
		es.l.Emit(Action{Kind: ActCurrent, Id: r.id})
	}
	r.current = append(r.current, revisionWaiter{it, fn})
}

// Current answers a question for Current.
func (es *evaluations) Current(id uint64, rev int64, epoch shard.Epoch, err error) {
	r := es.currents[id]
	delete(es.currents, id)
	if r == nil || es.l.dead {
		return
	}
	if err == nil && epoch >= es.l.m.Epoch {
		es.l.known = max(es.l.known, rev)
	}
	for _, w := range r.current {
		w.fn(rev, epoch, err)
	}
	es.l.Run()
}

// Evaluated is the outcome at the fenced revision: an answer, or that the request would write, or
// that the revision could not be read any more.
func (es *evaluations) Evaluated(it *Item, res *pb.Result, wouldWrite, again bool, err error) {
	switch {
	case it.phase == phaseDone || es.l.dead:
	case wouldWrite:
		es.l.again(it)
	case again:
		es.askAgain(it)
	case err != nil:
		es.l.finish(it, nil, err)
	default:
		es.l.finish(it, &pb.WriteResponse{Result: res, Revision: it.At, Term: es.l.Term}, nil)
	}
	es.l.Run()
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
	l.Attachments.unpark(it)
	it.forgetPrediction()
	it.phase = phaseDone
	l.tab.leave(it)
	l.Attachments.forgetExpiry(it)
	l.Participants.forgetPrepare(it)
	for _, f := range it.fences {
		l.Fences.fenceGone(f)
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
