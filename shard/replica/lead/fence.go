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

// Fence makes the content of its accesses final at revisions up to Rev. That holds from the index with which
// it is answered.
type Fence struct {
	Acc      []eval.Access
	AccBuf   [1]eval.Access
	Rev      int64
	Epoch    shard.Epoch
	Deadline time.Time
	size     int                           // bytes of its accesses, while it waits
	Done     func(index uint64, err error) // called by the core; it may only emit actions

	writesAhead int // that it waits for
	confirmed   bool
	commit      uint64 // no entry that was committed before the confirmation lies above this index
	ended       bool
}

// fences are those that wait, and the confirmations of leadership that they wait for. Its events are Fence,
// Confirmed, writes that leave the table, and applied entries.
type fences struct {
	l            *Leader
	earlyFences  []*Fence
	openConfirm  *sharedCall
	confirmCalls map[uint64]*sharedCall
	fences       []*Fence // all that wait
	fenceBytes   int      // of these and of earlyFences
	confirmed    []*Fence // of these, the ones whose leadership is confirmed
	raisingTo    shard.Epoch
}

func isStaleEpoch(err error) bool { return errors.Is(err, shard.ErrStaleEpoch) }

// Fence takes a fence. Its revision was allocated before.
func (fs *fences) Fence(f *Fence) {
	switch {
	case fs.l.deposed:
		fs.endFence(f, 0, fs.l.NotLeader())
		return
	case !fs.l.ownTermApplied:
		if len(fs.earlyFences) >= fs.l.lim.EarlyWaiting || !fs.reserve(f) {
			fs.endFence(f, 0, shard.ErrTooManyRequests)
			return
		}
		fs.earlyFences = append(fs.earlyFences, f)
		return
	case f.Epoch < fs.l.m.Epoch:
		fs.endFence(f, 0, shard.ErrStaleEpoch)
		return
	case !fs.l.m.Within(&eval.Footprint{Acc: f.Acc}) && !mutate.On(mutate.FenceNoSpan):
		fs.endFence(f, 0, fs.l.m.WrongRange())
		return
	case len(fs.fences) >= fs.l.lim.Fences || !fs.reserve(f):
		fs.endFence(f, 0, shard.ErrTooManyRequests)
		return
	}
	fs.fences = append(fs.fences, f)
	fs.l.maxAllocated = max(fs.l.maxAllocated, f.Rev)
	if f.Epoch > fs.l.m.Epoch {
		fs.raiseEpoch(f.Epoch)
	}
	fs.awaitWrites(f)
	// The confirmation starts now: not before the oracle's answer (hazards 2, 31).
	if fs.openConfirm == nil {
		fs.openConfirm = &sharedCall{id: fs.l.id()}
		fs.confirmCalls[fs.openConfirm.id] = fs.openConfirm
		fs.l.Emit(Action{Kind: ActConfirm, Id: fs.openConfirm.id})
	}
	fs.openConfirm.fences = append(fs.openConfirm.fences, f)
}

// reserve counts the fence's bytes against the limit. It reports whether they fit.
func (fs *fences) reserve(f *Fence) bool {
	f.size = 0
	n := 0
	for i := range f.Acc {
		n += len(f.Acc[i].Key) + len(f.Acc[i].Span.Start) + len(f.Acc[i].Span.End)
	}
	if Exceeds(fs.fenceBytes, n, fs.l.lim.FenceBytes) {
		return false
	}
	f.size = n
	fs.fenceBytes += n
	return true
}

// raiseEpoch logs a higher epoch, once.
func (fs *fences) raiseEpoch(epoch shard.Epoch) {
	if epoch <= fs.raisingTo {
		return
	}
	fs.raisingTo = epoch
	fs.l.Proposals.proposeEntry(&proposal{done: func(err error) {
		if err == nil {
			return
		}
		// Not in the log: the next fence raises it again.
		fs.raisingTo = 0
		for _, f := range slices.Clone(fs.fences) {
			if f.Epoch > fs.l.m.Epoch {
				fs.endFence(f, 0, shard.ErrUnavailable)
			}
		}
	}}, &pb.Entry{Epoch: uint64(epoch), EpochRaise: &pb.EpochRaise{}})
}

