package lead

import (
	"errors"
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
)

// Fence makes the content of its accesses at revisions up to rev final, from the index that it is
// answered with.
type Fence struct {
	Acc      []eval.Access
	One      [1]eval.Access
	Rev      int64
	Epoch    shard.Epoch
	Gen      shard.Generation // 0: not checked
	Deadline time.Time
	size     int                           // bytes of its accesses, while it waits
	Done     func(index uint64, err error) // called by the core: it may only emit actions

	waits  int // writes that it waits for
	proved bool
	commit uint64 // the commit index at its proof
	over   bool
}

func errorsIsStale(err error) bool { return errors.Is(err, shard.ErrStaleEpoch) }

// Fence takes a fence. It was asked for after its revision had been handed out.
func (l *Leader) Fence(f *Fence) {
	switch {
	case l.dead:
		l.endFence(f, 0, l.NotLeader())
		return
	case !l.own:
		if len(l.earlyFences) >= l.lim.EarlyWaiting || !l.holdFence(f) {
			l.endFence(f, 0, shard.ErrTooManyRequests)
			return
		}
		l.earlyFences = append(l.earlyFences, f)
		return
	case f.Epoch < l.m.Epoch:
		l.endFence(f, 0, shard.ErrStaleEpoch)
		return
	case len(l.fences) >= l.lim.Fences || !l.holdFence(f):
		l.endFence(f, 0, shard.ErrTooManyRequests)
		return
	}
	l.fences = append(l.fences, f)
	l.known = max(l.known, f.Rev)
	if f.Epoch > l.m.Epoch {
		l.raise(f.Epoch)
	}
	l.awaitWrites(f)
	// The proof starts now: no earlier than the oracle's answer (hazards 2, 31).
	if l.openProof == nil {
		l.openProof = &round{id: l.id()}
		l.proofs[l.openProof.id] = l.openProof
		l.Emit(Action{Kind: ActConfirm, Id: l.openProof.id})
	}
	l.openProof.fences = append(l.openProof.fences, f)
}

// holdFence counts the bytes of a fence, which are its client's, unless there are too many.
func (l *Leader) holdFence(f *Fence) bool {
	f.size = 0
	n := 0
	for i := range f.Acc {
		n += len(f.Acc[i].Key) + len(f.Acc[i].Span.Start) + len(f.Acc[i].Span.End)
	}
	if Over(l.fenceBytes, n, l.lim.FenceBytes) {
		return false
	}
	f.size = n
	l.fenceBytes += n
	return true
}

// raise logs a higher epoch, once.
func (l *Leader) raise(epoch shard.Epoch) {
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
			if f.Epoch > l.m.Epoch {
				l.endFence(f, 0, shard.ErrUnavailable)
			}
		}
	}}, &pb.Entry{Epoch: uint64(epoch), EpochRaise: &pb.EpochRaise{}})
}

// awaitWrites makes the fence wait for the overlapping writes that are in the table now and whose
// Allocate has been sent: they may get, or have got, a revision at or below its own. Those that
// come later get a higher one (hazard 18).
func (l *Leader) awaitWrites(f *Fence) {
	if mutate.On(mutate.FenceInFlight) {
		return
	}
	for i := range f.Acc {
		l.tab.overlapping(&f.Acc[i], func(x *Item, b *eval.Access) {
			if !b.Write || !(x.phase == phaseAsked || x.phase == phaseProposed && x.rev <= f.Rev) {
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
func (l *Leader) releaseFences(it *Item, rev int64) {
	if len(it.fences) == 0 {
		return
	}
	kept := it.fences[:0]
	for _, f := range it.fences {
		if f.Rev >= rev {
			kept = append(kept, f)
			continue
		}
		l.fenceGone(f)
	}
	clear(it.fences[len(kept):])
	it.fences = kept
}

// fenceGone: one of the writes that f waits for is out of its way.
func (l *Leader) fenceGone(f *Fence) {
	f.waits--
	l.tryFence(f)
}

// Proved answers a proof of leadership; commit is the commit index at that moment.
func (l *Leader) Proved(id uint64, ok bool, commit uint64) {
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
	l.Run()
}

func (l *Leader) dropOver() {
	l.proven = slices.DeleteFunc(l.proven, func(f *Fence) bool { return f.over })
}

// fencesApplied looks again at the fences that have their proof.
func (l *Leader) fencesApplied(d *apply.Decision) {
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
func (l *Leader) tryFence(f *Fence) {
	if l.dead || f.over || !f.proved || f.waits > 0 || l.m.Index < f.commit || l.m.Epoch < f.Epoch || l.fenceLocked(f) {
		return
	}
	switch {
	case l.m.Epoch > f.Epoch:
		l.endFence(f, 0, shard.ErrStaleEpoch)
	case f.Gen != 0 && f.Gen != l.m.Desc.Generation:
		l.endFence(f, 0, l.wrongRange())
	case !l.m.Within(&eval.Footprint{Acc: f.Acc}):
		l.endFence(f, 0, l.wrongRange())
	default:
		l.endFence(f, l.m.Index, nil)
	}
}

// fenceLocked reports whether a prepared transaction may still write below the fence.
func (l *Leader) fenceLocked(f *Fence) bool {
	for _, p := range l.m.Prepared {
		if p.Floor >= f.Rev {
			continue
		}
		for i := range f.Acc {
			if p.Write.Overlaps(&f.Acc[i]) {
				return true
			}
		}
	}
	return false
}

// endFence answers the fence, once.
func (l *Leader) endFence(f *Fence, index uint64, err error) {
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
	f.Done(index, err)
}

// locksChanged lets requests try again that waited for a lock.
func (l *Leader) locksChanged() {
	waiting := l.lockWait
	l.lockWait = nil
	for _, it := range waiting {
		if it.phase == phaseBlocked {
			l.runq = append(l.runq, it)
		}
	}
}
