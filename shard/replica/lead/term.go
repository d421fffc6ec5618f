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
	for _, it := range l.earlyItems {
		l.finish(it, nil, err)
	}
	for _, f := range l.earlyFences {
		l.endFence(f, 0, err)
	}
	for len(l.fences) > 0 { // a fence never outlives its leadership (hazard 24)
		l.endFence(l.fences[0], 0, err)
	}
	for _, it := range l.parked {
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
	l.loseTxns(err)
	for _, id := range sortedKeys(l.currents) {
		for _, w := range l.currents[id].current {
			w.fn(0, 0, err)
		}
	}
	l.earlyItems, l.earlyFences, l.proven, l.runq, l.ready = nil, nil, nil, nil, nil
	l.asked, l.currents, l.proofs, l.attaching, l.lockWait, l.parked = nil, nil, nil, nil, nil, nil
	l.openCurrent, l.openProof = nil, nil
}

// CompactionsMax bounds the compactions that are under way: the meta group asks for one at a time.
const CompactionsMax = 64

// CompactTo logs a compaction at rev once everything at or below rev is final.
func (l *Leader) CompactTo(rev int64, deadline time.Time, done func(error)) {
	l.compactions++
	answer := func(err error) {
		l.compactions--
		l.Emit(Action{Kind: ActCall, Fn: func() { done(err) }})
	}
	switch {
	case l.dead:
		answer(l.NotLeader())
		return
	case l.compactions > CompactionsMax:
		answer(shard.ErrTooManyRequests)
		return
	}
	l.askRevision(nil, func(now int64, epoch shard.Epoch, err error) {
		switch {
		case err != nil:
			answer(err)
			return
		case epoch < l.m.Epoch:
			answer(shard.ErrStaleEpoch)
			return
		case rev > now:
			answer(shard.ErrFutureRevision)
			return
		}
		f := &Fence{Rev: rev, Epoch: epoch, Deadline: deadline}
		f.Acc = append(f.One[:0], eval.Access{Span: l.m.Desc.Span})
		f.Done = func(_ uint64, err error) {
			if err != nil || rev <= l.base.CompactRevision() {
				answer(err)
				return
			}
			l.compact = max(l.compact, rev)
			l.proposeEntry(&proposal{done: func(err error) {
				if err != nil {
					l.compact = l.base.CompactRevision()
				}
				answer(err)
			}}, &pb.Entry{CompactTo: &pb.CompactTo{Revision: rev}})
		}
		l.Fence(f)
	})
	l.Run()
}

// Settled reports whether a dead core waits for nothing any more.
func (l *Leader) Settled() bool { return l.dead && len(l.proposals) == 0 }

// FailOpenProposals ends the wait for what was proposed: with ambiguous set its outcome is unknown,
// otherwise an entry of a later term has applied and it certainly is not in the log.
func (l *Leader) FailOpenProposals(ambiguous bool) {
	err := l.NotLeader()
	if ambiguous {
		err = shard.ErrAmbiguous
	}
	for _, id := range sortedKeys(l.proposals) {
		p := l.proposals[id]
		delete(l.proposals, id)
		if p.done != nil {
			p.done(err)
		}
		for _, it := range p.items {
			l.finish(it, nil, err)
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
	for _, it := range l.earlyItems {
		if it.phase != phaseDone && late(it.Deadline) {
			l.finish(it, nil, shard.ErrTimeout)
		}
	}
	for _, f := range l.earlyFences {
		if late(f.Deadline) {
			l.endFence(f, 0, shard.ErrTimeout)
		}
	}
	for i := 0; i < len(l.fences); {
		if f := l.fences[i]; late(f.Deadline) {
			l.endFence(f, 0, shard.ErrTimeout)
			continue
		}
		i++
	}
	for _, it := range l.parked {
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
		l.tickTxns(now)
		l.ready = slices.DeleteFunc(l.ready, func(it *Item) bool { return it.phase != phaseReady })
		l.Run()
	}
	l.dropUnparked()
	if l.gaveUp {
		l.forget()
	}
}

// Waiting reports whether a tick may have something to do.
func (l *Leader) Waiting() bool {
	return l.tab.count > 0 || len(l.fences) > 0 || len(l.earlyItems) > 0 || len(l.earlyFences) > 0 || len(l.parked) > 0 ||
		l.txnsWaiting()
}
