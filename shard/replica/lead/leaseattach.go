package lead

import (
	"bytes"
	"errors"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// A lease is attached to the range before a put with it is proposed, in this order: the half is
// logged as pending and has applied; meta attaches lease and span, or refuses; the half is logged as
// attached, right in front of the puts. One piece of work per lease does it for all puts that wait.
// A pending half that is found in the log is worth nothing: its put goes to meta (hazard 32).

// attachments brings leases to the range, and ends them. Its events are the answers of meta, and what
// becomes of its entries in the log.
type attachments struct {
	l         *Leader
	attaching map[int64]*leaseAttach
	parked    []*Item // outside the table: they wait for a lease
	// parkedBytes is what those hold that still wait.
	parkedBytes int
}

// attachStep is how far a leaseWork has come.
type attachStep uint8

const (
	attachLogging attachStep = iota // the pending half has been proposed
	attachAsking                    // meta has been asked
	attachLogged                    // the attached half has been proposed: puts may follow it
)

// leaseAttach attaches one lease.
type leaseAttach struct {
	lease   int64
	step    attachStep
	span    shard.Span
	waiting []*Item
	restart bool // an expiry has come between
}

// leasesAttached reports whether every lease of the request may be used; otherwise the request has
// been parked outside the table, and is admitted anew later.
func (as *attachments) leasesAttached(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if x := as.l.tab.expiring[lease]; x != nil {
			as.park(it)
			x.onGone = append(x.onGone, it)
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
		if w.step == attachLogged {
			continue
		}
		as.park(it)
		w.waiting = append(w.waiting, it)
		return false
	}
	return true
}

// leasesValid reports whether the halves of the request's leases are still there, or in the log in
// front of it.
func (as *attachments) leasesValid(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if w := as.attaching[lease]; w != nil && w.step == attachLogged {
			continue
		}
		if !as.l.m.LeaseUsable(lease) && !slices.Contains(it.Missing, lease) {
			return false
		}
	}
	return true
}

// park keeps sight of a request outside the table.
func (as *attachments) park(it *Item) {
	if it.phase != phaseLease {
		as.parkedBytes += it.Size
	}
	it.phase, it.blockers = phaseLease, 0
	if !it.parked {
		it.parked = true
		as.parked = append(as.parked, it)
	}
}

// unpark: it waits for no lease any more.
func (as *attachments) unpark(it *Item) {
	if it.phase == phaseLease {
		as.parkedBytes -= it.Size
	}
}

// dropUnparked forgets those that have moved on.
func (as *attachments) dropUnparked() {
	as.parked = slices.DeleteFunc(as.parked, func(it *Item) bool {
		if it.phase != phaseLease {
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
	w.step = attachLogging
	as.proposeAttachment(&pb.LeaseHalf{Lease: w.lease, Span: pb.FromSpan(w.span)}, func(err error) {
		switch {
		case err != nil:
			as.endAttach(w, err)
		case w.restart:
			as.startAttach(w)
		default:
			as.attach(w)
		}
	})
}

func (as *attachments) proposeAttachment(h *pb.LeaseHalf, done func(error)) {
	as.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if !as.l.dead {
			done(err)
		}
	}}, &pb.Entry{LeaseHalf: h})
}

func (as *attachments) attach(w *leaseAttach) {
	w.step = attachAsking
	as.l.Emit(Action{Kind: ActAttach, actionArgs: &actionArgs{Lease: w.lease, Span: w.span}})
}

// Attached is meta's answer.
func (as *attachments) Attached(lease int64, grant uint64, err error) {
	w := as.attaching[lease]
	if w == nil || w.step != attachAsking {
		return
	}
	defer as.l.Run()
	switch {
	case errors.Is(err, shard.ErrLeaseNotFound):
		// Only a half that has never been attached goes; nobody depends on one.
		as.proposeAttachment(&pb.LeaseHalf{Lease: lease, Remove: true}, func(error) {})
		for _, it := range w.waiting { // evaluation says whether the put is reached at all
			it.Missing = append(it.Missing, lease)
		}
		as.release(w)
		delete(as.attaching, lease)
		return
	case err != nil:
		as.endAttach(w, unasked(err))
		return
	case w.restart:
		as.startAttach(w)
		return
	}
	w.step = attachLogged
	h := &pb.LeaseHalf{Lease: lease, GrantIndex: grant, Span: pb.FromSpan(w.span), Attached: true}
	as.proposeAttachment(h, func(error) {
		// Applied, or refused: the machine says which.
		if as.attaching[lease] == w {
			delete(as.attaching, lease)
		}
	})
	as.release(w)
}

