package lead

import "slices"

// Exceeds reports whether n bytes on top of have exceed limit. A single one never does, because its size is
// bounded where it was sent.
func Exceeds(have, n, limit int) bool { return have > 0 && have+n > limit }

// sweepWaiters removes what has ended from every list of waiters. What they wait for may take long: a lock whose
// anchor has no quorum, an entry that is not applied, an oracle that is not reachable. Requests that time out
// meanwhile must not hold memory.
func (l *Leader) sweepWaiters() {
	l.staleWaiters = false
	gone := func(it *Item) bool { return it.phase == phaseDone }
	over := func(f *Fence) bool { return f.ended }
	l.Evaluations.earlyItems = slices.DeleteFunc(l.Evaluations.earlyItems, func(it *Item) bool {
		if gone(it) {
			l.Evaluations.earlyBytes -= it.Size
		}
		return gone(it)
	})
	l.Fences.earlyFences = slices.DeleteFunc(l.Fences.earlyFences, over)
	l.Evaluations.lockWaiters = slices.DeleteFunc(l.Evaluations.lockWaiters, gone)
	l.Fences.dropEnded()
	for it := l.tab.first; it != nil; it = it.next {
		it.evalWaiters = slices.DeleteFunc(it.evalWaiters, gone)
		it.leaveWaiters = slices.DeleteFunc(it.leaveWaiters, gone)
		it.fences = slices.DeleteFunc(it.fences, over)
	}
	for _, w := range l.Attachments.attaching {
		w.waiting = slices.DeleteFunc(w.waiting, gone)
	}
	for _, r := range l.Evaluations.currentCalls {
		r.waiters = slices.DeleteFunc(r.waiters, func(w revisionWaiter) bool { return w.it != nil && gone(w.it) })
	}
	for id, r := range l.Fences.confirmCalls {
		r.fences = slices.DeleteFunc(r.fences, over)
		if len(r.fences) == 0 && r != l.Fences.openConfirm {
			delete(l.Fences.confirmCalls, id) // nobody needs its answer
		}
	}
}
