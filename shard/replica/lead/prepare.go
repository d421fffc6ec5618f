package lead

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// This file is the leader's side of a transaction's participant: locking, carrying out the outcome,
// and finding the outcome out where nobody tells it.

// prepItem is what an item has that locks for a transaction.
type prepItem struct {
	id     apply.TxnID
	body   *pb.Prepare
	epoch  shard.Epoch // of the floor
	noWait bool        // it is refused where it would wait for a lock

	Expired int64 // an expiry: keys that it takes; -1: the id has been granted anew
	// Set once it has applied.
	Index     uint64
	Effective int64
	RangeEp   shard.Epoch
}

// NewPrepareItem makes the item of a request; reply gets no response, the prepItem says the rest.
func NewPrepareItem(req *pb.PrepareRequest, reply func(*pb.WriteResponse, error)) *Item {
	p := req.Prepare
	body := &pb.Prepare{ // a copy: an expiry fills in its keys, and the sender may send it again
		Id: p.Id, AnchorKey: p.AnchorKey, Participants: p.Participants, Read: p.Read, Write: p.Write,
		Floor: p.Floor, Lease: p.Lease, Leases: p.Leases,
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

// lockNothing lets an expiry that has come too late stand without effect.
func (p *prepItem) lockNothing() {
	p.body.Lease, p.body.Write, p.Expired = 0, nil, -1
}

// lockKeys makes the keys that an expiry takes its write spans.
func (p *prepItem) lockKeys(effects []effect) {
	p.Expired, p.body.Write = int64(len(effects)), make([]*pb.Span, len(effects))
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

// participants is a leader's side of transactions that lock here: their Prepares, the outcomes that they are
// told, and the questions about those that nobody tells.
type participants struct {
	l        *Leader
	preps    map[apply.TxnID]*Item // on their way to lock
	resolves []*pendingResolve     // in order of arrival
	// resolving and resolvingBytes count the outcomes that wait, and those that have been proposed.
	resolving, resolvingBytes int
	aborting                  map[apply.TxnID][]func(error) // Abort has been proposed
	asks                      map[apply.TxnID]*inquiry      // prepared here, outcome not heard of
}

func newParticipants(l *Leader) participants {
	return participants{
		l: l, preps: make(map[apply.TxnID]*Item),
		aborting: make(map[apply.TxnID][]func(error)), asks: make(map[apply.TxnID]*inquiry),
	}
}

// ---- locking

// Prepare takes a request to lock.
func (ps *participants) Prepare(it *Item) {
	if !ps.l.dead {
		if old := ps.preps[it.Prep.id]; old != nil {
			ps.l.finish(it, nil, fmt.Errorf("%w: the transaction is being prepared already", shard.ErrInvalid))
			return
		}
		ps.preps[it.Prep.id] = it
	}
	ps.l.Request(it)
}

func (ps *participants) forgetPrepare(it *Item) {
	if it.Prep != nil && ps.preps[it.Prep.id] == it {
		delete(ps.preps, it.Prep.id)
	}
}

// evaluatePrepare waits until those ahead on its spans have applied: what it reads is what they left.
func (ps *participants) evaluatePrepare(it *Item) {
	if ps.l.Evaluations.awaitAhead(it) > 0 {
		return
	}
	ps.proposePrepare(it)
}

// proposePrepare logs the Prepare. Later overlapping requests go on waiting until it has applied.
func (ps *participants) proposePrepare(it *Item) {
	p := it.Prep
	p.body.Leases = withoutMissing(p.body.Leases, it.Missing)
	it.phase = phasePreparing
	ps.l.Proposals.proposeEntry(&proposal{done: func(err error) { ps.prepareLogged(it, err) }},
		&pb.Entry{Epoch: uint64(p.epoch), Prepare: p.body})
}

func (ps *participants) prepareLogged(it *Item, err error) {
	p := it.Prep
	switch {
	case err == nil:
		st := ps.l.m.FindPrepared(p.id)
		if st == nil { // the transaction has been decided before
			ps.l.finish(it, nil, shard.ErrUnavailable)
			return
		}
		p.Index, p.Effective, p.RangeEp = ps.l.m.Index, st.Effective, ps.l.m.Epoch
		ps.l.finish(it, nil, nil)
	case errors.Is(err, apply.ErrLowEpoch):
		ps.l.finish(it, nil, shard.ErrStaleEpoch)
	case apply.Refusal(err) && !ps.l.dead && !p.noWait:
		ps.l.again(it)
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

// Resolve takes a transaction's outcome. done is told once it has applied, or why not. It may come
// again, and for a transaction that is not known here.
func (ps *participants) Resolve(body *pb.Resolve, epoch shard.Epoch, done func(error)) {
	id := apply.ToTxnID(body.Id)
	switch {
	case ps.l.dead:
		done(ps.l.NotLeader())
		return
	case !ps.l.own:
		done(shard.ErrUnavailable)
		return
	case ps.resolving >= ps.l.lim.Resolve || Over(ps.resolvingBytes, body.SizeVT(), ps.l.lim.ResolveBytes):
		done(shard.ErrTooManyRequests)
		return
	}
	known := ps.l.m.FindPrepared(id) != nil
	if it := ps.preps[id]; it != nil {
		known = true
		if it.phase != phasePreparing { // a queued Prepare dies with its coordinator (hazard 30)
			ps.l.finish(it, nil, shard.ErrConflict)
			known, ps.l.gaveUp = false, true
		}
	}
	if !known && !body.Committed {
		done(nil)
		return
	}
	// A commit is answered only from the log: a leader that has been deposed without knowing it may
	// not have the Prepare.
	size := body.SizeVT()
	ps.resolving++
	ps.resolvingBytes += size
	p := &pendingResolve{body: body, epoch: epoch, done: func(err error) {
		ps.resolving--
		ps.resolvingBytes -= size
		done(err)
	}}
	if n := len(ps.l.Batches.asked); n > 0 {
		p.after = ps.l.Batches.asked[n-1].id
	}
	ps.resolves = append(ps.resolves, p)
	ps.flushResolves()
}

// flushResolves proposes the outcomes that wait for no allocation any more.
func (ps *participants) flushResolves() {
	if ps.l.dead {
		return
	}
	for len(ps.resolves) > 0 {
		p := ps.resolves[0]
		if len(ps.l.Batches.asked) > 0 && ps.l.Batches.asked[0].id <= p.after {
			return
		}
		ps.resolves = ps.resolves[1:]
		ps.l.known = max(ps.l.known, p.body.Revision)
		ps.l.Proposals.proposeEntry(&proposal{done: p.done}, &pb.Entry{Epoch: uint64(p.epoch), Resolve: p.body})
	}
	ps.resolves = nil
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
func (ps *participants) tickAsks(now time.Time) {
	for id := range ps.asks {
		if ps.l.m.FindPrepared(id) == nil {
			delete(ps.asks, id)
		}
	}
	for _, p := range ps.l.m.Prepared {
		if ps.anchored(p) {
			if ps.l.Coordinations.coords[p.Id] == nil {
				ps.abort(p.Id, func(error) {})
			}
			continue
		}
		q := ps.asks[p.Id]
		if q == nil {
			q = &inquiry{due: now.Add(ps.l.lim.Patience)}
			ps.asks[p.Id] = q
		}
		if q.asking || now.Before(q.due) {
			continue
		}
		q.asking = true
		ps.l.Coordinations.Stats.Inquiries.Add(1)
		ps.l.Emit(Action{Kind: ActInquire, actionArgs: &actionArgs{Prepared: p, Span: ps.l.m.Desc.Span}})
	}
}

// anchored reports whether the transaction's record is here: it goes with the anchor key.
func (ps *participants) anchored(p *apply.Prepared) bool {
	return ps.l.m.Desc.Span.Contains(p.Body.AnchorKey)
}

// Inquired is the anchor's answer.
func (ps *participants) Inquired(id apply.TxnID, resp *pb.InquireResponse, err error) {
	q := ps.asks[id]
	if q == nil || ps.l.dead {
		return
	}
	later := func() { q.asking, q.due = false, ps.l.Now.Add(inquirePause) }
	if err != nil || resp.Pending {
		later()
		return
	}
	p := ps.l.m.FindPrepared(id)
	if p == nil {
		return
	}
	ps.Resolve(&pb.Resolve{Id: p.Body.Id, Committed: resp.Committed, Revision: resp.Revision, Effects: resp.Effects},
		shard.Epoch(resp.Epoch), func(err error) {
			if err != nil {
				later()
			}
		})
	ps.l.Run()
}

// Inquire answers what became of a transaction, from an applied decision only. Where only the Prepare
// stands and no coordinator is at it, Abort is logged first. Where nothing stands, this leader proves
// first that it leads: the Prepare may be in the log of another.
func (ps *participants) Inquire(id apply.TxnID, participant shard.Span, deadline time.Time, done func(*pb.InquireResponse, error)) {
	decided := func() bool {
		c := ps.l.m.Records[id]
		if c != nil {
			done(&pb.InquireResponse{Committed: true, Revision: c.Revision, Epoch: uint64(ps.l.m.Epoch),
				Effects: effectsIn(c, participant)}, nil)
		}
		return c != nil
	}
	switch {
	case ps.l.dead:
		done(nil, ps.l.NotLeader())
		return
	case !ps.l.own:
		done(nil, shard.ErrUnavailable)
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

// abortWaitersMax bounds those who wait for one transaction to be aborted: its coordinator, and its
// participants, which ask again as long as nobody answers.
const abortWaitersMax = 1024

// abort logs that the transaction is aborted, unless it is committed before; done is told when that
// has applied.
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
