package lead

import (
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
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
	Proposals  int              // entries proposed and not applied; beyond, requests wait for the next batch
	BatchDelay bool             // batches are closed on batch ticks
	Clock      func() time.Time // measures the latency of batches
	// Settings are the newest that the node knows; nil: the first are in force for ever. It must not block.
	Settings      func() *placement.Settings
	Retries       int // restarts of one request
	Coordinations int // transactions coordinated at a time
	// CoordinationBytes bounds their requests, and the commit records that wait for participants.
	CoordinationBytes int
	Resolutions       int // outcomes of transactions that are not applied
	ResolutionBytes   int
	LockTimeout       time.Duration // then the coordinator of a lock aborts, unless logs are slow, and the holder inquires
	Election          time.Duration // an election timeout: no drain takes longer, no transfer more than a quarter, unless batches do
	EarlyWaiting      int           // requests and fences before the own term has applied
}

// batch is a group of requests that share an allocation and an entry.
type batch struct {
	id        uint64
	items     []*Item
	commits   []commitOf // instead of items: commits of transactions
	allocated bool
	first     int64
	epoch     shard.Epoch
	err       error
	closedAt  time.Time
}

// proposal is an entry that has been proposed.
type proposal struct {
	items    []*Item     // of a batch
	closedAt time.Time   // when that batch was closed
	done     func(error) // of any other entry; nil: applied, else it certainly has no effect
}

// sharedCall is a call that several waiters share. Nobody joins once it has been sent.
type sharedCall struct {
	id      uint64
	waiters []revisionWaiter
	fences  []*Fence
}

// revisionWaiter is told the current revision.
type revisionWaiter struct {
	it *Item // the request that waits; nil: none
	fn func(rev int64, epoch shard.Epoch, err error)
}

// term is which one it is, and where it stands.
type term struct {
	Term           uint64
	ownTermApplied bool // an entry of this term has applied
	deposed        bool // the leadership has ended; only proposed entries are still waited for
}

// Leader is one term of leadership: a pure core, events in and actions out.
type Leader struct {
	lim  Limits
	m    *apply.Machine
	base Base
	term

	tab          *table
	maxAllocated int64 // the highest revision that is known to be allocated
	runq         []*Item

	staleWaiters bool // a list of waiters may hold what has ended

	Evaluations   evaluations
	Batches       batches
	Proposals     proposals
	Fences        fences
	Attachments   attachments
	Coordinations coordinations
	Participants  participants
	Resolutions   resolutions
	Barriers      barriers

	Now time.Time // of the last tick
	Out []Action
}

// NewLeader begins term no over what m and base hold. The term serves once OwnTermApplied has been called.
func NewLeader(lim Limits, m *apply.Machine, base Base, no uint64) *Leader {
	if lim.Settings == nil {
		lim.Settings = func() *placement.Settings { return firstSettings }
	}
	l := &Leader{lim: lim, m: m, base: base, term: term{Term: no}, tab: newTable()}
	l.Evaluations = newEvaluations(l)
	l.Batches = batches{l: l}
	l.Proposals = proposals{l: l, proposals: make(map[uint64]*proposal)}
	l.Fences = fences{l: l, confirmCalls: make(map[uint64]*sharedCall)}
	l.Attachments = attachments{l: l, attaching: make(map[int64]*leaseAttach)}
	l.Coordinations = newCoordinations(l)
	l.Participants = newParticipants(l)
	l.Resolutions = resolutions{l: l, records: make(map[apply.TxnID]*resolution)}
	l.Barriers = barriers{l: l}
	return l
}

// TakeActions returns what is to be done. buf must be empty; the core keeps it for the next actions. Shared calls
// are sent by this, so nobody joins them any more.
func (l *Leader) TakeActions(buf []Action) []Action {
	out := l.Out
	l.Out = buf
	l.Evaluations.openCurrent, l.Fences.openConfirm = nil, nil
	return out
}

// Emit adds an action. It is the only method that a callback of the driver may call.
func (l *Leader) Emit(a Action) { l.Out = append(l.Out, a) }

func (l *Leader) id() uint64 {
	l.Proposals.nextID++
	return l.Proposals.nextID
}

