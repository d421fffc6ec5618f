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
func (l *Leader) leasesAttached(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if x := l.tab.expiring[lease]; x != nil {
			l.park(it)
			x.onGone = append(x.onGone, it)
			it.blockers = 1
			return false
		}
		if l.m.LeaseUsable(lease) || slices.Contains(it.Missing, lease) {
			continue
		}
		w := l.attaching[lease]
		if w == nil && len(l.attaching) >= l.lim.Attaching {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return false
		}
		if w == nil {
			w = &leaseAttach{lease: lease}
			l.attaching[lease] = w
			l.startAttach(w)
		}
		if w.step == attachLogged {
			continue
		}
		l.park(it)
		w.waiting = append(w.waiting, it)
		return false
	}
	return true
}

// leasesValid reports whether the halves of the request's leases are still there, or in the log in
// front of it.
func (l *Leader) leasesValid(it *Item) bool {
	for _, lease := range it.Fp.Leases {
		if w := l.attaching[lease]; w != nil && w.step == attachLogged {
			continue
		}
		if !l.m.LeaseUsable(lease) && !slices.Contains(it.Missing, lease) {
			return false
		}
	}
	return true
}

// park keeps sight of a request outside the table.
func (l *Leader) park(it *Item) {
	if it.phase != phaseLease {
		l.parkedBytes += it.Size
	}
	it.phase, it.blockers = phaseLease, 0
	if !it.parked {
		it.parked = true
		l.parked = append(l.parked, it)
	}
}

// unpark: it waits for no lease any more.
func (l *Leader) unpark(it *Item) {
	if it.phase == phaseLease {
		l.parkedBytes -= it.Size
	}
}

// dropUnparked forgets those that have moved on.
func (l *Leader) dropUnparked() {
	l.parked = slices.DeleteFunc(l.parked, func(it *Item) bool {
		if it.phase != phaseLease {
			it.parked = false
		}
		return !it.parked
	})
}

func (l *Leader) startAttach(w *leaseAttach) {
	w.restart = false
	w.span = l.m.Desc.Span
	if _, stands := l.m.Attachments[w.lease]; stands {
		l.attach(w)
		return
	}
	w.step = attachLogging
	l.proposeAttachment(&pb.LeaseHalf{Lease: w.lease, Span: pb.FromSpan(w.span)}, func(err error) {
		switch {
		case err != nil:
			l.endAttach(w, err)
		case w.restart:
			l.startAttach(w)
		default:
			l.attach(w)
		}
	})
}

func (l *Leader) proposeAttachment(h *pb.LeaseHalf, done func(error)) {
	l.proposeEntry(&proposal{done: func(err error) {
		if !l.dead {
			done(err)
		}
	}}, &pb.Entry{LeaseHalf: h})
}

func (l *Leader) attach(w *leaseAttach) {
	w.step = attachAsking
	l.Emit(Action{Kind: ActAttach, actionArgs: &actionArgs{Lease: w.lease, Span: w.span}})
}

// Attached is meta's answer.
func (l *Leader) Attached(lease int64, grant uint64, err error) {
	w := l.attaching[lease]
	if w == nil || w.step != attachAsking {
		return
	}
	defer l.Run()
	switch {
	case errors.Is(err, shard.ErrLeaseNotFound):
		// Only a half that has never been attached goes; nobody depends on one.
		l.proposeAttachment(&pb.LeaseHalf{Lease: lease, Remove: true}, func(error) {})
		for _, it := range w.waiting { // evaluation says whether the put is reached at all
			it.Missing = append(it.Missing, lease)
		}
		l.release(w)
		delete(l.attaching, lease)
		return
	case err != nil:
		l.endAttach(w, unasked(err))
		return
	case w.restart:
		l.startAttach(w)
		return
	}
	w.step = attachLogged
	h := &pb.LeaseHalf{Lease: lease, GrantIndex: grant, Span: pb.FromSpan(w.span), Attached: true}
	l.proposeAttachment(h, func(error) {
		// Applied, or refused: the machine says which.
		if l.attaching[lease] == w {
			delete(l.attaching, lease)
		}
	})
	l.release(w)
}

// detached: the attachment on which work for a lease was begun is gone, by the outcome of a transaction or
// by an answer of meta's that was on its way. What is logged now would find nothing that it could attach,
// and puts behind it would be refused with their revisions.
func (l *Leader) detached(lease int64) {
	w := l.attaching[lease]
	switch {
	case w == nil:
	case w.step == attachLogged:
		delete(l.attaching, lease)
	default:
		w.restart = true
	}
	var late []*Item
	l.ready = slices.DeleteFunc(l.ready, func(it *Item) bool {
		gone := slices.Contains(it.Fp.Leases, lease) && !l.leasesValid(it)
		if gone {
			late = append(late, it)
		}
		return gone
	})
	for _, it := range late {
		l.again(it)
	}
}

