package lead

import (
	"context"
	"errors"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
)

// batches allocates revisions for the requests that will write, in table order. Its events are BatchTick and
// Allocated.
type batches struct {
	l              *Leader
	ready          []*Item  // will write, in table order
	allocating     []*batch // their Allocates have been sent
	allocsInFlight int      // of these, without an answer
	tickRequested  bool     // ActBatchTick has been emitted
	ticked         bool     // the tick has come, and no batch has been closed since
	lastProposed   int64    // the last revision proposed
	askedUnder     uint64   // the settings of the asks that are out
}

// proposals are the entries that have been proposed, until they apply or certainly never will. Its events
// come from the log.
type proposals struct {
	l                 *Leader
	proposals         map[uint64]*proposal
	nextID            uint64
	maxCompaction     int64 // the highest compaction proposed
	compactionWaiters int   // calls of CompactTo without an answer
	compacting        []*compaction
}

// flush closes batches, one at each tick, within the limits of allocations and proposals.
func (bs *batches) flush() {
	bs.l.Coordinations.flushCommits()
	for len(bs.ready) > 0 && bs.allocsInFlight < bs.l.lim.Allocs && len(bs.allocating)+len(bs.l.Proposals.proposals) < bs.l.lim.Proposals {
		if bs.l.lim.BatchDelay && !bs.ticked {
			if !bs.tickRequested {
				bs.tickRequested = true
				bs.l.Emit(Action{Kind: ActBatchTick})
			}
			return
		}
		settings := bs.l.lim.Settings()
		if !bs.mayAsk(settings) {
			return
		}
		bs.ticked = false
		b, ask := bs.close(settings)
		if len(b.items) > 0 {
			bs.allocate(b, ask, settings)
		}
	}
}

// close closes a batch of those that are ready, but for the requests that are refused under s, and says what is to be asked for it.
func (bs *batches) close(s *placement.Settings) (*batch, shard.Ask) {
	n, bytes := 0, 0
	for n < len(bs.ready) && n < bs.l.lim.BatchCount {
		bytes += bs.ready[n].Size
		if n > 0 && bytes > bs.l.lim.BatchBytes {
			break
		}
		n++
	}
	b := &batch{id: bs.l.id(), items: slices.Clone(bs.ready[:n]), closedAt: bs.l.lim.Clock()}
	rest := copy(bs.ready, bs.ready[n:])
	clear(bs.ready[rest:])
	bs.ready = bs.ready[:rest]
	var ask shard.Ask
	var again []*Item
	kept := b.items[:0]
	for _, it := range b.items {
		if slices.Contains(again, it) { // it is in the table anew
			continue
		}
		if err := it.refusal(s); err != nil {
			again = append(again, bs.refuse(it, err)...)
			continue
		}
		it.phase, it.above = phaseAllocating, bs.l.maxAllocated
		it.joins(&ask)
		kept = append(kept, it)
	}
	b.items = kept
	ask.Range, ask.Generation = bs.l.m.Desc.ID, bs.l.m.Desc.Generation // the borders stay until all that is out has applied: see barriers.Change
	return b, ask
}

// BatchTick answers ActBatchTick.
func (bs *batches) BatchTick() {
	bs.tickRequested = false
	if bs.l.deposed {
		return
	}
	bs.ticked = len(bs.ready) > 0
	bs.flush()
}

// Allocated answers ActAllocate. Allocations are used in the order of their requests.
func (bs *batches) Allocated(id uint64, first int64, epoch shard.Epoch, err error) {
	if bs.l.deposed { // a revision belongs to the term that allocated it (hazards 1, 28)
		return
	}
	for _, b := range bs.allocating {
		if b.id == id && !b.allocated {
			b.allocated, b.first, b.epoch, b.err = true, first, epoch, err
			bs.allocsInFlight--
		}
	}
	for len(bs.allocating) > 0 && bs.allocating[0].allocated {
		b := bs.allocating[0]
		bs.allocating = slices.Delete(bs.allocating, 0, 1)
		if b.commits != nil {
			bs.l.Coordinations.commitsAllocated(b)
		} else {
			bs.batchAllocated(b)
		}
	}
	bs.l.Participants.flushResolves()
	bs.l.Run()
}

func (bs *batches) batchAllocated(b *batch) {
	items := b.items[:0]
	for _, it := range b.items {
		if it.phase == phaseAllocating { // the others have timed out
			items = append(items, it)
		}
	}
	b.items = items
	switch {
	case len(items) == 0:
	case errors.Is(b.err, shard.ErrOldSettings):
		bs.refused(items)
	case b.err != nil:
		for _, it := range items {
			bs.l.finish(it, nil, oracleError(b.err))
		}
	case b.epoch < bs.l.m.Epoch || b.epoch < bs.l.Fences.raisingTo || b.first <= max(bs.lastProposed, bs.l.m.Last, bs.l.Proposals.maxCompaction):
		bs.reallocate(items)
	default:
		bs.propose(b)
	}
}

// oracleError is what an error of the oracle means for a request. It is never ambiguous, because nothing was
// proposed.
func oracleError(err error) error {
	switch {
	case errors.Is(err, shard.ErrAmbiguous), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return shard.ErrUnavailable
	}
	return err
}

// reallocate puts requests whose revisions cannot be used at the front of those that need one.
func (bs *batches) reallocate(items []*Item) {
	kept := items[:0]
	for _, it := range items {
		if it.retries++; it.retries > bs.l.lim.Retries {
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
	bs.l.maxAllocated = max(bs.l.maxAllocated, last)
	bs.l.Proposals.proposeEntry(&proposal{items: b.items, closedAt: b.closedAt}, &pb.Entry{
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

// Applied takes every entry that this replica has applied, after Machine.Commit.
func (l *Leader) Applied(d *apply.Decision) {
	if e := d.Entry; e != nil && e.Term == l.Term && e.Proposer == uint64(l.m.Self) {
		if p := l.Proposals.proposals[e.ProposalId]; p != nil {
			delete(l.Proposals.proposals, e.ProposalId)
			l.Proposals.entryApplied(p, d)
		}
	}
	if l.deposed {
		return
	}
	l.advanceBase()
	d.Detached(l.Attachments.detached)
	if d.Moved != nil {
		l.Barriers.reshaped(l.m.Desc.Generation)
	}
	if d.Resolved != nil {
		l.Evaluations.retryLocked()
	}
	l.Fences.fencesApplied(d)
	l.Run()
}

// entryApplied answers the requests of an entry of this term that has applied.
func (pl *proposals) entryApplied(p *proposal, d *apply.Decision) {
	if p.done != nil {
		p.done(d.Refused)
		return
	}
	if pl.l.lim.BatchDelay {
		took := pl.l.lim.Clock().Sub(p.closedAt)
		pl.l.Barriers.answered(took)
		pl.l.Emit(Action{Kind: ActBatchLatency, N: int(took), Requests: len(p.items)})
	}
	made := eval.Slab[pb.WriteResponse]{Chunk: len(p.items)}
	for i, it := range p.items {
		if d.Refused != nil {
			pl.l.restart(it)
			continue
		}
		var err error
		if d.Errs != nil {
			err = d.Errs[i]
		}
		switch {
		case err == nil:
			resp := made.New()
			resp.Result, resp.Revision, resp.Wrote, resp.Term = d.Results[i], it.rev, d.Wrote[i], pl.l.Term
			pl.l.finish(it, resp, nil)
		case apply.Refusal(err):
			pl.l.restart(it)
		default:
			pl.l.finish(it, nil, err)
		}
	}
}

// Dropped is told that an entry certainly was not appended.
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
