package lead

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// This file is the leader's side of a participant of a transaction: it locks, applies the outcome, and
// inquires after an outcome that nobody sends.

// prepItem is the part of an item that locks for a transaction.
type prepItem struct {
	id     apply.TxnID
	body   *pb.Prepare
	epoch  shard.Epoch // of the floor
	noWait bool        // refused where it would wait for a lock

	proposedAt time.Time

	Expired int64 // an expiry: the number of its keys; -1: the id has been granted again
	// Set once it has applied.
	Index      uint64
	Effective  int64
	RangeEpoch shard.Epoch
}

// NewPrepareItem makes the item of a request to lock. reply gets no response: Item.Prep has the result.
func NewPrepareItem(req *pb.PrepareRequest, reply func(*pb.WriteResponse, error)) *Item {
	p := req.Prepare
	body := &pb.Prepare{ // a copy: an expiry adds its keys, and the sender may send it again
		Id: p.Id, AnchorKey: p.AnchorKey, Participants: p.Participants, Read: p.Read, Write: p.Write,
		Floor: p.Floor, Lease: p.Lease, Leases: p.Leases, ExpireSpan: p.ExpireSpan,
	}
	it := &Item{Reply: reply, Size: body.SizeVT() + ItemOverhead}
	it.Prep = &prepItem{id: apply.ToTxnID(body.Id), body: body, epoch: shard.Epoch(req.Epoch), noWait: req.NoWait}
	if body.Lease != 0 {
		it.Op = &pb.Op{ExpireLease: body.Lease, ExpireGrant: req.ExpireGrant}
		it.Fp.Expires = body.Lease
		it.Prep.noWait = false // it waits for the puts with its lease, whatever they wait for
		return it
	}
	it.Fp.AddSpans(body.Read, false)
	it.Fp.AddSpans(body.Write, true)
	for _, u := range body.Leases {
		it.Fp.AddLease(u.Lease)
	}
	return it
}

// expireSpan is the span that an expiry was sent for.
func (it *Item) expireSpan() *pb.Span {
	if it.Prep != nil {
		return it.Prep.body.ExpireSpan
	}
	return it.Op.ExpireSpan
}

// expireNothing makes an expiry that has come too late one without effect.
func (p *prepItem) expireNothing() {
	p.body.Lease, p.body.Write, p.Expired = 0, nil, -1
}

// lockKeys locks the keys of an expiry.
func (p *prepItem) lockKeys(effects []effect) {
	p.Expired, p.body.Write = int64(len(effects)), make([]*pb.Span, len(effects))
	for i := range effects {
		p.body.Write[i] = pb.FromSpan(shard.Point(effects[i].key))
	}
}

// TxnStats counts what the replicas of a node do for transactions over several ranges. Safe for
// concurrent use.
type TxnStats struct {
	// Committed and Failed are transactions by what their clients were told. Retried counts attempts
	// that were aborted, for a lock or a failure, and tried again.
	Committed, Failed, Retried atomic.Int64
	// Inquiries counts inquiries after locks that have been held for an election timeout.
	Inquiries atomic.Int64
}

// participants is the leader's side of transactions that lock here: their Prepares, the outcomes that arrive,
// and inquiries after those that do not.
type participants struct {
	l               *Leader
	preparing       map[apply.TxnID]*Item // not applied yet
	pendingResolves []*pendingResolve     // in order of arrival
	// resolving and resolvingBytes count the outcomes that wait or have been proposed.
	resolving, resolvingBytes int
	aborting                  map[apply.TxnID][]func(error) // Abort has been proposed
	inquiries                 map[apply.TxnID]*inquiry      // of what is prepared here and not resolved
}

func newParticipants(l *Leader) participants {
	return participants{
		l: l, preparing: make(map[apply.TxnID]*Item),
		aborting: make(map[apply.TxnID][]func(error)), inquiries: make(map[apply.TxnID]*inquiry),
	}
}

// ---- locking

