package lead

import (
	"bytes"
	"errors"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// A lease is attached to the range before a put with it is proposed, in three steps:
//
//  1. The attachment is logged as pending, and has applied.
//  2. Meta attaches the lease to the span, or refuses.
//  3. The attachment is logged as attached, right in front of the puts.
//
// One leaseAttach per lease does this for all puts that wait. A pending attachment in the log permits nothing:
// its put goes to meta (hazard 32).

// attachments attaches leases to the range, and ends them. Its events are the answers of meta and the outcomes
// of its entries.
type attachments struct {
	l         *Leader
	attaching map[int64]*leaseAttach
	parked    []*Item // outside the table: they wait for a lease
	// parkedBytes is the size of those that still wait.
	parkedBytes int
}

// attachStep is the state of a leaseAttach.
type attachStep uint8

const (
	attachPending  attachStep = iota // the pending attachment has been proposed
	attachAtMeta                     // meta has been called
	attachProposed                   // the attachment has been proposed: puts may follow it
)

// leaseAttach attaches one lease.
type leaseAttach struct {
	lease   int64
	step    attachStep
	span    shard.Span
	waiting []*Item
	restart bool // an expiry has intervened
}

// leasesAttached reports whether every lease of the request may be used. Otherwise the request has been parked
// outside the table, and is admitted again later.
func (as *attachments) leasesAttached(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if x := as.l.tab.expiring[lease]; x != nil {
			as.park(it)
			x.leaveWaiters = append(x.leaveWaiters, it)
			it.blockers = 1
			return false
		}
		if as.l.m.LeaseUsable(lease) || slices.Contains(it.Missing, lease) {
			continue
		}
		w := as.attaching[lease]
		if w == nil && len(as.attaching) >= as.l.lim.Attaching {
			as.l.finish(it, nil, shard.ErrTooManyRequests)
			return false
		}
		if w == nil {
			w = &leaseAttach{lease: lease}
			as.attaching[lease] = w
			as.startAttach(w)
		}
		if w.step == attachProposed {
			continue
		}
		as.park(it)
		w.waiting = append(w.waiting, it)
		return false
	}
	return true
}

// leasesValid reports whether the request's leases are still attached, or are attached in the log in front
// of it.
func (as *attachments) leasesValid(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if w := as.attaching[lease]; w != nil && w.step == attachProposed {
			continue
		}
		if !as.l.m.LeaseUsable(lease) && !slices.Contains(it.Missing, lease) {
			return false
		}
	}
	return true
}

// park lists a request that waits outside the table.
func (as *attachments) park(it *Item) {
	if it.phase != phaseAttaching {
		as.parkedBytes += it.Size
	}
	it.phase, it.blockers = phaseAttaching, 0
	if !it.parked {
		it.parked = true
		as.parked = append(as.parked, it)
	}
}

// unpark is called when it waits for no lease any more.
func (as *attachments) unpark(it *Item) {
	if it.phase == phaseAttaching {
		as.parkedBytes -= it.Size
	}
}

// dropUnparked unlists the requests that wait no longer.
func (as *attachments) dropUnparked() {
	as.parked = slices.DeleteFunc(as.parked, func(it *Item) bool {
		if it.phase != phaseAttaching {
			it.parked = false
		}
		return !it.parked
	})
}

func (as *attachments) startAttach(w *leaseAttach) {
	w.restart = false
	w.span = as.l.m.Desc.Span
	if _, stands := as.l.m.Attachments[w.lease]; stands {
		as.attach(w)
		return
	}
	w.step = attachPending
	as.proposeAttachment(&pb.LeaseHalf{Lease: w.lease, Span: pb.FromSpan(w.span)}, func(err error) {
		switch {
		case err != nil:
			as.failAttach(w, err)
		case w.restart:
			as.startAttach(w)
		default:
			as.attach(w)
		}
	})
}

func (as *attachments) proposeAttachment(h *pb.LeaseHalf, done func(error)) {
	as.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if !as.l.deposed {
			done(err)
		}
	}}, &pb.Entry{LeaseHalf: h})
}

func (as *attachments) attach(w *leaseAttach) {
	w.step = attachAtMeta
	as.l.Emit(Action{Kind: ActAttach, actionArgs: &actionArgs{Lease: w.lease, Span: w.span}})
}

// Attached takes meta's answer.
func (as *attachments) Attached(lease int64, grant uint64, err error) {
	w := as.attaching[lease]
	if w == nil || w.step != attachAtMeta {
		return
	}
	defer as.l.Run()
	switch {
	case errors.Is(err, shard.ErrLeaseNotFound):
		// This removes only a pending attachment, on which nothing depends.
		as.proposeAttachment(&pb.LeaseHalf{Lease: lease, Remove: true}, func(error) {})
		for _, it := range w.waiting { // evaluation decides whether the put is reached at all
			it.Missing = append(it.Missing, lease)
		}
		as.release(w)
		delete(as.attaching, lease)
		return
	case err != nil:
		as.failAttach(w, oracleError(err))
		return
	case w.restart:
		as.startAttach(w)
		return
	}
	w.step = attachProposed
	h := &pb.LeaseHalf{Lease: lease, GrantIndex: grant, Span: pb.FromSpan(w.span), Attached: true}
	as.proposeAttachment(h, func(error) {
		// Applied or refused: the machine has the result.
		if as.attaching[lease] == w {
			delete(as.attaching, lease)
		}
	})
	as.release(w)
}

