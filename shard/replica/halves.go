package replica

import (
	"errors"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// A lease is attached to the range before a put with it is proposed, in this order: the half is
// logged as pending and has applied; meta attaches lease and span, or refuses; the half is logged as
// attached, right in front of the puts. One piece of work per lease does it for all puts that wait.
// A pending half that is found in the log is worth nothing: its put goes to meta (hazard 32).

// workStep is how far a leaseWork has come.
type workStep uint8

const (
	workLogging   workStep = iota // the pending half has been proposed
	workAttaching                 // meta has been asked
	workLogged                    // the attached half has been proposed: puts may follow it
)

// leaseWork attaches one lease.
type leaseWork struct {
	lease   int64
	step    workStep
	span    shard.Span
	waiting []*item
	restart bool // an expiry has come between
}

// leasesReady reports whether every lease of the request may be used; otherwise the request has
// been parked outside the table, and is admitted anew later.
func (l *leader) leasesReady(it *item) bool {
	for _, lease := range it.fp.leases {
		if x := l.tab.expiring[lease]; x != nil {
			l.park(it)
			x.onGone = append(x.onGone, it)
			it.blockers = 1
			return false
		}
		if l.m.halfReady(lease) || slices.Contains(it.missing, lease) {
			continue
		}
		w := l.works[lease]
		if w == nil && len(l.works) >= l.lim.works {
			l.finish(it, nil, shard.ErrTooManyRequests)
			return false
		}
		if w == nil {
			w = &leaseWork{lease: lease}
			l.works[lease] = w
			l.startWork(w)
		}
		if w.step == workLogged {
			continue
		}
		l.park(it)
		w.waiting = append(w.waiting, it)
		return false
	}
	return true
}

// leasesStand reports whether the halves of the request's leases are still there, or in the log in
// front of it.
func (l *leader) leasesStand(it *item) bool {
	for _, lease := range it.fp.leases {
		if w := l.works[lease]; w != nil && w.step == workLogged {
			continue
		}
		if !l.m.halfReady(lease) && !slices.Contains(it.missing, lease) {
			return false
		}
	}
	return true
}

// park keeps sight of a request outside the table.
func (l *leader) park(it *item) {
	if it.phase != phaseLease {
		l.parkedBytes += it.size
	}
	it.phase, it.blockers = phaseLease, 0
	if !it.parked {
		it.parked = true
		l.parked = append(l.parked, it)
	}
}

// unpark: it waits for no lease any more.
func (l *leader) unpark(it *item) {
	if it.phase == phaseLease {
		l.parkedBytes -= it.size
	}
}

// dropUnparked forgets those that have moved on.
func (l *leader) dropUnparked() {
	l.parked = slices.DeleteFunc(l.parked, func(it *item) bool {
		if it.phase != phaseLease {
			it.parked = false
		}
		return !it.parked
	})
}

func (l *leader) startWork(w *leaseWork) {
	w.restart = false
	w.span = l.m.desc.Span
	if _, stands := l.m.halves[w.lease]; stands {
		l.attach(w)
		return
	}
	w.step = workLogging
	l.proposeHalf(&pb.LeaseHalf{Lease: w.lease, Span: pb.FromSpan(w.span)}, func(err error) {
		switch {
		case err != nil:
			l.endWork(w, err)
		case w.restart:
			l.startWork(w)
		default:
			l.attach(w)
		}
	})
}

func (l *leader) proposeHalf(h *pb.LeaseHalf, done func(error)) {
	l.proposeEntry(&proposal{done: func(err error) {
		if !l.dead {
			done(err)
		}
	}}, &pb.Entry{LeaseHalf: h})
}

func (l *leader) attach(w *leaseWork) {
	w.step = workAttaching
	l.emit(action{kind: actAttach, actionArgs: &actionArgs{lease: w.lease, span: w.span}})
}

// attached is meta's answer.
func (l *leader) attached(lease int64, grant uint64, err error) {
	w := l.works[lease]
	if w == nil || w.step != workAttaching {
		return
	}
	defer l.run()
	switch {
	case errors.Is(err, shard.ErrLeaseNotFound):
		// Only a half that has never been attached goes; nobody depends on one.
		l.proposeHalf(&pb.LeaseHalf{Lease: lease, Remove: true}, func(error) {})
		for _, it := range w.waiting { // evaluation says whether the put is reached at all
			it.missing = append(it.missing, lease)
		}
		l.release(w)
		delete(l.works, lease)
		return
	case err != nil:
		l.endWork(w, unasked(err))
		return
	case w.restart:
		l.startWork(w)
		return
	}
	w.step = workLogged
	h := &pb.LeaseHalf{Lease: lease, GrantIndex: grant, Span: pb.FromSpan(w.span), Attached: true}
	l.proposeHalf(h, func(error) {
		// Applied, or refused: the machine says which.
		if l.works[lease] == w {
			delete(l.works, lease)
		}
	})
	l.release(w)
}

// release admits the puts that waited.
func (l *leader) release(w *leaseWork) {
	waiting := w.waiting
	w.waiting = nil
	for _, it := range waiting {
		if it.phase == phaseLease {
			l.runq = append(l.runq, it)
		}
	}
}

func (l *leader) endWork(w *leaseWork, err error) {
	delete(l.works, w.lease)
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
func (l *leader) admitExpiry(it *item) {
	lease := it.op.GetExpireLease()
	if x := l.tab.expiring[lease]; x != nil {
		l.park(it)
		x.onGone = append(x.onGone, it)
		it.blockers = 1
		return
	}
	l.tab.expiring[lease] = it
	if w := l.works[lease]; w != nil {
		w.restart = true
	}
	it.fp.acc, it.keysKnown = nil, false
	l.enter(it)
	if l.tab.leases[lease] == 0 {
		return
	}
	l.runq = slices.DeleteFunc(l.runq, func(x *item) bool { return x == it })
	for x := l.tab.first; x != nil; x = x.next {
		if x != it && slices.Contains(x.fp.leases, lease) {
			x.onGone = append(x.onGone, it)
			it.blockers++
		}
	}
}

// evaluateExpiry takes, first, the keys whose current lease it is as write spans, at the table's
// end, and then waits like everybody for those ahead on them (hazard 34).
func (l *leader) evaluateExpiry(it *item) {
	lease := it.op.GetExpireLease()
	if h := l.m.halves[lease]; h.attached && it.op.ExpireGrant != 0 && h.grant > it.op.ExpireGrant {
		// A request that was long on its way: that grant has ended here, and the id lives anew.
		if it.prep != nil {
			it.prep.lockNothing()
			l.proposePrepare(it)
			return
		}
		l.finish(it, l.nothingDeleted(), nil)
		return
	}
	if !it.keysKnown {
		keys, err := l.base.LeaseKeys(lease, 0)
		if err != nil {
			l.finish(it, nil, err)
			return
		}
		it.keysKnown = true
		it.fp.acc = make([]access, len(keys))
		for i, k := range keys {
			it.fp.acc[i] = access{key: k, write: true}
		}
		l.tab.leave(it)
		l.enter(it)
		return
	}
	// Those ahead must not only be evaluated but applied: then what is left of the keys is exact.
	if l.awaitAhead(it) > 0 {
		return
	}
	var effects []effect
	for i := range it.fp.acc {
		kv, ok, err := l.view.baseHead(it.fp.acc[i].key)
		if err != nil {
			l.finish(it, nil, err)
			return
		}
		if ok && kv.Lease == lease {
			effects = append(effects, effect{key: it.fp.acc[i].key, delete: true})
		}
	}
	switch {
	case it.prep != nil:
		it.prep.lockKeys(effects)
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
		l.finish(it, l.nothingDeleted(), nil)
	}}, &pb.Entry{LeaseHalf: &pb.LeaseHalf{Lease: lease, Remove: true, Attached: true}})
}

// nothingDeleted answers an expiry that found no key.
func (l *leader) nothingDeleted() *pb.WriteResponse {
	return &pb.WriteResponse{Result: &pb.Result{Delete: &pb.DeleteResult{}}, Revision: l.known, Term: l.term}
}

// forgetExpiry makes room for the next expiry of the lease.
func (l *leader) forgetExpiry(it *item) {
	if lease := it.op.GetExpireLease(); lease != 0 && l.tab.expiring[lease] == it {
		delete(l.tab.expiring, lease)
	}
}