// detached: the attachment on which work for a lease was begun is gone, by the outcome of a transaction or
// by an answer of meta's that was on its way. What is logged now would find nothing that it could attach,
// and puts behind it would be refused with their revisions.
func (as *attachments) detached(lease int64) {
	w := as.attaching[lease]
	switch {
	case w == nil:
	case w.step == attachLogged:
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
		as.l.again(it)
	}
}

// release admits the puts that waited.
func (as *attachments) release(w *leaseAttach) {
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseLease {
			as.l.runq = append(as.l.runq, it)
		}
	}
}

func (as *attachments) endAttach(w *leaseAttach, err error) {
	delete(as.attaching, w.lease)
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseLease {
			as.l.finish(it, nil, err)
		}
	}
}

// ---- expiry

// admitExpiry lets an expiry into the table on its lease: it waits for the puts with the lease that
// are there, and later ones wait for it and then begin again at meta (hazard 5).
func (as *attachments) admitExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if x := as.l.tab.expiring[lease]; x != nil {
		as.park(it)
		x.onGone = append(x.onGone, it)
		it.blockers = 1
		return
	}
	as.l.tab.expiring[lease] = it
	if w := as.attaching[lease]; w != nil {
		w.restart = true
	}
	it.Fp.Acc, it.apart = nil, nil
	as.l.enter(it)
	if as.l.tab.leases[lease] == 0 {
		return
	}
	as.l.runq = slices.DeleteFunc(as.l.runq, func(x *Item) bool { return x == it })
	for x := as.l.tab.first; x != nil; x = x.next {
		if x != it && slices.Contains(x.Fp.Leases, lease) {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	}
}

// evaluateExpiry takes, first, the keys whose current lease it is as write spans, at the table's
// end, and then waits like everybody for those ahead on them (hazard 34).
func (as *attachments) evaluateExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if h := as.l.m.Attachments[lease]; h.Attached && it.Op.ExpireGrant != 0 && h.Grant > it.Op.ExpireGrant {
		// A request that was long on its way: that grant has ended here, and the id lives anew.
		if it.Prep != nil {
			it.Prep.lockNothing()
			as.l.Participants.proposePrepare(it)
			return
		}
		as.l.finish(it, as.emptyExpiry(), nil)
		return
	}
	p := it.foresight()
	switch {
	case p != nil && p.err != nil:
		as.l.finish(it, nil, p.err)
		return
	case it.apart == nil || it.apart.keys == nil && p == nil:
		as.l.Evaluations.predictApart(it)
		return
	case it.apart.keys == nil:
		as.takeKeys(it, p.keys)
		return
	}
	// Those ahead must not only be evaluated but applied: then what is left of the keys is exact.
	if as.l.Evaluations.awaitAhead(it) > 0 {
		return
	}
	if len(it.apart.keys) > 0 && p == nil {
		as.l.Evaluations.predictApart(it)
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
		as.l.Evaluations.becomeReady(it, effects)
		return
	}
	// Nothing to delete takes no revision; that the half goes is a proof of leadership as well.
	it.phase = phaseProposed
	as.l.tab.unindex(it)
	as.l.resolved(it)
	as.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			as.l.finish(it, nil, err)
			return
		}
		as.l.finish(it, as.emptyExpiry(), nil)
	}}, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: lease, Remove: true, Attached: true}})
}

// expiryPoints bounds the keys that an expiry enters the table with one by one. One with more takes the span
// that holds them all: whoever is in between waits for it as for a delete of that span, and nobody waits
// for a table of a million entries.
const expiryPoints = 1024

// takeKeys enters an expiry again, with what it deletes.
func (as *attachments) takeKeys(it *Item, keys [][]byte) {
	n := len(keys)
	if n <= expiryPoints {
		it.Fp.Acc = make([]eval.Access, n)
		for i, k := range keys {
			it.Fp.Acc[i] = eval.Access{Key: k, Write: true}
		}
	} else {
		it.Fp.Acc = []eval.Access{{Span: shard.Span{Start: keys[0], End: append(bytes.Clone(keys[n-1]), 0)}, Write: true}}
	}
	as.l.tab.leave(it)
	as.l.enter(it)
	if it.apart.keys = keys; keys == nil {
		it.apart.keys = [][]byte{}
	}
}

// emptyExpiry answers an expiry that found no key.
func (as *attachments) emptyExpiry() *pb.WriteResponse {
	return &pb.WriteResponse{Result: &pb.Result{Delete: &pb.DeleteResult{}}, Revision: as.l.known, Term: as.l.Term}
}

// forgetExpiry makes room for the next expiry of the lease.
func (as *attachments) forgetExpiry(it *Item) {
	if lease := it.Op.GetExpireLease(); lease != 0 && as.l.tab.expiring[lease] == it {
		delete(as.l.tab.expiring, lease)
	}
}