// detached is told that a lease's attachment has been removed, by a transaction or by a late answer of meta.
// An entry that attaches it now would find nothing to attach. Puts behind that would be refused with their
// revisions, so they begin again.
func (as *attachments) detached(lease int64) {
	w := as.attaching[lease]
	switch {
	case w == nil:
	case w.step == attachProposed:
		delete(as.attaching, lease)
	default:
		w.restart = true
	}
	var late []*Item
	as.l.Batches.ready = slices.DeleteFunc(as.l.Batches.ready, func(it *Item) bool {
		gone := slices.Contains(it.Fp.Leases, lease) && !as.leasesValid(it)
		if gone {
			late = append(late, it)
		}
		return gone
	})
	for _, it := range late {
		as.l.restart(it)
	}
}

// release admits the requests that waited.
func (as *attachments) release(w *leaseAttach) {
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseAttaching {
			as.l.runq = append(as.l.runq, it)
		}
	}
}

func (as *attachments) failAttach(w *leaseAttach, err error) {
	delete(as.attaching, w.lease)
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseAttaching {
			as.l.finish(it, nil, err)
		}
	}
}

// ---- expiry

// admitExpiry enters an expiry into the table on its lease. It waits for the puts with the lease that are in
// the table. Later puts wait for it, and then begin again at meta (hazard 5).
func (as *attachments) admitExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if x := as.l.tab.expiring[lease]; x != nil {
		as.park(it)
		x.leaveWaiters = append(x.leaveWaiters, it)
		it.blockers = 1
		return
	}
	as.l.tab.expiring[lease] = it
	if w := as.attaching[lease]; w != nil {
		w.restart = true
	}
	it.Fp.Acc, it.async = nil, nil
	as.l.enter(it)
	if as.l.tab.leases[lease] == 0 {
		return
	}
	as.l.runq = slices.DeleteFunc(as.l.runq, func(x *Item) bool { return x == it })
	for x := as.l.tab.first; x != nil; x = x.next {
		if x != it && slices.Contains(x.Fp.Leases, lease) {
			x.leaveWaiters = append(x.leaveWaiters, it)
			it.blockers++
		}
	}
}

// evaluateExpiry first finds the keys that carry the lease and enters the table again with them. It then waits
// for the writers ahead on those keys, as every request does (hazard 34).
func (as *attachments) evaluateExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if h := as.l.m.Attachments[lease]; h.Attached && it.Op.ExpireGrant != 0 && h.Grant > it.Op.ExpireGrant {
		// A late request: that grant has ended here, and the id has been granted again.
		if it.Prep != nil {
			it.Prep.expireNothing()
			as.l.Participants.proposePrepare(it)
			return
		}
		as.l.finish(it, as.emptyExpiry(), nil)
		return
	}
	p := it.takePredicted()
	switch {
	case p != nil && p.err != nil:
		as.l.finish(it, nil, p.err)
		return
	case it.async == nil || it.async.keys == nil && p == nil:
		as.l.Evaluations.predictAsync(it)
		return
	case it.async.keys == nil:
		as.reenterWithKeys(it, p.keys)
		return
	}
	// The writers ahead must have applied. Then it is exact which keys are left.
	if as.l.Evaluations.awaitConflicting(it) > 0 {
		return
	}
	if len(it.async.keys) > 0 && p == nil {
		as.l.Evaluations.predictAsync(it)
		return
	}
	var effects []effect
	if p != nil {
		effects = p.effects
	}
	switch {
	case it.Prep != nil:
		it.Prep.lockKeys(effects)
		as.l.Participants.proposePrepare(it)
		return
	case len(effects) > 0:
		as.l.Evaluations.markReady(it, effects)
		return
	}
	// Nothing to delete takes no revision. The entry that detaches the lease confirms the leadership too.
	it.phase = phaseProposed
	as.l.tab.unindex(it)
	as.l.wakeEvaluated(it)
	as.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			as.l.finish(it, nil, err)
			return
		}
		as.l.finish(it, as.emptyExpiry(), nil)
	}}, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: lease, Remove: true, Attached: true}})
}

// expiryPointsMax bounds the keys with which an expiry enters the table one by one. One with more enters with the
// span that holds them all, so requests in between wait for it. That is cheaper than a million entries of the
// table.
const expiryPointsMax = 1024

// reenterWithKeys enters an expiry again with the keys that it deletes.
func (as *attachments) reenterWithKeys(it *Item, keys [][]byte) {
	n := len(keys)
	if n <= expiryPointsMax {
		it.Fp.Acc = make([]eval.Access, n)
		for i, k := range keys {
			it.Fp.Acc[i] = eval.Access{Key: k, Write: true}
		}
	} else {
		it.Fp.Acc = []eval.Access{{Span: shard.Span{Start: keys[0], End: append(bytes.Clone(keys[n-1]), 0)}, Write: true}}
	}
	as.l.tab.leave(it)
	as.l.enter(it)
	if it.async.keys = keys; keys == nil {
		it.async.keys = [][]byte{}
	}
}

// emptyExpiry answers an expiry that found no key.
func (as *attachments) emptyExpiry() *pb.WriteResponse {
	return &pb.WriteResponse{Result: &pb.Result{Delete: &pb.DeleteResult{}}, Revision: as.l.maxAllocated, Term: as.l.Term}
}

// forgetExpiry lets the next expiry of the lease into the table.
func (as *attachments) forgetExpiry(it *Item) {
	if lease := it.Op.GetExpireLease(); lease != 0 && as.l.tab.expiring[lease] == it {
		delete(as.l.tab.expiring, lease)
	}
}
