package lead

import (
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// Depose ends the term. What has not been proposed fails. What has been proposed is still waited for: its
// outcome is known when an entry of a later term applies here.
func (l *Leader) Depose() {
	if l.deposed {
		return
	}
	l.deposed = true
	err := l.NotLeader()
	l.Barriers.depose(err)
	for _, it := range l.Evaluations.earlyItems {
		l.finish(it, nil, err)
	}
	for _, f := range l.Fences.earlyFences {
		l.Fences.endFence(f, 0, err)
	}
	for len(l.Fences.fences) > 0 { // a fence never outlives its leadership (hazard 24)
		l.Fences.endFence(l.Fences.fences[0], 0, err)
	}
	for _, it := range l.Attachments.parked {
		if it.phase == phaseAttaching {
			l.finish(it, nil, err)
		}
	}
	for it := l.tab.first; it != nil; {
		next := it.next
		if !it.inLog() {
			l.finish(it, nil, err)
		}
		it = next
	}
	l.Coordinations.failTxns(err)
	for _, id := range sortedKeys(l.Evaluations.currentCalls) {
		for _, w := range l.Evaluations.currentCalls[id].waiters {
			w.fn(0, 0, err)
		}
	}
	l.Evaluations.earlyItems, l.Fences.earlyFences, l.Fences.confirmed, l.runq, l.Batches.ready = nil, nil, nil, nil, nil
	l.Batches.allocating, l.Evaluations.currentCalls, l.Fences.confirmCalls, l.Attachments.attaching, l.Evaluations.lockWaiters, l.Attachments.parked = nil, nil, nil, nil, nil, nil
	l.Evaluations.openCurrent, l.Fences.openConfirm = nil, nil
}

// CompactionsMax bounds the calls of CompactTo in flight. The meta group makes one at a time.
const CompactionsMax = 64

// compaction is one that has been requested and has not applied.
type compaction struct {
	rev     int64
	waiters []compactionWaiter
}

// compactionWaiter is a call that waits for a compaction of a span.
type compactionWaiter struct {
	span   *pb.Span
	answer func(error)
}

// CompactionDue reports whether a compaction revision that the oracle has named is not logged here, nor about to be. The
// range does not wait until the meta group asks for it: a part that has just been cut off is in no list (hazard 40).
func (pl *proposals) CompactionDue(rev int64) bool {
	return rev > pl.maxCompaction && rev > pl.l.base.CompactRevision() && !pl.l.deposed && pl.l.ownTermApplied &&
		!slices.ContainsFunc(pl.compacting, func(c *compaction) bool { return c.rev >= rev })
}

// CompactTo logs a compaction at rev once everything at or below rev is final. Concurrent calls share one
// entry. A call for what has been applied is answered at once. A call for more than the range holds, then or when
// the entry has applied, is refused; span nil: for whatever it holds.
func (pl *proposals) CompactTo(rev int64, span *pb.Span, deadline time.Time, done func(error)) {
	answer := func(err error) { pl.l.Emit(Action{Kind: ActCall, Fn: func() { done(err) }}) }
	switch {
	case pl.l.deposed:
		answer(pl.l.NotLeader())
	case !pl.l.m.HoldsSpan(span) && !mutate.On(mutate.CompactNoSpan):
		answer(pl.l.m.WrongRange())
	case rev <= pl.l.base.CompactRevision():
		answer(nil)
	case pl.compactionWaiters >= CompactionsMax:
		answer(shard.ErrTooManyRequests)
	default:
		pl.compactionWaiters++
		pl.joinCompaction(rev, deadline, compactionWaiter{span, answer})
		pl.l.Run()
	}
}

// joinCompaction answers when a compaction at rev or later has been applied, or has failed.
func (pl *proposals) joinCompaction(rev int64, deadline time.Time, w compactionWaiter) {
	for _, c := range pl.compacting {
		if c.rev >= rev {
			c.waiters = append(c.waiters, w)
			return
		}
	}
	c := &compaction{rev: rev, waiters: []compactionWaiter{w}}
	pl.compacting = append(pl.compacting, c)
	pl.logCompaction(c, deadline)
}

// compacted answers the waiters of a compaction.
func (pl *proposals) compacted(c *compaction, err error) {
	pl.compacting = slices.DeleteFunc(pl.compacting, func(o *compaction) bool { return o == c })
	pl.compactionWaiters -= len(c.waiters)
	for _, w := range c.waiters {
		if err == nil && !pl.l.m.HoldsSpan(w.span) && !mutate.On(mutate.CompactNoSpan) {
			w.answer(pl.l.m.WrongRange())
			continue
		}
		w.answer(pl.l.refused(err))
	}
}

// logCompaction fetches the current revision, waits for a fence and proposes the entry.
func (pl *proposals) logCompaction(c *compaction, deadline time.Time) {
	pl.l.Evaluations.currentRevision(nil, func(now int64, epoch shard.Epoch, err error) {
		switch {
		case err != nil:
		case epoch < pl.l.m.Epoch:
			err = shard.ErrStaleEpoch
		case c.rev > now:
			err = shard.ErrFutureRevision
		}
		if err != nil {
			pl.compacted(c, err)
			return
		}
		f := &Fence{Rev: c.rev, Epoch: epoch, Deadline: deadline}
		f.Acc = append(f.AccBuf[:0], eval.Access{Span: pl.l.m.Desc.Span})
		f.Done = func(_ uint64, err error) {
			if err != nil || c.rev <= pl.l.base.CompactRevision() {
				pl.compacted(c, err)
				return
			}
			pl.maxCompaction = max(pl.maxCompaction, c.rev)
			pl.proposeEntry(&proposal{done: func(err error) {
				if err != nil {
					pl.maxCompaction = pl.l.base.CompactRevision()
				}
				pl.compacted(c, err)
			}}, &pb.Entry{CompactTo: &pb.CompactTo{Revision: c.rev, Span: pb.FromSpan(pl.l.m.Desc.Span)}})
		}
		pl.l.Fences.Fence(f)
	})
}

// Drained reports whether a past term waits for nothing any more.
func (pl *proposals) Drained() bool { return pl.l.deposed && len(pl.proposals) == 0 }

// FailOpenProposals ends the wait for what was proposed. With ambiguous its outcome is unknown. Otherwise
// an entry of a later term has applied, so what is open certainly is not in the log.
func (pl *proposals) FailOpenProposals(ambiguous bool) {
	err := pl.l.NotLeader()
	if ambiguous {
		err = shard.ErrAmbiguous
	}
	for _, id := range sortedKeys(pl.proposals) {
		p := pl.proposals[id]
		delete(pl.proposals, id)
		if p.done != nil {
			p.done(err)
		}
		for _, it := range p.items {
			pl.l.finish(it, nil, err)
		}
	}
}

func sortedKeys[V any](m map[uint64]V) []uint64 {
	keys := make([]uint64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Tick times out what has reached its deadline.
func (l *Leader) Tick(now time.Time) {
	l.Now = now
	late := func(d time.Time) bool {
		over := !d.IsZero() && !now.Before(d)
		l.staleWaiters = l.staleWaiters || over
		return over
	}
	for _, it := range l.Evaluations.earlyItems {
		if it.phase != phaseDone && late(it.Deadline) {
			l.finish(it, nil, shard.ErrTimeout)
		}
	}
	for _, f := range l.Fences.earlyFences {
		if late(f.Deadline) {
			l.Fences.endFence(f, 0, shard.ErrTimeout)
		}
	}
	for i := 0; i < len(l.Fences.fences); {
		if f := l.Fences.fences[i]; late(f.Deadline) {
			l.Fences.endFence(f, 0, shard.ErrTimeout)
			continue
		}
		i++
	}
	for _, it := range l.Attachments.parked {
		if it.phase == phaseAttaching && late(it.Deadline) {
			l.finish(it, nil, shard.ErrTimeout)
		}
	}
	for it := l.tab.first; it != nil; {
		next := it.next
		switch {
		case !late(it.Deadline):
		case it.inLog():
			l.reply(it, nil, shard.ErrAmbiguousTimeout) // it stays in the table
		default:
			l.finish(it, nil, shard.ErrTimeout)
		}
		it = next
	}
	if !l.deposed {
		l.Coordinations.tickTxns(now)
		if l.Barriers.cur != nil {
			l.Barriers.tick(now)
		}
		l.Batches.ready = slices.DeleteFunc(l.Batches.ready, func(it *Item) bool { return it.phase != phaseReady })
		l.Run()
	}
	l.Attachments.dropUnparked()
	if l.staleWaiters {
		l.sweepWaiters()
	}
}

// Waiting reports whether a tick may have something to do.
func (l *Leader) Waiting() bool {
	return l.tab.count > 0 || len(l.Fences.fences) > 0 || len(l.Evaluations.earlyItems) > 0 || len(l.Fences.earlyFences) > 0 || len(l.Attachments.parked) > 0 ||
		l.Barriers.cur != nil || l.Coordinations.txnsWaiting()
}