// NotLeader is the error of requests that end with the term.
func (l *Leader) NotLeader() error {
	return &shard.NotLeaderError{Range: l.m.Desc.ID, Term: l.Term}
}

// ---- events: requests

// Request takes a new request, whose footprint is complete.
func (l *Leader) Request(it *Item) {
	if l.deposed {
		l.finish(it, nil, l.NotLeader())
		return
	}
	if !l.ownTermApplied {
		if len(l.Evaluations.earlyItems) >= l.lim.EarlyWaiting || Exceeds(l.Evaluations.earlyBytes, it.Size, l.lim.TableBytes) {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return
		}
		l.Evaluations.earlyItems = append(l.Evaluations.earlyItems, it)
		l.Evaluations.earlyBytes += it.Size
		return
	}
	if l.tab.count+len(l.Attachments.parked) >= l.lim.TableCount || Exceeds(l.tab.bytes+l.Attachments.parkedBytes, it.Size, l.lim.TableBytes) {
		l.finish(it, nil, shard.ErrTooManyRequests)
		return
	}
	if !l.Evaluations.judge(it) {
		return
	}
	l.admit(it)
	l.Run()
}

// OwnTermApplied is told that an entry of this term has applied. The applied state then holds everything that
// was committed in earlier terms (hazard 26).
func (l *Leader) OwnTermApplied() {
	if l.ownTermApplied || l.deposed {
		return
	}
	l.ownTermApplied = true
	l.Batches.lastProposed = l.m.Last
	l.advanceBase()
	l.Resolutions.recoverTxns()
	items, fences := l.Evaluations.earlyItems, l.Fences.earlyFences
	l.Evaluations.earlyItems, l.Evaluations.earlyBytes, l.Fences.earlyFences = nil, 0, nil
	for _, it := range items {
		if it.phase != phaseDone {
			l.Request(it)
		}
	}
	for _, f := range fences {
		if !f.ended {
			l.Fences.fenceBytes -= f.size
			l.Fences.Fence(f)
		}
	}
}

func (l *Leader) advanceBase() {
	l.Evaluations.predictor.at = max(l.Evaluations.predictor.at, l.m.Last, l.base.CompactRevision())
	l.maxAllocated = max(l.maxAllocated, l.Evaluations.predictor.at)
}

// admit enters a request into the table once its leases are attached.
func (l *Leader) admit(it *Item) {
	if l.deposed {
		l.finish(it, nil, l.NotLeader())
		return
	}
	if !l.holds(it) {
		l.finish(it, nil, l.m.WrongRange())
		return
	}
	if it.Op.GetExpireLease() != 0 {
		l.Attachments.admitExpiry(it)
		return
	}
	if len(it.Fp.Leases) > 0 && !l.Attachments.leasesAttached(it) {
		if it.Prep != nil && it.Prep.noWait && it.phase == phaseAttaching && it.blockers > 0 {
			l.finish(it, nil, shard.ErrConflict)
		}
		return
	}
	l.enter(it)
}

// holds reports whether the range holds every key that the request states.
func (l *Leader) holds(it *Item) bool {
	if it.Fp.Expires != 0 && !l.m.HoldsExpiry(it.expireSpan()) {
		return false
	}
	return l.m.Within(&it.Fp) || mutate.On(mutate.ApplyNoSpan)
}

