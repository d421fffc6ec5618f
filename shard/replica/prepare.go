package replica

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// This file is the leader's side of a transaction's participant: locking, carrying out the outcome,
// and finding the outcome out where nobody tells it.

// prepItem is what an item has that locks for a transaction.
type prepItem struct {
	id     txnID
	body   *pb.Prepare
	epoch  shard.Epoch // of the floor
	noWait bool        // it is refused where it would wait for a lock

	expired int64 // an expiry: keys that it takes; -1: the id has been granted anew
	// Set once it has applied.
	index     uint64
	effective int64
	rangeEp   shard.Epoch
}

// newPrepareItem makes the item of a request; reply gets no response, the prepItem says the rest.
func newPrepareItem(req *pb.PrepareRequest, reply func(*pb.WriteResponse, error)) *item {
	p := req.Prepare
	body := &pb.Prepare{ // a copy: an expiry fills in its keys, and the sender may send it again
		Id: p.Id, AnchorKey: p.AnchorKey, Participants: p.Participants, Read: p.Read, Write: p.Write,
		Floor: p.Floor, Lease: p.Lease, Leases: p.Leases,
	}
	it := &item{reply: reply, size: body.SizeVT() + itemOverhead}
	it.prep = &prepItem{id: toTxnID(body.Id), body: body, epoch: shard.Epoch(req.Epoch), noWait: req.NoWait}
	if body.Lease != 0 {
		it.op = &pb.Op{ExpireLease: body.Lease, ExpireGrant: req.ExpireGrant}
		it.fp.expires = body.Lease
		it.prep.noWait = false // it waits for the puts with its lease, whatever they wait for
		return it
	}
	it.fp.addSpans(body.Read, false)
	it.fp.addSpans(body.Write, true)
	for _, u := range body.Leases {
		it.fp.addLease(u.Lease)
	}
	return it
}

// lockNothing lets an expiry that has come too late stand without effect.
func (p *prepItem) lockNothing() {
	p.body.Lease, p.body.Write, p.expired = 0, nil, -1
}

// lockKeys makes the keys that an expiry takes its write spans.
func (p *prepItem) lockKeys(effects []effect) {
	p.expired, p.body.Write = int64(len(effects)), make([]*pb.Span, len(effects))
	for i := range effects {
		p.body.Write[i] = pb.FromSpan(shard.Point(effects[i].key))
	}
}

// TxnStats counts what the replicas of a node do for transactions over several ranges. Safe for
// concurrent use.
type TxnStats struct {
	// Committed and Failed are transactions by what their clients were told; Again counts attempts
	// that were undone, for a lock or a failure, and tried again.
	Committed, Failed, Again atomic.Int64
	// Inquiries counts questions about locks that nobody has ended for an election timeout.
	Inquiries atomic.Int64
}

// txnWork is what a leader does for transactions.
type txnWork struct {
	stats    *TxnStats
	preps    map[txnID]*item         // on their way to lock
	coords   map[txnID]*coordination // by the id of the present attempt
	idle     map[*coordination]bool  // between two attempts
	commits  []*coordination         // will commit, wait for a revision
	bytes    int                     // of requests that are coordinated, and of records
	resolves []*pendingResolve       // in order of arrival
	// resolving and resolvingBytes count the outcomes that wait, and those that have been proposed.
	resolving, resolvingBytes int
	records                   map[txnID]*resolution   // committed here, not resolved everywhere
	aborting                  map[txnID][]func(error) // Abort has been proposed
	asks                      map[txnID]*inquiry      // prepared here, outcome not heard of
}

func newTxnWork() txnWork {
	return txnWork{
		stats: &TxnStats{},
		preps: make(map[txnID]*item), coords: make(map[txnID]*coordination), idle: make(map[*coordination]bool),
		records: make(map[txnID]*resolution), aborting: make(map[txnID][]func(error)), asks: make(map[txnID]*inquiry),
	}
}

// ---- locking

// prepare takes a request to lock.
func (l *leader) prepare(it *item) {
	if !l.dead {
		if old := l.txns.preps[it.prep.id]; old != nil {
			l.finish(it, nil, fmt.Errorf("%w: the transaction is being prepared already", shard.ErrInvalid))
			return
		}
		l.txns.preps[it.prep.id] = it
	}
	l.request(it)
}

func (l *leader) forgetPrepare(it *item) {
	if it.prep != nil && l.txns.preps[it.prep.id] == it {
		delete(l.txns.preps, it.prep.id)
	}
}

