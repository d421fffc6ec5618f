package lead

import "slices"

// Over reports whether n bytes more than there are would be too many. One alone is always let in,
// however large it is: its size is bounded where it was sent.
func Over(have, n, limit int) bool { return have > 0 && have+n > limit }

// forget takes those who have given up out of every list in which they wait. What they wait for may be
// long in coming: a lock whose anchor has no quorum, an entry that is not applied, an oracle that is not
// there. Whoever comes and gives up meanwhile must not stay, operation and all.
func (l *Leader) forget() {
	l.gaveUp = false
	gone := func(it *Item) bool { return it.phase == phaseDone }
	over := func(f *Fence) bool { return f.over }
	l.Evaluations.earlyItems = slices.DeleteFunc(l.Evaluations.earlyItems, func(it *Item) bool {
		if gone(it) {
			l.Evaluations.earlyBytes -= it.Size
		}
		return gone(it)
	})
	l.Fences.earlyFences = slices.DeleteFunc(l.Fences.earlyFences, over)
	l.Evaluations.lockWait = slices.DeleteFunc(l.Evaluations.lockWait, gone)
	l.Fences.dropOver()
	for it := l.tab.first; it != nil; it = it.next {
		it.onReady = slices.DeleteFunc(it.onReady, gone)
		it.onGone = slices.DeleteFunc(it.onGone, gone)
		it.fences = slices.DeleteFunc(it.fences, over)
	}
	for _, w := range l.Attachments.attaching {
		w.waiting = slices.DeleteFunc(w.waiting, gone)
	}
	for _, r := range l.Evaluations.currents {
		r.current = slices.DeleteFunc(r.current, func(w revisionWaiter) bool { return w.it != nil && gone(w.it) })
	}
	for id, r := range l.Fences.proofs {
		r.fences = slices.DeleteFunc(r.fences, over)
		if len(r.fences) == 0 && r != l.Fences.openProof {
			delete(l.Fences.proofs, id) // its answer is of no use to anybody
		}
	}
}
