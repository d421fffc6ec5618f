package lead

import (
	"context"
	"errors"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
)

// flush forms batches while allocations may be under way, one at each beat; requests gather otherwise.
func (l *Leader) flush() {
	l.flushCommits()
	for len(l.ready) > 0 && l.unanswered < l.lim.Allocs && len(l.asked)+len(l.proposals) < l.lim.Proposals {
		if l.lim.Linger && !l.ticked {
			if !l.lingering {
				l.lingering = true
				l.Emit(Action{Kind: ActBatchTick})
			}
			return
		}
		l.ticked = false
		n, bytes := 0, 0
		for n < len(l.ready) && n < l.lim.BatchCount {
			bytes += l.ready[n].Size
			if n > 0 && bytes > l.lim.BatchBytes {
				break
			}
			n++
		}
		b := &batch{id: l.id(), items: slices.Clone(l.ready[:n]), closed: l.lim.Clock()}
		rest := copy(l.ready, l.ready[n:])
		clear(l.ready[rest:])
		l.ready = l.ready[:rest]
		for _, it := range b.items {
			it.phase, it.above = phaseAsked, l.known
		}
		l.asked = append(l.asked, b)
		l.unanswered++
		l.Emit(Action{Kind: ActAllocate, Id: b.id, N: n})
	}
}

// BatchTick answers a Linger.
func (l *Leader) BatchTick() {
	l.lingering = false
	if l.dead {
		return
	}
	l.ticked = len(l.ready) > 0
	l.flush()
}

// Allocated answers an Allocate. Answers are used in the order in which they were asked for.
func (l *Leader) Allocated(id uint64, first int64, epoch shard.Epoch, err error) {
	if l.dead { // a revision belongs to the term that asked for it (hazards 1, 28)
		return
	}
	for _, b := range l.asked {
		if b.id == id && !b.answered {
			b.answered, b.first, b.epoch, b.err = true, first, epoch, err
			l.unanswered--
		}
	}
	for len(l.asked) > 0 && l.asked[0].answered {
		b := l.asked[0]
		l.asked = slices.Delete(l.asked, 0, 1)
		if b.commits != nil {
			l.useCommits(b)
		} else {
			l.useBatch(b)
		}
	}
	l.flushResolves()
	l.Run()
}

func (l *Leader) useBatch(b *batch) {
	items := b.items[:0]
	for _, it := range b.items {
		if it.phase == phaseAsked { // the others gave up
			items = append(items, it)
		}
	}
	b.items = items
	switch {
	case len(items) == 0:
	case b.err != nil:
		for _, it := range items {
			l.finish(it, nil, unasked(b.err))
		}
	case b.epoch < l.m.Epoch || b.epoch < l.raising || b.first <= max(l.lastProposed, l.m.Last, l.compact):
		l.reask(items)
	default:
		l.propose(b)
	}
}

// unasked turns an error of the oracle into what it means for a request: nothing was proposed,
// whatever became of the question.
func unasked(err error) error {
	switch {
	case errors.Is(err, shard.ErrAmbiguous), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return shard.ErrUnavailable
	}
	return err
}

// reask puts requests whose allocation cannot be used in front of those that wait for one.
func (l *Leader) reask(items []*Item) {
	kept := items[:0]
	for _, it := range items {
		if it.tries++; it.tries > l.lim.Tries {
			l.finish(it, nil, shard.ErrUnavailable)
			continue
		}
		it.phase = phaseReady
		l.releaseFences(it, math.MaxInt64)
		kept = append(kept, it)
	}
	l.ready = slices.Insert(l.ready, 0, kept...)
}

func (l *Leader) propose(b *batch) {
	n := len(b.items)
	last := b.first + int64(n) - 1
	ops := make([]*pb.Op, n)
	for i, it := range b.items {
		ops[i] = it.Op
		it.phase, it.rev = phaseProposed, b.first+int64(i)
		l.releaseFences(it, it.rev)
	}
	l.lastProposed = last
	l.known = max(l.known, last)
	l.proposeEntry(&proposal{items: b.items, closed: b.closed}, &pb.Entry{
		Epoch: uint64(b.epoch), Closed: last,
		Batch: &pb.Batch{FirstRevision: b.first, Requests: ops},
	})
}

func (l *Leader) proposeEntry(p *proposal, e *pb.Entry) {
	e.Term, e.Proposer = l.Term, uint64(l.m.Self)
	e.Generation = uint64(l.m.Desc.Generation)
	e.ProposalId = l.id()
	l.proposals[e.ProposalId] = p
	l.Emit(Action{Kind: ActPropose, Id: e.ProposalId, Entry: e})
}

// Applied is told of every entry that this replica has applied, after the machine has taken it.
func (l *Leader) Applied(d *apply.Decision) {
	if e := d.Entry; e != nil && e.Term == l.Term && e.Proposer == uint64(l.m.Self) {
		if p := l.proposals[e.ProposalId]; p != nil {
			delete(l.proposals, e.ProposalId)
			l.settle(p, d)
		}
	}
	if l.dead {
		return
	}
	l.noteBase()
	d.Detached(l.detached)
	if d.Resolved != nil {
		l.locksChanged()
	}
	l.fencesApplied(d)
	l.Run()
}

// settle answers the requests of an entry that was seen in the log.
func (l *Leader) settle(p *proposal, d *apply.Decision) {
	if p.done != nil {
		p.done(d.Refused)
		return
	}
	if l.lim.Linger {
		l.Emit(Action{Kind: ActTook, N: int(l.lim.Clock().Sub(p.closed))})
	}
	made := eval.Slab[pb.WriteResponse]{Room: len(p.items)}
	for i, it := range p.items {
		if d.Refused != nil {
			l.again(it)
			continue
		}
		var err error
		if d.Errs != nil {
			err = d.Errs[i]
		}
		switch {
		case err == nil:
			resp := made.Take()
			resp.Result, resp.Revision, resp.Wrote, resp.Term = d.Results[i], it.rev, d.Wrote[i], l.Term
			l.finish(it, resp, nil)
		case apply.Refusal(err):
			l.again(it)
		default:
			l.finish(it, nil, err)
		}
	}
}

// Dropped: the entry certainly was not appended.
func (l *Leader) Dropped(id uint64, err error) {
	p := l.proposals[id]
	if p == nil {
		return
	}
	delete(l.proposals, id)
	if p.done != nil {
		p.done(err)
	}
	for _, it := range p.items {
		l.finish(it, nil, err)
	}
	l.Run()
}