// Prepare takes a request to lock.
func (ps *participants) Prepare(it *Item) {
	if !ps.l.deposed {
		old, is := ps.preparing[it.Prep.id], (*pb.Prepare)(nil)
		if st := ps.l.m.FindPrepared(it.Prep.id); old != nil {
			is = old.Prep.body
		} else if st != nil {
			is = st.Body
		}
		if is != nil && !apply.SamePart(is, it.Prep.body) && !mutate.On(mutate.PrepareAny) { // another part, which was planned for another range
			ps.l.finish(it, nil, ps.l.m.WrongRange())
			return
		}
		if old != nil {
			ps.l.finish(it, nil, fmt.Errorf("%w: the transaction is being prepared already", shard.ErrInvalid))
			return
		}
		ps.preparing[it.Prep.id] = it
	}
	ps.l.Request(it)
}

func (ps *participants) forgetPrepare(it *Item) {
	if it.Prep != nil && ps.preparing[it.Prep.id] == it {
		delete(ps.preparing, it.Prep.id)
	}
}

// evaluatePrepare waits until the writers ahead on its spans have applied, because it reads what they wrote.
func (ps *participants) evaluatePrepare(it *Item) {
	if ps.l.Evaluations.awaitConflicting(it) > 0 {
		return
	}
	ps.proposePrepare(it)
}

// proposePrepare logs the Prepare. Later overlapping requests wait until it has applied.
func (ps *participants) proposePrepare(it *Item) {
	p := it.Prep
	p.body.Leases = withoutMissing(p.body.Leases, it.Missing)
	it.phase, p.proposedAt = phasePreparing, ps.l.Now
	ps.l.Proposals.proposeEntry(&proposal{done: func(err error) { ps.prepareLogged(it, err) }},
		&pb.Entry{Epoch: uint64(p.epoch), Prepare: p.body})
}

