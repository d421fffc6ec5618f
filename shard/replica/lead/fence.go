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

// fences are those that wait, and the proofs of leadership that they wait for. Its events are Fence, Proved,
// the writes in front of a fence that leave, and the progress of apply.
type fences struct {
	l           *Leader
	earlyFences []*Fence
	openProof   *round
	proofs      map[uint64]*round
	fences      []*Fence // all that wait
	fenceBytes  int      // of them, and of earlyFences
	proven      []*Fence // of those, the ones that only wait for apply
	raising     shard.Epoch
}

func errorsIsStale(err error) bool { return errors.Is(err, shard.ErrStaleEpoch) }

// Fence takes a fence. It was asked for after its revision had been handed out.
func (fs *fences) Fence(f *Fence) {
	switch {
	case fs.l.dead:
		fs.endFence(f, 0, fs.l.NotLeader())
		return
	case !fs.l.own:
		if len(fs.earlyFences) >= fs.l.lim.EarlyWaiting || !fs.holdFence(f) {
			fs.endFence(f, 0, shard.ErrTooManyRequests)
			return
		}
		fs.earlyFences = append(fs.earlyFences, f)
		return
	case f.Epoch < fs.l.m.Epoch:
		fs.endFence(f, 0, shard.ErrStaleEpoch)
		return
	case len(fs.fences) >= fs.l.lim.Fences || !fs.holdFence(f):
		fs.endFence(f, 0, shard.ErrTooManyRequests)
		return
	}
	fs.fences = append(fs.fences, f)
	fs.l.known = max(fs.l.known, f.Rev)
	if f.Epoch > fs.l.m.Epoch {
		fs.raise(f.Epoch)
	}
	fs.awaitWrites(f)
	// The proof starts now: no earlier than the oracle's answer (hazards 2, 31).
	if fs.openProof == nil {
		fs.openProof = &round{id: fs.l.id()}
		fs.proofs[fs.openProof.id] = fs.openProof
		fs.l.Emit(Action{Kind: ActConfirm, Id: fs.openProof.id})
	}
	fs.openProof.fences = append(fs.openProof.fences, f)
}

// holdFence counts the bytes of a fence, which are its client's, unless there are too many.
func (fs *fences) holdFence(f *Fence) bool {
	f.size = 0
	n := 0
	for i := range f.Acc {
		n += len(f.Acc[i].Key) + len(f.Acc[i].Span.Start) + len(f.Acc[i].Span.End)
	}
	if Over(fs.fenceBytes, n, fs.l.lim.FenceBytes) {
		return false
	}
	f.size = n
	fs.fenceBytes += n
	return true
}

// raise logs a higher epoch, once.
func (fs *fences) raise(epoch shard.Epoch) {
	if epoch <= fs.raising {
		return
	}
	fs.raising = epoch
	fs.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if err == nil {
			return
		}
		// Not in the log: whoever waits for it asks again.
		fs.raising = 0
		for _, f := range slices.Clone(fs.fences) {
			if f.Epoch > fs.l.m.Epoch {
				fs.endFence(f, 0, shard.ErrUnavailable)
			}
		}
	}}, &pb.Entry{Epoch: uint64(epoch), EpochRaise: &pb.EpochRaise{}})
}

// awaitWrites makes the fence wait for the overlapping writes that are in the table now and whose
// Allocate has been sent: they may get, or have got, a revision at or below its own. Those that
// come later get a higher one (hazard 18).
func (fs *fences) awaitWrites(f *Fence) {
	if mutate.On(mutate.FenceInFlight) {
		return
	}
	for i := range f.Acc {
		fs.l.tab.overlapping(&f.Acc[i], func(x *Item, b *eval.Access) {
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
func (fs *fences) releaseFences(it *Item, rev int64) {
	if len(it.fences) == 0 {
		return
	}
	kept := it.fences[:0]
	for _, f := range it.fences {
		if f.Rev >= rev {
			kept = append(kept, f)
			continue
		}
		fs.fenceGone(f)
	}
	clear(it.fences[len(kept):])
	it.fences = kept
}

// fenceGone: one of the writes that f waits for is out of its way.
func (fs *fences) fenceGone(f *Fence) {
	f.waits--
	fs.tryFence(f)
}

// Proved answers a proof of leadership; commit is the commit index at that moment.
func (fs *fences) Proved(id uint64, ok bool, commit uint64) {
	r := fs.proofs[id]
	delete(fs.proofs, id)
	if r == nil || fs.l.dead {
		return
	}
	for _, f := range r.fences {
		if f.over {
			continue
		}
		if !ok {
			fs.endFence(f, 0, shard.ErrUnavailable)
			continue
		}
		f.proved, f.commit = true, commit
		fs.proven = append(fs.proven, f)
		fs.tryFence(f)
	}
	fs.dropOver()
	fs.l.Run()
}

func (fs *fences) dropOver() {
	fs.proven = slices.DeleteFunc(fs.proven, func(f *Fence) bool { return f.over })
}

// fencesApplied looks again at the fences that have their proof.
func (fs *fences) fencesApplied(d *apply.Decision) {
	if len(fs.proven) == 0 {
		return
	}
	for _, f := range slices.Clone(fs.proven) {
		fs.tryFence(f)
	}
	fs.dropOver()
}

// tryFence answers the fence if nothing is left to wait for. Its place is checked only now
// (hazard 12).
func (fs *fences) tryFence(f *Fence) {
	if fs.l.dead || f.over || !f.proved || f.waits > 0 || fs.l.m.Index < f.commit || fs.l.m.Epoch < f.Epoch || fs.fenceLocked(f) {
		return
	}
	switch {
	case fs.l.m.Epoch > f.Epoch:
		fs.endFence(f, 0, shard.ErrStaleEpoch)
	case f.Gen != 0 && f.Gen != fs.l.m.Desc.Generation:
		fs.endFence(f, 0, fs.l.wrongRange())
	case !fs.l.m.Within(&eval.Footprint{Acc: f.Acc}):
		fs.endFence(f, 0, fs.l.wrongRange())
	default:
		fs.endFence(f, fs.l.m.Index, nil)
	}
}

// fenceLocked reports whether a prepared transaction may still write below the fence.
func (fs *fences) fenceLocked(f *Fence) bool {
	for _, p := range fs.l.m.Prepared {
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
func (fs *fences) endFence(f *Fence, index uint64, err error) {
	if f.over {
		return
	}
	f.over = true
	fs.fenceBytes -= f.size
	if i := slices.Index(fs.fences, f); i >= 0 {
		n := len(fs.fences) - 1
		fs.fences[i] = fs.fences[n]
		fs.fences[n] = nil
		fs.fences = fs.fences[:n]
	}
	f.Done(index, err)
}

// locksChanged lets requests try again that waited for a lock.
func (es *evaluations) locksChanged() {
	waiting := es.lockWait
	es.lockWait = nil
	for _, it := range waiting {
		if it.phase == phaseBlocked {
			es.l.runq = append(es.l.runq, it)
		}
	}
}