// evaluatePrepare waits until those ahead on its spans have applied: what it reads is what they left.
func (l *leader) evaluatePrepare(it *item) {
	if l.awaitAhead(it) > 0 {
		return
	}
	l.proposePrepare(it)
}

// proposePrepare logs the Prepare. Later overlapping requests go on waiting until it has applied.
func (l *leader) proposePrepare(it *item) {
	p := it.prep
	p.body.Leases = withoutMissing(p.body.Leases, it.missing)
	it.phase = phasePreparing
	l.proposeEntry(&proposal{done: func(err error) { l.prepareLogged(it, err) }},
		&pb.Entry{Epoch: uint64(p.epoch), Prepare: p.body})
}

func (l *leader) prepareLogged(it *item, err error) {
	p := it.prep
	switch {
	case err == nil:
		st := l.m.findPrepared(p.id)
		if st == nil { // the transaction has been decided before
			l.finish(it, nil, shard.ErrUnavailable)
			return
		}
		p.index, p.effective, p.rangeEp = l.m.index, st.effective, l.m.epoch
		l.finish(it, nil, nil)
	case errors.Is(err, errLowEpoch):
		l.finish(it, nil, shard.ErrStaleEpoch)
	case refusal(err) && !l.dead && !p.noWait:
		l.again(it)
	case refusal(err):
		l.finish(it, nil, shard.ErrConflict)
	default:
		l.finish(it, nil, err)
	}
}

func withoutMissing(uses []*pb.LeaseUse, missing []int64) []*pb.LeaseUse {
	if len(missing) == 0 {
		return uses
	}
	var kept []*pb.LeaseUse
	for _, u := range uses {
		if !slices.Contains(missing, u.Lease) {
			kept = append(kept, u)
		}
	}
	return kept
}

// ---- carrying out the outcome

// pendingResolve is an outcome that waits until every plain write whose Allocate was under way has
// been proposed or dropped: else a lower revision would follow a higher one in the range's feed
// (hazard 23).
type pendingResolve struct {
	body  *pb.Resolve
	epoch shard.Epoch
	after uint64 // the last allocation under way
	done  func(error)
}

// resolve takes a transaction's outcome. done is told once it has applied, or why not. It may come
// again, and for a transaction that is not known here.
func (l *leader) resolve(body *pb.Resolve, epoch shard.Epoch, done func(error)) {
	id := toTxnID(body.Id)
	switch {
	case l.dead:
		done(l.notLeader())
		return
	case !l.own:
		done(shard.ErrUnavailable)
		return
	case l.txns.resolving >= l.lim.resolve || over(l.txns.resolvingBytes, body.SizeVT(), l.lim.resolveBytes):
		done(shard.ErrTooManyRequests)
		return
	}
	known := l.m.findPrepared(id) != nil
	if it := l.txns.preps[id]; it != nil {
		known = true
		if it.phase != phasePreparing { // a queued Prepare dies with its coordinator (hazard 30)
			l.finish(it, nil, shard.ErrConflict)
			known, l.gaveUp = false, true
		}
	}
	if !known && !body.Committed {
		done(nil)
		return
	}
	// A commit is answered only from the log: a leader that has been deposed without knowing it may
	// not have the Prepare.
	size := body.SizeVT()
	l.txns.resolving++
	l.txns.resolvingBytes += size
	p := &pendingResolve{body: body, epoch: epoch, done: func(err error) {
		l.txns.resolving--
		l.txns.resolvingBytes -= size
		done(err)
	}}
	if n := len(l.asked); n > 0 {
		p.after = l.asked[n-1].id
	}
	l.txns.resolves = append(l.txns.resolves, p)
	l.flushResolves()
}

// flushResolves proposes the outcomes that wait for no allocation any more.
func (l *leader) flushResolves() {
	if l.dead {
		return
	}
	for len(l.txns.resolves) > 0 {
		p := l.txns.resolves[0]
		if len(l.asked) > 0 && l.asked[0].id <= p.after {
			return
		}
		l.txns.resolves = l.txns.resolves[1:]
		l.known = max(l.known, p.body.Revision)
		l.proposeEntry(&proposal{done: p.done}, &pb.Entry{Epoch: uint64(p.epoch), Resolve: p.body})
	}
	l.txns.resolves = nil
}

// ---- finding the outcome out

// inquiry asks the anchor, by key, what became of a transaction that is prepared here.
type inquiry struct {
	due    time.Time
	asking bool
}