func (ps *participants) prepareLogged(it *Item, err error) {
	p := it.Prep
	switch {
	case err == nil:
		st := ps.l.m.FindPrepared(p.id)
		if st == nil { // the transaction is decided already
			ps.l.finish(it, nil, shard.ErrUnavailable)
			return
		}
		p.Index, p.Effective, p.RangeEpoch = ps.l.m.Index, st.Effective, ps.l.m.Epoch
		ps.l.Coordinations.anchorLocked(p.id, ps.l.Now.Sub(p.proposedAt))
		ps.l.finish(it, nil, nil)
	case errors.Is(err, apply.ErrLowEpoch):
		ps.l.finish(it, nil, shard.ErrStaleEpoch)
	case apply.Refusal(err) && !ps.l.deposed && !p.noWait:
		ps.l.restart(it)
	case apply.Refusal(err):
		ps.l.finish(it, nil, shard.ErrConflict)
	default:
		ps.l.finish(it, nil, err)
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

// ---- outcomes

// pendingResolve is an outcome that waits until every plain write whose Allocate was in flight has been
// proposed or dropped. Otherwise a lower revision could follow a higher one in the range's feed (hazard 23).
type pendingResolve struct {
	body  *pb.Resolve
	epoch shard.Epoch
	after uint64 // the last allocation in flight
	done  func(error)
}

// Resolve takes a transaction's outcome. done is called once it has applied, or with the reason why not. An
// outcome may arrive repeatedly, and for a transaction that is not known here. But it is acknowledged only where the
// participant's key is held: nobody else can say that the participant needs it no more (hazard 60).
func (ps *participants) Resolve(body *pb.Resolve, epoch shard.Epoch, done func(error)) {
	id := apply.ToTxnID(body.Id)
	switch {
	case ps.l.deposed:
		done(ps.l.NotLeader())
		return
	case !ps.l.ownTermApplied:
		done(shard.ErrUnavailable)
		return
	case !ps.l.holdsKey(body.Key) && !mutate.On(mutate.ResolveNoKey):
		done(ps.l.m.WrongRange())
		return
	case ps.resolving >= ps.l.lim.Resolutions || Exceeds(ps.resolvingBytes, body.SizeVT(), ps.l.lim.ResolutionBytes):
		done(shard.ErrTooManyRequests)
		return
	}
	known := ps.l.m.FindPrepared(id) != nil
	if it := ps.preparing[id]; it != nil {
		known = true
		if it.phase != phasePreparing { // a queued Prepare dies with its coordinator (hazard 30)
			ps.l.finish(it, nil, shard.ErrConflict)
			known, ps.l.staleWaiters = false, true
		}
	}
	if !known && !body.Committed {
		done(nil)
		return
	}
	// A commit is acknowledged only from the log: a leader that does not know that it is deposed may lack the
	// Prepare.
	size := body.SizeVT()
	ps.resolving++
	ps.resolvingBytes += size
	p := &pendingResolve{body: body, epoch: epoch, done: func(err error) {
		ps.resolving--
		ps.resolvingBytes -= size
		done(ps.l.refused(err))
	}}
	if n := len(ps.l.Batches.allocating); n > 0 {
		p.after = ps.l.Batches.allocating[n-1].id
	}
	ps.pendingResolves = append(ps.pendingResolves, p)
	ps.flushResolves()
}

// holdsKey reports whether the range holds a key that a request names; an empty one is not asked for.
func (l *Leader) holdsKey(key []byte) bool { return len(key) == 0 || l.m.Desc.Span.Contains(key) }

// refused is what its sender hears of an entry that apply has refused because the range does not hold its keys.
func (l *Leader) refused(err error) error {
	if errors.Is(err, apply.ErrOutsideSpan) {
		return l.m.WrongRange()
	}
	return err
}

// flushResolves proposes the outcomes whose allocations ahead have been answered.
func (ps *participants) flushResolves() {
	if ps.l.deposed {
		return
	}
	for len(ps.pendingResolves) > 0 {
		p := ps.pendingResolves[0]
		if len(ps.l.Batches.allocating) > 0 && ps.l.Batches.allocating[0].id <= p.after {
			return
		}
		ps.pendingResolves = ps.pendingResolves[1:]
		ps.l.maxAllocated = max(ps.l.maxAllocated, p.body.Revision)
		ps.l.Proposals.proposeEntry(&proposal{done: p.done}, &pb.Entry{Epoch: uint64(p.epoch), Resolve: p.body})
	}
	ps.pendingResolves = nil
}

// ---- inquiries

// inquiry asks the anchor for the outcome of a transaction that is prepared here.
type inquiry struct {
	nextAt   time.Time
	inFlight bool
}

// inquiryInterval is the pause between two inquiries. The first is made after Limits.LockTimeout.
const inquiryInterval = 200 * time.Millisecond

// tickInquiries inquires after what has been prepared for long. A transaction that is anchored here and has no
// coordinator in this term is aborted: its coordinator ended with its term.
func (ps *participants) tickInquiries(now time.Time) {
	for id := range ps.inquiries {
		if ps.l.m.FindPrepared(id) == nil {
			delete(ps.inquiries, id)
		}
	}
	for _, p := range ps.l.m.Prepared {
		if ps.anchored(p) {
			if ps.l.Coordinations.coords[p.Id] == nil {
				ps.abort(p.Id, func(error) {})
			}
			continue
		}
		q := ps.inquiries[p.Id]
		if q == nil {
			q = &inquiry{nextAt: now.Add(ps.l.lim.LockTimeout)}
			ps.inquiries[p.Id] = q
		}
		if q.inFlight || now.Before(q.nextAt) {
			continue
		}
		q.inFlight = true
		ps.l.Coordinations.Stats.Inquiries.Add(1)
		ps.l.Emit(Action{Kind: ActInquire, actionArgs: &actionArgs{Prepared: p, Span: ps.l.m.Desc.Span}})
	}
}

// anchored reports whether the transaction's record belongs here: it follows the anchor key.
func (ps *participants) anchored(p *apply.Prepared) bool {
	return ps.l.m.Desc.Span.Contains(p.Body.AnchorKey)
}

// Inquired takes the anchor's answer.
func (ps *participants) Inquired(id apply.TxnID, resp *pb.InquireResponse, err error) {
	q := ps.inquiries[id]
	if q == nil || ps.l.deposed {
		return
	}
	later := func() { q.inFlight, q.nextAt = false, ps.l.Now.Add(inquiryInterval) }
	if err != nil || resp.Pending {
		later()
		return
	}
	p := ps.l.m.FindPrepared(id)
	if p == nil {
		return
	}
	ps.Resolve(&pb.Resolve{Id: p.Body.Id, Committed: resp.Committed, Revision: resp.Revision, Effects: resp.Effects, Key: resp.Effects.GetParticipantKey()},
		shard.Epoch(resp.Epoch), func(err error) {
			if err != nil {
				later()
			}
		})
	ps.l.Run()
}

// Inquire answers with the outcome of a transaction, from an applied decision only. A Prepare without a
// coordinator is aborted first. Without a Prepare the leadership is confirmed first, because another leader
// may have logged one. The answer comes only while the anchor key is held: the record goes with that key, so whoever
// does not hold it knows nothing (hazard 61).
func (ps *participants) Inquire(id apply.TxnID, anchorKey []byte, participant shard.Span, deadline time.Time, done func(*pb.InquireResponse, error)) {
	held := func() bool { return ps.l.holdsKey(anchorKey) || mutate.On(mutate.InquireNoKey) }
	decided := func() bool {
		c := ps.l.m.Records[id]
		if c != nil {
			done(&pb.InquireResponse{Committed: true, Revision: c.Revision, Epoch: uint64(ps.l.m.Epoch),
				Effects: effectsIn(c, participant)}, nil)
		}
		return c != nil
	}
	switch {
	case ps.l.deposed:
		done(nil, ps.l.NotLeader())
		return
	case !ps.l.ownTermApplied:
		done(nil, shard.ErrUnavailable)
		return
	case !held():
		done(nil, ps.l.m.WrongRange())
		return
	case decided():
		return
	case ps.l.Coordinations.coords[id] != nil:
		done(&pb.InquireResponse{Pending: true}, nil)
		return
	}
	after := func(err error) {
		switch {
		case err != nil:
			done(nil, err)
		case !held():
			done(nil, ps.l.m.WrongRange())
		case decided():
		case ps.l.Coordinations.coords[id] != nil || ps.l.m.FindPrepared(id) != nil:
			done(&pb.InquireResponse{Pending: true}, nil)
		default:
			done(&pb.InquireResponse{Epoch: uint64(ps.l.m.Epoch)}, nil)
		}
	}
	if ps.l.m.FindPrepared(id) != nil {
		ps.abort(id, after)
		return
	}
	ps.l.Fences.Fence(&Fence{Epoch: ps.l.m.Epoch, Deadline: deadline, Done: func(_ uint64, err error) { after(err) }})
}

func effectsIn(c *pb.Commit, span shard.Span) *pb.Effects {
	for _, eff := range c.Effects {
		if span.Contains(eff.ParticipantKey) {
			return eff
		}
	}
	return nil
}

// abortWaitersMax bounds the waiters for one Abort: the coordinator, and participants that repeat their
// inquiries.
const abortWaitersMax = 1024

// abort logs Abort, which has no effect behind a Commit. done is called when it has applied.
func (ps *participants) abort(id apply.TxnID, done func(error)) {
	waiting, under := ps.aborting[id]
	if len(waiting) >= abortWaitersMax {
		done(shard.ErrTooManyRequests)
		return
	}
	ps.aborting[id] = append(waiting, done)
	if under {
		return
	}
	ps.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		fns := ps.aborting[id]
		delete(ps.aborting, id)
		for _, fn := range fns {
			fn(err)
		}
	}}, &pb.Entry{Abort: &pb.Abort{Id: id.ToPB()}})
}
