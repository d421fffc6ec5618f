package replica

import (
	"errors"
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// fence makes the content of its accesses at revisions up to rev final, from the index that it is
// answered with.
type fence struct {
	acc      []access
	one      [1]access
	rev      int64
	epoch    shard.Epoch
	gen      shard.Generation // 0: not checked
	deadline time.Time
	size     int                           // bytes of its accesses, while it waits
	done     func(index uint64, err error) // called by the core: it may only emit actions

	waits  int // writes that it waits for
	proved bool
	commit uint64 // the commit index at its proof
	over   bool
}

func errorsIsStale(err error) bool { return errors.Is(err, shard.ErrStaleEpoch) }

// fence takes a fence. It was asked for after its revision had been handed out.
func (l *leader) fence(f *fence) {
	switch {
	case l.dead:
		l.endFence(f, 0, l.notLeader())
		return
	case !l.own:
		if len(l.earlyFences) >= l.lim.earlyWaiting || !l.holdFence(f) {
			l.endFence(f, 0, shard.ErrTooManyRequests)
			return
		}
		l.earlyFences = append(l.earlyFences, f)
		return
	case f.epoch < l.m.epoch:
		l.endFence(f, 0, shard.ErrStaleEpoch)
		return
	case len(l.fences) >= l.lim.fences || !l.holdFence(f):
		l.endFence(f, 0, shard.ErrTooManyRequests)
		return
	}
	l.fences = append(l.fences, f)
	l.known = max(l.known, f.rev)
	if f.epoch > l.m.epoch {
		l.raise(f.epoch)
	}
	l.awaitWrites(f)
	// The proof starts now: no earlier than the oracle's answer (hazards 2, 31).
	if l.openProof == nil {
		l.openProof = &round{id: l.id()}
		l.proofs[l.openProof.id] = l.openProof
		l.emit(action{kind: actConfirm, id: l.openProof.id})
	}
	l.openProof.fences = append(l.openProof.fences, f)
}

// holdFence counts the bytes of a fence, which are its client's, unless there are too many.
func (l *leader) holdFence(f *fence) bool {
	f.size = 0
	n := 0
	for i := range f.acc {
		n += len(f.acc[i].key) + len(f.acc[i].span.Start) + len(f.acc[i].span.End)
	}
	if over(l.fenceBytes, n, l.lim.fenceBytes) {
		return false
	}
	f.size = n
	l.fenceBytes += n
	return true
}

// raise logs a higher epoch, once.
func (l *leader) raise(epoch shard.Epoch) {
	if epoch <= l.raising {
		return
	}
	l.raising = epoch
	l.proposeEntry(&proposal{done: func(err error) {
		if err == nil {
			return
		}
		// Not in the log: whoever waits for it asks again.
		l.raising = 0
		for _, f := range slices.Clone(l.fences) {
			if f.epoch > l.m.epoch {
				l.endFence(f, 0, shard.ErrUnavailable)
			}
		}
	}}, &pb.Entry{Epoch: uint64(epoch), EpochRaise: &pb.EpochRaise{}})
}

// awaitWrites makes the fence wait for the overlapping writes that are in the table now and whose
// Allocate has been sent: they may get, or have got, a revision at or below its own. Those that
// come later get a higher one (hazard 18).
func (l *leader) awaitWrites(f *fence) {
	if mutate.On(mutate.FenceInFlight) {
		return
	}
	for i := range f.acc {
		l.tab.overlapping(&f.acc[i], func(x *item, b *access) {
			if !b.write || !(x.phase == phaseAsked || x.phase == phaseProposed && x.rev <= f.rev) {
				return
			}
			if slices.Contains(x.fences, f) {
				return
			}
			x.fences = append(x.fences, f)
			f.waits++
		})
	}
}

// releaseFences lets the fences below rev go that wait for it.
func (l *leader) releaseFences(it *item, rev int64) {
	if len(it.fences) == 0 {
		return
	}
	kept := it.fences[:0]
	for _, f := range it.fences {
		if f.rev >= rev {
			kept = append(kept, f)
			continue
		}
		l.fenceGone(f)
	}
	clear(it.fences[len(kept):])
	it.fences = kept
}

// fenceGone: one of the writes that f waits for is out of its way.
func (l *leader) fenceGone(f *fence) {
	f.waits--
	l.tryFence(f)
}

// proved answers a proof of leadership; commit is the commit index at that moment.
func (l *leader) proved(id uint64, ok bool, commit uint64) {
	r := l.proofs[id]
	delete(l.proofs, id)
	if r == nil || l.dead {
		return
	}
	for _, f := range r.fences {
		if f.over {
			continue
		}
		if !ok {
			l.endFence(f, 0, shard.ErrUnavailable)
			continue
		}
		f.proved, f.commit = true, commit
		l.proven = append(l.proven, f)
		l.tryFence(f)
	}
	l.dropOver()
	l.run()
}

func (l *leader) dropOver() {
	l.proven = slices.DeleteFunc(l.proven, func(f *fence) bool { return f.over })
}

// fencesApplied looks again at the fences that have their proof.
func (l *leader) fencesApplied(d *decision) {
	if len(l.proven) == 0 {
		return
	}
	for _, f := range slices.Clone(l.proven) {
		l.tryFence(f)
	}
	l.dropOver()
}

// tryFence answers the fence if nothing is left to wait for. Its place is checked only now
// (hazard 12).
func (l *leader) tryFence(f *fence) {
	if l.dead || f.over || !f.proved || f.waits > 0 || l.m.index < f.commit || l.m.epoch < f.epoch || l.fenceLocked(f) {
		return
	}
	switch {
	case l.m.epoch > f.epoch:
		l.endFence(f, 0, shard.ErrStaleEpoch)
	case f.gen != 0 && f.gen != l.m.desc.Generation:
		l.endFence(f, 0, l.wrongRange())
	case !l.m.within(&footprint{acc: f.acc}):
		l.endFence(f, 0, l.wrongRange())
	default:
		l.endFence(f, l.m.index, nil)
	}
}

// fenceLocked reports whether a prepared transaction may still write below the fence.
func (l *leader) fenceLocked(f *fence) bool {
	for _, p := range l.m.prepared {
		if p.floor >= f.rev {
			continue
		}
		for i := range f.acc {
			if p.write.overlaps(&f.acc[i]) {
				return true
			}
		}
	}
	return false
}

// endFence answers the fence, once.
func (l *leader) endFence(f *fence, index uint64, err error) {
	if f.over {
		return
	}
	f.over = true
	l.fenceBytes -= f.size
	if i := slices.Index(l.fences, f); i >= 0 {
		n := len(l.fences) - 1
		l.fences[i] = l.fences[n]
		l.fences[n] = nil
		l.fences = l.fences[:n]
	}
	f.done(index, err)
}

// locksChanged lets requests try again that waited for a lock.
func (l *leader) locksChanged() {
	waiting := l.lockWait
	l.lockWait = nil
	for _, it := range waiting {
		if it.phase == phaseBlocked {
			l.runq = append(l.runq, it)
		}
	}
}
