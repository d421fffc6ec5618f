package replica

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/lead"
)

// Write takes a request whose keys all lie in this range. reply is called once, from any goroutine,
// and must not block.
func (r *Replica) Write(ctx context.Context, req *pb.WriteRequest, reply func(*pb.WriteResponse, error)) {
	it := &lead.Item{Op: req.Op, Reply: reply}
	if it.Op == nil {
		reply(nil, fmt.Errorf("%w: a write without an operation", shard.ErrInvalid))
		return
	}
	if err := eval.CheckForm(it.Op); err != nil {
		reply(nil, err)
		return
	}
	if req.Multi {
		r.writeMulti(ctx, req, reply)
		return
	}
	it.Fp.Acc = it.One[:0]
	it.Fp.Collect(it.Op)
	if err := it.Fp.CheckKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.Size = it.Op.SizeVT() + lead.ItemOverhead
	it.Deadline = r.deadline(ctx)
	r.mu.Lock()
	if err := r.admissibleLocked(req.Generation); err != nil {
		r.mu.Unlock()
		reply(nil, err)
		return
	}
	r.mu.lead.Request(it)
	r.pumpLocked()
}

// admissibleLocked refuses what only a leader of the named generation takes.
func (r *Replica) admissibleLocked(gen uint64) error {
	switch {
	case r.mu.closed:
		return shard.ErrUnavailable
	case r.mu.lead == nil:
		return r.notLeader(r.mu.role)
	case gen != 0 && shard.Generation(gen) != r.mu.m.Desc.Generation:
		return &shard.WrongRangeError{Range: r.cfg.Desc.ID, Known: []shard.Descriptor{r.mu.m.Desc}}
	}
	return nil
}

// Fence makes the span's content at revisions up to the request's final from the index that it
// answers with, and reads right after it if the request says so. reply is called once, from any
// goroutine, and must not block.
func (r *Replica) Fence(ctx context.Context, req *pb.FenceRequest, reply func(*pb.FenceResponse, error)) {
	f := &lead.Fence{
		Rev: req.Revision, Epoch: shard.Epoch(req.Epoch), Gen: shard.Generation(req.Generation),
		Deadline: r.deadline(ctx),
	}
	span := pb.ToSpan(req.Span)
	if span.IsPoint() {
		f.Acc = append(f.One[:0], eval.Access{Key: span.Start})
	} else {
		f.Acc = append(f.One[:0], eval.Access{Span: span})
	}
	r.mu.Lock()
	if err := r.admissibleLocked(req.Generation); err != nil {
		r.mu.Unlock()
		reply(nil, err)
		return
	}
	l := r.mu.lead
	f.Done = func(index uint64, err error) {
		l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { r.fenced(ctx, req, reply, index, err) }})
	}
	l.Fences.Fence(f)
	l.Run()
	r.pumpLocked()
}

func (r *Replica) fenced(ctx context.Context, req *pb.FenceRequest, reply func(*pb.FenceResponse, error), index uint64, err error) {
	switch {
	case err != nil:
		reply(nil, r.hinted(err, r.role()))
	case req.Read == nil:
		reply(&pb.FenceResponse{Index: index}, nil)
	default:
		r.serveFenced(fencedRead{ctx: ctx, req: req, reply: reply, index: index})
	}
}

// CloseAt fences the whole span at rev, for the leader's own push of closed revisions. done gets
// the index from which a replica that has applied it is final up to rev.
func (r *Replica) CloseAt(rev int64, epoch shard.Epoch, done func(index uint64, ok bool)) {
	r.mu.Lock()
	if r.admissibleLocked(0) != nil {
		r.mu.Unlock()
		done(0, false)
		return
	}
	l := r.mu.lead
	f := &lead.Fence{Rev: rev, Epoch: epoch, Deadline: r.cfg.Now().Add(r.cfg.Patience)}
	f.Acc = append(f.One[:0], eval.Access{Span: r.mu.m.Desc.Span})
	f.Done = func(index uint64, err error) {
		if err == nil {
			r.learnLocked(closedMark{rev: rev, index: index})
		}
		l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { done(index, err == nil) }})
	}
	l.Fences.Fence(f)
	l.Run()
	r.pumpLocked()
}

// closedMark says that a replica which has applied index is final up to rev.
type closedMark struct {
	rev   int64
	index uint64
}

// marksMax bounds the marks that wait for their index; the oldest go first, newer ones say more.
const marksMax = 64

// LearnClosed takes a closed revision that the leader has pushed.
func (r *Replica) LearnClosed(rev int64, epoch shard.Epoch, term, index uint64) {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return
	}
	r.learnLocked(closedMark{rev: rev, index: index})
	r.pumpLocked()
}

func (r *Replica) learnLocked(m closedMark) {
	if m.index <= r.mu.m.Index {
		if r.mu.m.AdvanceClosed(m.rev) {
			r.publishLocked()
			r.publishItemLocked(false)
		}
		return
	}
	for i := range r.mu.marks {
		if k := &r.mu.marks[i]; k.index >= m.index && k.rev <= m.rev {
			*k = m
			return
		}
	}
	if len(r.mu.marks) >= marksMax {
		r.mu.marks = append(r.mu.marks[:0], r.mu.marks[1:]...)
	}
	r.mu.marks = append(r.mu.marks, m)
}

// applyMarksLocked uses the marks whose index has been applied.
func (r *Replica) applyMarksLocked() (news bool) {
	kept := r.mu.marks[:0]
	for _, k := range r.mu.marks {
		if k.index <= r.mu.m.Index {
			news = r.mu.m.AdvanceClosed(k.rev) || news
		} else {
			kept = append(kept, k)
		}
	}
	r.mu.marks = kept
	return news
}

// publishItemLocked queues a feed item with the events that are held and the present position.
func (r *Replica) publishItemLocked(gap bool) {
	it := r.mu.next
	r.mu.next = FeedItem{}
	if r.cfg.Feed == nil {
		return
	}
	m := r.mu.m
	it.Gap = it.Gap || gap
	it.Closed, it.Epoch, it.Index, it.Generation = m.Final(), m.Epoch, m.Index, m.Desc.Generation
	r.mu.calls = append(r.mu.calls, func() { r.cfg.Feed.Publish(r.cfg.Desc.ID, it) })
}

// Resync publishes an item that makes the feed's subscribers begin anew.
func (r *Replica) Resync() {
	r.mu.Lock()
	r.publishItemLocked(true)
	r.pumpLocked()
}

// CompactTo logs a compaction at rev, on the leader. With physical it waits until this replica has
// removed what was compacted.
func (r *Replica) CompactTo(ctx context.Context, rev int64, physical bool, reply func(error)) {
	deadline := r.deadline(ctx)
	r.mu.Lock()
	err := r.admissibleLocked(0)
	if err == nil && physical && len(r.mu.physic) >= lead.CompactionsMax {
		err = shard.ErrTooManyRequests
	}
	if err != nil {
		r.mu.Unlock()
		reply(err)
		return
	}
	r.mu.lead.Proposals.CompactTo(rev, deadline, func(err error) {
		if err != nil || !physical {
			reply(r.hinted(err, r.role()))
			return
		}
		r.mu.Lock()
		r.mu.physic = append(r.mu.physic, physicalWait{deadline: deadline, done: reply})
		r.pumpLocked()
		r.firePhysical()
		r.cfg.Wake(r.cfg.Desc.ID)
	})
	r.pumpLocked()
}