// The pause between two questions, after the first that comes when the lock's patience has ended.
const inquirePause = 200 * time.Millisecond

// tickAsks asks for what has been prepared for long. A transaction that is anchored here and has no
// coordinator in this term is aborted: its coordinator has died with its term.
func (l *leader) tickAsks(now time.Time) {
	for id := range l.txns.asks {
		if l.m.findPrepared(id) == nil {
			delete(l.txns.asks, id)
		}
	}
	for _, p := range l.m.prepared {
		if l.anchored(p) {
			if l.txns.coords[p.id] == nil {
				l.abort(p.id, func(error) {})
			}
			continue
		}
		q := l.txns.asks[p.id]
		if q == nil {
			q = &inquiry{due: now.Add(l.lim.patience)}
			l.txns.asks[p.id] = q
		}
		if q.asking || now.Before(q.due) {
			continue
		}
		q.asking = true
		l.txns.stats.Inquiries.Add(1)
		l.emit(action{kind: actInquire, actionArgs: &actionArgs{prepared: p, span: l.m.desc.Span}})
	}
}

// anchored reports whether the transaction's record is here: it goes with the anchor key.
func (l *leader) anchored(p *prepared) bool { return l.m.desc.Span.Contains(p.body.AnchorKey) }

// inquired is the anchor's answer.
func (l *leader) inquired(id txnID, resp *pb.InquireResponse, err error) {
	q := l.txns.asks[id]
	if q == nil || l.dead {
		return
	}
	later := func() { q.asking, q.due = false, l.now.Add(inquirePause) }
	if err != nil || resp.Pending {
		later()
		return
	}
	p := l.m.findPrepared(id)
	if p == nil {
		return
	}
	l.resolve(&pb.Resolve{Id: p.body.Id, Committed: resp.Committed, Revision: resp.Revision, Effects: resp.Effects},
		shard.Epoch(resp.Epoch), func(err error) {
			if err != nil {
				later()
			}
		})
	l.run()
}

// inquire answers what became of a transaction, from an applied decision only. Where only the Prepare
// stands and no coordinator is at it, Abort is logged first. Where nothing stands, this leader proves
// first that it leads: the Prepare may be in the log of another.
func (l *leader) inquire(id txnID, participant shard.Span, deadline time.Time, done func(*pb.InquireResponse, error)) {
	decided := func() bool {
		c := l.m.records[id]
		if c != nil {
			done(&pb.InquireResponse{Committed: true, Revision: c.Revision, Epoch: uint64(l.m.epoch),
				Effects: effectsIn(c, participant)}, nil)
		}
		return c != nil
	}
	switch {
	case l.dead:
		done(nil, l.notLeader())
		return
	case !l.own:
		done(nil, shard.ErrUnavailable)
		return
	case decided():
		return
	case l.txns.coords[id] != nil:
		done(&pb.InquireResponse{Pending: true}, nil)
		return
	}
	after := func(err error) {
		switch {
		case err != nil:
			done(nil, err)
		case decided():
		case l.txns.coords[id] != nil || l.m.findPrepared(id) != nil:
			done(&pb.InquireResponse{Pending: true}, nil)
		default:
			done(&pb.InquireResponse{Epoch: uint64(l.m.epoch)}, nil)
		}
	}
	if l.m.findPrepared(id) != nil {
		l.abort(id, after)
		return
	}
	l.fence(&fence{epoch: l.m.epoch, deadline: deadline, done: func(_ uint64, err error) { after(err) }})
}

func effectsIn(c *pb.Commit, span shard.Span) *pb.Effects {
	for _, eff := range c.Effects {
		if span.Contains(eff.ParticipantKey) {
			return eff
		}
	}
	return nil
}

// abortWaitersMax bounds those who wait for one transaction to be aborted: its coordinator, and its
// participants, which ask again as long as nobody answers.
const abortWaitersMax = 1024

// abort logs that the transaction is aborted, unless it is committed before; done is told when that
// has applied.
func (l *leader) abort(id txnID, done func(error)) {
	waiting, under := l.txns.aborting[id]
	if len(waiting) >= abortWaitersMax {
		done(shard.ErrTooManyRequests)
		return
	}
	l.txns.aborting[id] = append(waiting, done)
	if under {
		return
	}
	l.proposeEntry(&proposal{done: func(err error) {
		fns := l.txns.aborting[id]
		delete(l.txns.aborting, id)
		for _, fn := range fns {
			fn(err)
		}
	}}, &pb.Entry{Abort: &pb.Abort{Id: id.toPB()}})
}