// release admits the puts that waited.
func (l *Leader) release(w *leaseAttach) {
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseLease {
			l.runq = append(l.runq, it)
		}
	}
}

func (l *Leader) endAttach(w *leaseAttach, err error) {
	delete(l.attaching, w.lease)
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseLease {
			l.finish(it, nil, err)
		}
	}
}

// ---- expiry

// admitExpiry lets an expiry into the table on its lease: it waits for the puts with the lease that
// are there, and later ones wait for it and then begin again at meta (hazard 5).
func (l *Leader) admitExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if x := l.tab.expiring[lease]; x != nil {
		l.park(it)
		x.onGone = append(x.onGone, it)
		it.blockers = 1
		return
	}
	l.tab.expiring[lease] = it
	if w := l.attaching[lease]; w != nil {
		w.restart = true
	}
	it.Fp.Acc, it.apart = nil, nil
	l.enter(it)
	if l.tab.leases[lease] == 0 {
		return
	}
	l.runq = slices.DeleteFunc(l.runq, func(x *Item) bool { return x == it })
	for x := l.tab.first; x != nil; x = x.next {
		if x != it && slices.Contains(x.Fp.Leases, lease) {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	}
}

// evaluateExpiry takes, first, the keys whose current lease it is as write spans, at the table's
// end, and then waits like everybody for those ahead on them (hazard 34).
func (l *Leader) evaluateExpiry(it *Item) {
	lease := it.Op.GetExpireLease()
	if h := l.m.Attachments[lease]; h.Attached && it.Op.ExpireGrant != 0 && h.Grant > it.Op.ExpireGrant {
		// A request that was long on its way: that grant has ended here, and the id lives anew.
		if it.Prep != nil {
			it.Prep.lockNothing()
			l.proposePrepare(it)
			return
		}
		l.finish(it, l.emptyExpiry(), nil)
		return
	}
	p := it.foresight()
	switch {
	case p != nil && p.err != nil:
		l.finish(it, nil, p.err)
		return
	case it.apart == nil || it.apart.keys == nil && p == nil:
		l.predictApart(it)
		return
	case it.apart.keys == nil:
		l.takeKeys(it, p.keys)
		return
	}
	// Those ahead must not only be evaluated but applied: then what is left of the keys is exact.
	if l.awaitAhead(it) > 0 {
		return
	}
	if len(it.apart.keys) > 0 && p == nil {
		l.predictApart(it)
		return
	}
	var effects []effect
	if p != nil {
		effects = p.effects
	}
	switch {
	case it.Prep != nil:
		it.Prep.lockKeys(effects)
		l.proposePrepare(it)
		return
	case len(effects) > 0:
		l.becomeReady(it, effects)
		return
	}
	// Nothing to delete takes no revision; that the half goes is a proof of leadership as well.
	it.phase = phaseProposed
	l.tab.unindex(it)
	l.resolved(it)
	l.proposeEntry(&proposal{done: func(err error) {
		if err != nil {
			l.finish(it, nil, err)
			return
		}
		l.finish(it, l.emptyExpiry(), nil)
	}}, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: lease, Remove: true, Attached: true}})
}

// expiryPoints bounds the keys that an expiry enters the table with one by one. One with more takes the span
// that holds them all: whoever is in between waits for it as for a delete of that span, and nobody waits
// for a table of a million entries.
const expiryPoints = 1024

// takeKeys enters an expiry again, with what it deletes.
func (l *Leader) takeKeys(it *Item, keys [][]byte) {
	n := len(keys)
	if n <= expiryPoints {
		it.Fp.Acc = make([]eval.Access, n)
		for i, k := range keys {
			it.Fp.Acc[i] = eval.Access{Key: k, Write: true}
		}
	} else {
		it.Fp.Acc = []eval.Access{{Span: shard.Span{Start: keys[0], End: append(bytes.Clone(keys[n-1]), 0)}, Write: true}}
	}
	l.tab.leave(it)
	l.enter(it)
	if it.apart.keys = keys; keys == nil {
		it.apart.keys = [][]byte{}
	}
}

// emptyExpiry answers an expiry that found no key.
func (l *Leader) emptyExpiry() *pb.WriteResponse {
	return &pb.WriteResponse{Result: &pb.Result{Delete: &pb.DeleteResult{}}, Revision: l.known, Term: l.Term}
}

// forgetExpiry makes room for the next expiry of the lease.
func (l *Leader) forgetExpiry(it *Item) {
	if lease := it.Op.GetExpireLease(); lease != 0 && l.tab.expiring[lease] == it {
		delete(l.tab.expiring, lease)
	}
}