// enter appends it to the table. It waits there for overlapping requests that are not evaluated yet.
func (l *Leader) enter(it *Item) {
	l.Attachments.unpark(it)
	it.dropPrediction()
	it.phase, it.rev, it.effects, it.blockers = phaseBlocked, 0, nil, 0
	l.tab.enter(it)
	if l.Barriers.item != nil {
		l.Barriers.await(it)
	}
	l.tab.conflicts(it, func(x *Item) {
		if x.blocksLater() && x.seq < it.seq {
			x.evalWaiters = append(x.evalWaiters, it)
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

// Run advances every request that waits for nothing.
func (l *Leader) Run() {
	for again := true; again; again = len(l.runq) > 0 { // whoever is refused when a batch is closed unblocks others
		for len(l.runq) > 0 {
			it := l.runq[0]
			l.runq = l.runq[1:]
			switch it.phase {
			case phaseAttaching:
				l.admit(it)
			case phaseBlocked:
				l.Evaluations.evaluate(it)
			case phaseReadOnly:
				l.Evaluations.fetchRevision(it)
			}
		}
		l.runq = l.runq[:0]
		l.Batches.flush()
	}
	if l.Barriers.item != nil {
		l.Barriers.advance()
	}
}

func (l *Leader) unblock(waiting []*Item) {
	for _, w := range waiting {
		if w.blockers--; w.blockers == 0 && w.phase != phaseDone {
			l.runq = append(l.runq, w)
		}
	}
}

// evaluate decides whether it will write, from the applied state and the writers ahead.
func (es *evaluations) evaluate(it *Item) {
	if es.l.m.Locked(&it.Fp) {
		if it.Prep != nil && it.Prep.noWait {
			es.l.finish(it, nil, shard.ErrConflict)
			return
		}
		it.dropPrediction() // the lock's outcome changes what it was evaluated on
		es.lockWaiters = append(es.lockWaiters, it)
		return
	}
	switch {
	case it.Op.GetExpireLease() != 0:
		es.l.Attachments.evaluateExpiry(it)
		return
	case !es.l.Attachments.leasesValid(it): // an expiry has detached a lease: it begins again at meta
		es.l.restart(it)
		return
	case it.Prep != nil:
		es.l.Participants.evaluatePrepare(it)
		return
	}
	if p := it.takePredicted(); p != nil {
		es.classify(it, p.out, p.effects, p.err, p.predictor.tab == emptyTable)
		return
	}
	if !es.predictsInline(it.Op) {
		es.predictAsync(it)
		return
	}
	es.predictor.maxAllocated, es.predictor.missing = es.l.maxAllocated, it.Missing
	out, effects, err := es.predictor.predict(it.Op, max(es.l.Proposals.maxCompaction, es.l.base.CompactRevision()))
	es.classify(it, out, effects, err, true)
}

// classify follows the evaluation of a request. final is false where the writers ahead, on which it was
// evaluated, may have applied meanwhile.
func (es *evaluations) classify(it *Item, out outcome, effects []effect, err error, final bool) {
	if err != nil {
		es.l.finish(it, nil, err)
		return
	}
	switch out {
	case writesSomething:
		es.markReady(it, effects)
	case dependsOnUnknown:
		switch {
		case es.awaitConflicting(it) > 0:
		case final:
			// The writers ahead have applied. The compare names a revision that nobody has yet.
			es.markReadOnly(it)
		default:
			es.l.runq = append(es.l.runq, it)
		}
	default:
		es.markReadOnly(it)
	}
}

func (es *evaluations) markReady(it *Item, effects []effect) {
	it.effects, it.phase = effects, phaseReady
	es.l.Batches.ready = append(es.l.Batches.ready, it)
	es.l.wakeEvaluated(it)
}

// wakeEvaluated unblocks the requests that waited for its evaluation.
func (l *Leader) wakeEvaluated(it *Item) {
	waiting := it.evalWaiters
	it.evalWaiters = nil
	l.unblock(waiting)
}

// awaitConflicting makes it wait until the overlapping writers ahead have left the table. It returns how many
// those are.
func (es *evaluations) awaitConflicting(it *Item) int {
	es.l.tab.conflicts(it, func(x *Item) {
		if x.writes() && x.seq < it.seq {
			x.leaveWaiters = append(x.leaveWaiters, it)
			it.blockers++
		}
	})
	return it.blockers
}

// markReadOnly lets it answer without a write. Later requests do not see it. It is answered at a fenced
// revision, after the writers on which it was evaluated have applied.
func (es *evaluations) markReadOnly(it *Item) {
	n := es.awaitConflicting(it)
	it.phase = phaseReadOnly
	es.l.tab.unindex(it)
	es.l.wakeEvaluated(it)
	if n == 0 {
		es.l.runq = append(es.l.runq, it)
	}
}

// ---- events: requests that write nothing

// fetchRevision fetches the revision at which it is evaluated as a whole.
func (es *evaluations) fetchRevision(it *Item) {
	it.phase = phaseFencing
	es.currentRevision(it, func(rev int64, epoch shard.Epoch, err error) {
		switch {
		case it.phase == phaseDone:
		case err != nil:
			es.l.finish(it, nil, oracleError(err))
		case epoch < es.l.m.Epoch: // of an oracle that has been replaced
			es.refetchRevision(it)
		case !es.judge(it):
		default:
			it.At = rev
			es.l.Fences.Fence(&Fence{Acc: it.Fp.Acc, Rev: rev, Epoch: epoch, Done: func(_ uint64, err error) {
				switch {
				case it.phase == phaseDone:
				case isStaleEpoch(err):
					es.refetchRevision(it)
				case err != nil:
					es.l.finish(it, nil, err)
				default:
					es.l.Emit(Action{Kind: ActEvaluate, Item: it})
				}
			}})
		}
	})
}

func (es *evaluations) refetchRevision(it *Item) {
	if it.retries++; it.retries > es.l.lim.Retries {
		es.l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	es.fetchRevision(it)
}

// currentRevision joins the next call of Current. it is the request that waits, or nil.
func (es *evaluations) currentRevision(it *Item, fn func(rev int64, epoch shard.Epoch, err error)) {
	r := es.openCurrent
	if r == nil {
		r = &sharedCall{id: es.l.id()}
		es.openCurrent = r
		es.currentCalls[r.id] = r
		es.l.Emit(Action{Kind: ActCurrent, Id: r.id})
	}
	r.waiters = append(r.waiters, revisionWaiter{it, fn})
}

// Current takes the oracle's current revision.
func (es *evaluations) Current(id uint64, rev int64, epoch shard.Epoch, err error) {
	r := es.currentCalls[id]
	delete(es.currentCalls, id)
	if r == nil || es.l.deposed {
		return
	}
	if err == nil && epoch >= es.l.m.Epoch {
		es.l.maxAllocated = max(es.l.maxAllocated, rev)
	}
	for _, w := range r.waiters {
		w.fn(rev, epoch, err)
	}
	es.l.Run()
}

// Evaluated takes the outcome at the fenced revision. wouldWrite: the request writes there. again: the revision
// has been compacted.
func (es *evaluations) Evaluated(it *Item, res *pb.Result, wouldWrite, again bool, err error) {
	switch {
	case it.phase == phaseDone || es.l.deposed:
	case wouldWrite:
		es.l.restart(it)
	case again:
		es.refetchRevision(it)
	case err != nil:
		es.l.finish(it, nil, err)
	default:
		es.l.finish(it, &pb.WriteResponse{Result: res, Revision: it.At, Term: es.l.Term}, nil)
	}
	es.l.Run()
}

// restart restarts a request that certainly had no effect.
func (l *Leader) restart(it *Item) {
	if it.replied { // its client has its answer
		l.remove(it)
		return
	}
	if it.retries++; it.retries > l.lim.Retries {
		l.finish(it, nil, shard.ErrUnavailable)
		return
	}
	l.remove(it)
	l.admit(it)
}

// remove takes it out of the table and unblocks the requests that waited for that.
func (l *Leader) remove(it *Item) {
	l.Attachments.unpark(it)
	it.dropPrediction()
	it.phase = phaseDone
	l.tab.leave(it)
	l.Attachments.forgetExpiry(it)
	l.Participants.forgetPrepare(it)
	for _, f := range it.fences {
		l.Fences.writeLeft(f)
	}
	it.fences = nil
	l.wakeEvaluated(it)
	waiting := it.leaveWaiters
	it.leaveWaiters = nil
	l.unblock(waiting)
}

// finish answers it and takes it out of the table.
func (l *Leader) finish(it *Item, resp *pb.WriteResponse, err error) {
	l.remove(it)
	l.reply(it, resp, err)
}

func (l *Leader) reply(it *Item, resp *pb.WriteResponse, err error) {
	if it.replied {
		return
	}
	it.replied = true
	l.Emit(Action{Kind: ActReply, Item: it, Resp: resp, Err: err})
}