// awaitWrites makes the fence wait for overlapping writes whose Allocate has been sent: their revisions may
// be at or below its own. Later writes get higher revisions (hazard 18).
func (fs *fences) awaitWrites(f *Fence) {
	if mutate.On(mutate.FenceInFlight) {
		return
	}
	for i := range f.Acc {
		fs.l.tab.overlapping(&f.Acc[i], func(x *Item, b *eval.Access) {
			if !b.Write || !(x.phase == phaseAllocating || x.phase == phaseProposed && x.rev <= f.Rev) {
				return
			}
			if slices.Contains(x.fences, f) {
				return
			}
			x.fences = append(x.fences, f)
			f.writesAhead++
		})
	}
}

// releaseFences unblocks the fences below rev that wait for it.
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
		fs.writeLeft(f)
	}
	clear(it.fences[len(kept):])
	it.fences = kept
}

// writeLeft takes one of the writes away that f waits for.
func (fs *fences) writeLeft(f *Fence) {
	f.writesAhead--
	fs.tryFence(f)
}

// Confirmed takes the outcome of a confirmation. No entry that was committed before it lies above commit.
func (fs *fences) Confirmed(id uint64, ok bool, commit uint64) {
	r := fs.confirmCalls[id]
	delete(fs.confirmCalls, id)
	if r == nil || fs.l.deposed {
		return
	}
	for _, f := range r.fences {
		if f.ended {
			continue
		}
		if !ok {
			fs.endFence(f, 0, shard.ErrUnavailable)
			continue
		}
		f.confirmed, f.commit = true, commit
		fs.confirmed = append(fs.confirmed, f)
		fs.tryFence(f)
	}
	fs.dropEnded()
	fs.l.Run()
}

func (fs *fences) dropEnded() {
	fs.confirmed = slices.DeleteFunc(fs.confirmed, func(f *Fence) bool { return f.ended })
}

// fencesApplied checks the confirmed fences again.
func (fs *fences) fencesApplied(d *apply.Decision) {
	if len(fs.confirmed) == 0 {
		return
	}
	for _, f := range slices.Clone(fs.confirmed) {
		fs.tryFence(f)
	}
	fs.dropEnded()
}

// tryFence answers the fence if nothing is left to wait for. The range's span is checked again, because it may have
// changed since the fence came (hazard 12).
func (fs *fences) tryFence(f *Fence) {
	if fs.l.deposed || f.ended || !f.confirmed || f.writesAhead > 0 || fs.l.m.Index < f.commit || fs.l.m.Epoch < f.Epoch || fs.fenceLocked(f) {
		return
	}
	switch {
	case fs.l.m.Epoch > f.Epoch:
		fs.endFence(f, 0, shard.ErrStaleEpoch)
	case !fs.l.m.Within(&eval.Footprint{Acc: f.Acc}) && !mutate.On(mutate.FenceNoSpan):
		fs.endFence(f, 0, fs.l.m.WrongRange())
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
	if f.ended {
		return
	}
	f.ended = true
	fs.fenceBytes -= f.size
	if i := slices.Index(fs.fences, f); i >= 0 {
		n := len(fs.fences) - 1
		fs.fences[i] = fs.fences[n]
		fs.fences[n] = nil
		fs.fences = fs.fences[:n]
	}
	f.Done(index, err)
}

// retryLocked evaluates the requests again that waited for a lock.
func (es *evaluations) retryLocked() {
	waiting := es.lockWaiters
	es.lockWaiters = nil
	for _, it := range waiting {
		if it.phase == phaseBlocked {
			es.l.runq = append(es.l.runq, it)
		}
	}
}
