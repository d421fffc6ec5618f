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
func (c *leaderCalls) Write(ctx context.Context, req *pb.WriteRequest, reply func(*pb.WriteResponse, error)) {
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
		c.writeMulti(ctx, req, reply)
		return
	}
	it.Fp.Acc = it.One[:0]
	it.Fp.Collect(it.Op)
	if err := it.Fp.CheckKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.Size = it.Op.SizeVT() + lead.ItemOverhead
	it.Deadline = c.deadline(ctx)
	c.r.mu.Lock()
	if err := c.admissibleLocked(req.Generation); err != nil {
		c.r.mu.Unlock()
		reply(nil, err)
		return
	}
	c.r.mu.lead.Request(it)
	c.r.pumpLocked()
}

// admissibleLocked refuses what only a leader of the named generation takes.
func (c *leaderCalls) admissibleLocked(gen uint64) error {
	switch {
	case c.r.mu.closed:
		return shard.ErrUnavailable
	case c.r.mu.lead == nil:
		return c.notLeader(c.r.mu.role)
	case gen != 0 && shard.Generation(gen) != c.r.mu.m.Desc.Generation:
		return &shard.WrongRangeError{Range: c.r.cfg.Desc.ID, Known: []shard.Descriptor{c.r.mu.m.Desc}}
	}
	return nil
}

// Fence makes the span's content at revisions up to the request's final from the index that it
// answers with, and reads right after it if the request says so. reply is called once, from any
// goroutine, and must not block.
func (c *leaderCalls) Fence(ctx context.Context, req *pb.FenceRequest, reply func(*pb.FenceResponse, error)) {
	f := &lead.Fence{
		Rev: req.Revision, Epoch: shard.Epoch(req.Epoch), Gen: shard.Generation(req.Generation),
		Deadline: c.deadline(ctx),
	}
	span := pb.ToSpan(req.Span)
	if span.IsPoint() {
		f.Acc = append(f.One[:0], eval.Access{Key: span.Start})
	} else {
		f.Acc = append(f.One[:0], eval.Access{Span: span})
	}
	c.r.mu.Lock()
	if err := c.admissibleLocked(req.Generation); err != nil {
		c.r.mu.Unlock()
		reply(nil, err)
		return
	}
	l := c.r.mu.lead
	f.Done = func(index uint64, err error) {
		l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { c.fenced(ctx, req, reply, index, err) }})
	}
	l.Fences.Fence(f)
	l.Run()
	c.r.pumpLocked()
}

func (c *leaderCalls) fenced(ctx context.Context, req *pb.FenceRequest, reply func(*pb.FenceResponse, error), index uint64, err error) {
	switch {
	case err != nil:
		reply(nil, c.hinted(err, c.role()))
	case req.Read == nil:
		reply(&pb.FenceResponse{Index: index}, nil)
	default:
		c.r.serveFenced(fencedRead{ctx: ctx, req: req, reply: reply, index: index})
	}
}

// CloseAt fences the whole span at rev, for the leader's own push of closed revisions. done gets
// the index from which a replica that has applied it is final up to rev.
func (c *closing) CloseAt(rev int64, epoch shard.Epoch, done func(index uint64, ok bool)) {
	c.r.mu.Lock()
	if c.r.admissibleLocked(0) != nil {
		c.r.mu.Unlock()
		done(0, false)
		return
	}
	l := c.r.mu.lead
	f := &lead.Fence{Rev: rev, Epoch: epoch, Deadline: c.r.cfg.Now().Add(c.r.cfg.Patience)}
	f.Acc = append(f.One[:0], eval.Access{Span: c.r.mu.m.Desc.Span})
	f.Done = func(index uint64, err error) {
		if err == nil {
			c.learnLocked(closedMark{rev: rev, index: index})
		}
		l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { done(index, err == nil) }})
	}
	l.Fences.Fence(f)
	l.Run()
	c.r.pumpLocked()
}

// closedMark says that a replica which has applied index is final up to rev.
type closedMark struct {
	rev   int64
	index uint64
}

// marksMax bounds the marks that wait for their index; the oldest go first, newer ones say more.
const marksMax = 64

// LearnClosed takes a closed revision that the leader has pushed.
func (c *closing) LearnClosed(rev int64, epoch shard.Epoch, term, index uint64) {
	c.r.mu.Lock()
	if c.r.mu.closed {
		c.r.mu.Unlock()
		return
	}
	c.learnLocked(closedMark{rev: rev, index: index})
	c.r.pumpLocked()
}

func (c *closing) learnLocked(m closedMark) {
	if m.index <= c.r.mu.m.Index {
		if c.r.mu.m.AdvanceClosed(m.rev) {
			c.r.publishLocked()
			c.publishItemLocked(false)
		}
		return
	}
	for i := range c.r.mu.marks {
		if k := &c.r.mu.marks[i]; k.index >= m.index && k.rev <= m.rev {
			*k = m
			return
		}
	}
	if len(c.r.mu.marks) >= marksMax {
		c.r.mu.marks = append(c.r.mu.marks[:0], c.r.mu.marks[1:]...)
	}
	c.r.mu.marks = append(c.r.mu.marks, m)
}

// applyMarksLocked uses the marks whose index has been applied.
func (c *closing) applyMarksLocked() (news bool) {
	kept := c.r.mu.marks[:0]
	for _, k := range c.r.mu.marks {
		if k.index <= c.r.mu.m.Index {
			news = c.r.mu.m.AdvanceClosed(k.rev) || news
		} else {
			kept = append(kept, k)
		}
	}
	c.r.mu.marks = kept
	return news
}

// publishItemLocked queues a feed item with the events that are held and the present position.
func (c *closing) publishItemLocked(gap bool) {
	it := c.r.mu.next
	c.r.mu.next = FeedItem{}
	if c.r.cfg.Feed == nil {
		return
	}
	m := c.r.mu.m
	it.Gap = it.Gap || gap
	it.Closed, it.Epoch, it.Index, it.Generation = m.Final(), m.Epoch, m.Index, m.Desc.Generation
	c.r.mu.queue.calls = append(c.r.mu.queue.calls, func() { c.r.cfg.Feed.Publish(c.r.cfg.Desc.ID, it) })
}

// Resync publishes an item that makes the feed's subscribers begin anew.
func (c *closing) Resync() {
	c.r.mu.Lock()
	c.publishItemLocked(true)
	c.r.pumpLocked()
}

// CompactTo logs a compaction at rev, on the leader. With physical it waits until this replica has
// removed what was compacted.
func (c *leaderCalls) CompactTo(ctx context.Context, rev int64, physical bool, reply func(error)) {
	deadline := c.deadline(ctx)
	c.r.mu.Lock()
	err := c.admissibleLocked(0)
	if err == nil && physical && len(c.r.mu.physic) >= lead.CompactionsMax {
		err = shard.ErrTooManyRequests
	}
	if err != nil {
		c.r.mu.Unlock()
		reply(err)
		return
	}
	c.r.mu.lead.Proposals.CompactTo(rev, deadline, func(err error) {
		if err != nil || !physical {
			reply(c.hinted(err, c.role()))
			return
		}
		c.r.mu.Lock()
		c.r.mu.physic = append(c.r.mu.physic, physicalWait{deadline: deadline, done: reply})
		c.r.pumpLocked()
		c.r.firePhysical()
		c.r.cfg.Wake(c.r.cfg.Desc.ID)
	})
	c.r.pumpLocked()
}
