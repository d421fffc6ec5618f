package lead

import (
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// Lost: the leadership has ended. What was not proposed certainly will not be; what was is still
// waited for, because its fate shows when an entry of a later term applies here.
func (l *Leader) Lost() {
	if l.dead {
		return
	}
	l.dead = true
	err := l.NotLeader()
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
		if it.phase == phaseLease {
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
	l.Coordinations.loseTxns(err)
	for _, id := range sortedKeys(l.Evaluations.currents) {
		for _, w := range l.Evaluations.currents[id].current {
			w.fn(0, 0, err)
		}
	}
	l.Evaluations.earlyItems, l.Fences.earlyFences, l.Fences.proven, l.runq, l.Batches.ready = nil, nil, nil, nil, nil
	l.Batches.asked, l.Evaluations.currents, l.Fences.proofs, l.Attachments.attaching, l.Evaluations.lockWait, l.Attachments.parked = nil, nil, nil, nil, nil, nil
	l.Evaluations.openCurrent, l.Fences.openProof = nil, nil
}

// CompactionsMax bounds the compactions that are under way: the meta group asks for one at a time.
const CompactionsMax = 64

// CompactTo logs a compaction at rev once everything at or below rev is final.
func (pl *proposals) CompactTo(rev int64, deadline time.Time, done func(error)) {
	pl.compactions++
	answer := func(err error) {
		pl.compactions--
		pl.l.Emit(Action{Kind: ActCall, Fn: func() { done(err) }})
	}
	switch {
	case pl.l.dead:
		answer(pl.l.NotLeader())
		return
	case pl.compactions > CompactionsMax:
		answer(shard.ErrTooManyRequests)
		return
	}
	pl.l.Evaluations.askRevision(nil, func(now int64, epoch shard.Epoch, err error) {
		switch {
		case err != nil:
			answer(err)
			return
		case epoch < pl.l.m.Epoch:
			answer(shard.ErrStaleEpoch)
			return
		case rev > now:
			answer(shard.ErrFutureRevision)
			return
		}
		f := &Fence{Rev: rev, Epoch: epoch, Deadline: deadline}
		f.Acc = append(f.One[:0], eval.Access{Span: pl.l.m.Desc.Span})
		f.Done = func(_ uint64, err error) {
			if err != nil || rev <= pl.l.base.CompactRevision() {
				answer(err)
				return
			}
			pl.compact = max(pl.compact, rev)
			pl.proposeEntry(&proposal{done: func(err error) {
				if err != nil {
					pl.compact = pl.l.base.CompactRevision()
				}
				answer(err)
			}}, &pb.Entry{CompactTo: &pb.CompactTo{Revision: rev}})
		}
		pl.l.Fences.Fence(f)
	})
	pl.l.Run()
}

// Settled reports whether a dead core waits for nothing any more.
func (pl *proposals) Settled() bool { return pl.l.dead && len(pl.proposals) == 0 }

// FailOpenProposals ends the wait for what was proposed: with ambiguous set its outcome is unknown,
// otherwise an entry of a later term has applied and it certainly is not in the log.
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

// Tick ends the patience of those whose deadline has come.
func (l *Leader) Tick(now time.Time) {
	l.Now = now
	late := func(d time.Time) bool {
		over := !d.IsZero() && !now.Before(d)
		l.gaveUp = l.gaveUp || over
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
		if it.phase == phaseLease && late(it.Deadline) {
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
	if !l.dead {
		l.Coordinations.tickTxns(now)
		l.Batches.ready = slices.DeleteFunc(l.Batches.ready, func(it *Item) bool { return it.phase != phaseReady })
		l.Run()
	}
	l.Attachments.dropUnparked()
	if l.gaveUp {
		l.forget()
	}
}

// Waiting reports whether a tick may have something to do.
func (l *Leader) Waiting() bool {
	return l.tab.count > 0 || len(l.Fences.fences) > 0 || len(l.Evaluations.earlyItems) > 0 || len(l.Fences.earlyFences) > 0 || len(l.Attachments.parked) > 0 ||
		l.Coordinations.txnsWaiting()
}
