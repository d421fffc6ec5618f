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

// batches brings requests that will write to their revisions, in table order. Its events are BatchTick and
// Allocated.
type batches struct {
	l            *Leader
	ready        []*Item // will write, in table order
	asked        []*batch
	unanswered   int
	lingering    bool  // a tick has been asked for
	ticked       bool  // it has come, and no batch has been closed since
	lastProposed int64 // the last revision proposed
}

// proposals are the entries that have been proposed, until they apply or certainly never will. Its events
// are what the log says of them.
type proposals struct {
	l           *Leader
	proposals   map[uint64]*proposal
	nextID      uint64
	compact     int64         // the highest compaction proposed
	compactions int           // asked for and not answered
	compacting  []*compaction // what they wait for
}

// flush forms batches while allocations may be under way, one at each beat; requests gather otherwise.
func (bs *batches) flush() {
	bs.l.Coordinations.flushCommits()
	for len(bs.ready) > 0 && bs.unanswered < bs.l.lim.Allocs && len(bs.asked)+len(bs.l.Proposals.proposals) < bs.l.lim.Proposals {
		if bs.l.lim.Linger && !bs.ticked {
			if !bs.lingering {
				bs.lingering = true
				bs.l.Emit(Action{Kind: ActBatchTick})
			}
			return
		}
		bs.ticked = false
		n, bytes := 0, 0
		for n < len(bs.ready) && n < bs.l.lim.BatchCount {
			bytes += bs.ready[n].Size
			if n > 0 && bytes > bs.l.lim.BatchBytes {
				break
			}
			n++
		}
		b := &batch{id: bs.l.id(), items: slices.Clone(bs.ready[:n]), closed: bs.l.lim.Clock()}
		rest := copy(bs.ready, bs.ready[n:])
		clear(bs.ready[rest:])
		bs.ready = bs.ready[:rest]
		for _, it := range b.items {
			it.phase, it.above = phaseAsked, bs.l.known
		}
		bs.asked = append(bs.asked, b)
		bs.unanswered++
		bs.l.Emit(Action{Kind: ActAllocate, Id: b.id, N: n})
	}
}

// BatchTick answers a Linger.
func (bs *batches) BatchTick() {
	bs.lingering = false
	if bs.l.dead {
		return
	}
	bs.ticked = len(bs.ready) > 0
	bs.flush()
}

// Allocated answers an Allocate. Answers are used in the order in which they were asked for.
func (bs *batches) Allocated(id uint64, first int64, epoch shard.Epoch, err error) {
	if bs.l.dead { // a revision belongs to the term that asked for it (hazards 1, 28)
		return
	}
	for _, b := range bs.asked {
		if b.id == id && !b.answered {
			b.answered, b.first, b.epoch, b.err = true, first, epoch, err
			bs.unanswered--
		}
	}
	for len(bs.asked) > 0 && bs.asked[0].answered {
		b := bs.asked[0]
		bs.asked = slices.Delete(bs.asked, 0, 1)
		if b.commits != nil {
			bs.l.Coordinations.useCommits(b)
		} else {
			bs.useBatch(b)
		}
	}
	bs.l.Participants.flushResolves()
	bs.l.Run()
}

func (bs *batches) useBatch(b *batch) {
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
			bs.l.finish(it, nil, unasked(b.err))
		}
	case b.epoch < bs.l.m.Epoch || b.epoch < bs.l.Fences.raising || b.first <= max(bs.lastProposed, bs.l.m.Last, bs.l.Proposals.compact):
		bs.reask(items)
	default:
		bs.propose(b)
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
func (bs *batches) reask(items []*Item) {
	kept := items[:0]
	for _, it := range items {
		if it.tries++; it.tries > bs.l.lim.Tries {
			bs.l.finish(it, nil, shard.ErrUnavailable)
			continue
		}
		it.phase = phaseReady
		bs.l.Fences.releaseFences(it, math.MaxInt64)
		kept = append(kept, it)
	}
	bs.ready = slices.Insert(bs.ready, 0, kept...)
}

func (bs *batches) propose(b *batch) {
	n := len(b.items)
	last := b.first + int64(n) - 1
	ops := make([]*pb.Op, n)
	for i, it := range b.items {
		ops[i] = it.Op
		it.phase, it.rev = phaseProposed, b.first+int64(i)
		bs.l.Fences.releaseFences(it, it.rev)
	}
	bs.lastProposed = last
	bs.l.known = max(bs.l.known, last)
	bs.l.Proposals.proposeEntry(&proposal{items: b.items, closed: b.closed}, &pb.Entry{
		Epoch: uint64(b.epoch), Closed: last,
		Batch: &pb.Batch{FirstRevision: b.first, Requests: ops},
	})
}

func (pl *proposals) proposeEntry(p *proposal, e *pb.Entry) {
	e.Term, e.Proposer = pl.l.Term, uint64(pl.l.m.Self)
	e.Generation = uint64(pl.l.m.Desc.Generation)
	e.ProposalId = pl.l.id()
	pl.proposals[e.ProposalId] = p
	pl.l.Emit(Action{Kind: ActPropose, Id: e.ProposalId, Entry: e})
}

// Applied is told of every entry that this replica has applied, after the machine has taken it.
func (l *Leader) Applied(d *apply.Decision) {
	if e := d.Entry; e != nil && e.Term == l.Term && e.Proposer == uint64(l.m.Self) {
		if p := l.Proposals.proposals[e.ProposalId]; p != nil {
			delete(l.Proposals.proposals, e.ProposalId)
			l.Proposals.settle(p, d)
		}
	}
	if l.dead {
		return
	}
	l.noteBase()
	d.Detached(l.Attachments.detached)
	if d.Resolved != nil {
		l.Evaluations.locksChanged()
	}
	l.Fences.fencesApplied(d)
	l.Run()
}

// settle answers the requests of an entry that was seen in the log.
func (pl *proposals) settle(p *proposal, d *apply.Decision) {
	if p.done != nil {
		p.done(d.Refused)
		return
	}
	if pl.l.lim.Linger {
		pl.l.Emit(Action{Kind: ActTook, N: int(pl.l.lim.Clock().Sub(p.closed))})
	}
	made := eval.Slab[pb.WriteResponse]{Room: len(p.items)}
	for i, it := range p.items {
		if d.Refused != nil {
			pl.l.again(it)
			continue
		}
		var err error
		if d.Errs != nil {
			err = d.Errs[i]
		}
		switch {
		case err == nil:
			resp := made.Take()
			resp.Result, resp.Revision, resp.Wrote, resp.Term = d.Results[i], it.rev, d.Wrote[i], pl.l.Term
			pl.l.finish(it, resp, nil)
		case apply.Refusal(err):
			pl.l.again(it)
		default:
			pl.l.finish(it, nil, err)
		}
	}
}

// Dropped: the entry certainly was not appended.
func (pl *proposals) Dropped(id uint64, err error) {
	p := pl.proposals[id]
	if p == nil {
		return
	}
	delete(pl.proposals, id)
	if p.done != nil {
		p.done(err)
	}
	for _, it := range p.items {
		pl.l.finish(it, nil, err)
	}
	pl.l.Run()
}
