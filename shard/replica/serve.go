package replica

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/lead"
)

// Write takes a request whose keys all lie in this range. reply is called once, from any goroutine,
// and must not block.
func (c *leaderCalls) Write(ctx context.Context, req *pb.WriteRequest, reply func(*pb.WriteResponse, error)) {
	it := &lead.Item{Op: req.Op, Reply: reply, By: checked(req)}
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
	it.Fp.Acc = it.AccBuf[:0]
	it.Fp.Collect(it.Op)
	if err := it.Fp.CheckKeys(); err != nil {
		reply(nil, err)
		return
	}
	it.Size = it.Op.SizeVT() + lead.ItemOverhead
	it.Deadline = c.deadline(ctx)
	c.admitted(it, func() {
		c.r.mu.Lock()
		if err := c.checkLeaderLocked(); err != nil {
			c.r.mu.Unlock()
			reply(nil, err)
			return
		}
		c.r.mu.lead.Request(it)
		c.r.pumpLocked()
	})
}

// admitted goes on with a request for which this node has room, if it leads the range and is to take the request in.
func (c *leaderCalls) admitted(it *lead.Item, then func()) {
	cost := int64(0)
	if c.r.cfg.Quota != nil {
		cost = placement.Cost(it.Op)
	}
	if cost == 0 || c.r.leading.Load() == 0 || c.r.cfg.Quota.Admit(cost) {
		then()
		return
	}
	c.r.cfg.Quota.Refuse(cost, func(err error) {
		if err != nil {
			it.Reply(nil, err)
			return
		}
		then()
	})
}

// checked is how far a request has been checked on its way.
func checked(req *pb.WriteRequest) shard.Checked {
	return shard.Checked{Settings: req.SettingsVersion, Who: pb.ToWho(req.Who)}
}

// checkLeaderLocked refuses what only a leader takes. Whether the range holds the keys of a request is checked where the request
// is carried out, against the state of then; another generation alone is no reason to refuse it.
func (c *leaderCalls) checkLeaderLocked() error {
	switch {
	case c.r.mu.closed:
		return shard.ErrUnavailable
	case c.r.mu.lead == nil:
		return c.notLeader(c.r.mu.role)
	}
	return nil
}

// Fence makes the span's content final at revisions up to the request's. That holds from the index that it
// answers with. If the request has a read, that is served too. reply is called once, from any goroutine, and must
// not block.
func (c *leaderCalls) Fence(ctx context.Context, req *pb.FenceRequest, reply func(*pb.FenceResponse, error)) {
	f := &lead.Fence{
		Rev: req.Revision, Epoch: shard.Epoch(req.Epoch), Deadline: c.deadline(ctx),
	}
	span := pb.ToSpan(req.Span)
	if span.IsPoint() {
		f.Acc = append(f.AccBuf[:0], eval.Access{Key: span.Start})
	} else {
		f.Acc = append(f.AccBuf[:0], eval.Access{Span: span})
	}
	c.r.mu.Lock()
	if err := c.checkLeaderLocked(); err != nil {
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
		reply(nil, c.withLeaderHint(err, c.role()))
	case req.Read == nil:
		reply(&pb.FenceResponse{Index: index}, nil)
	default:
		c.r.serveFenced(fencedRead{ctx: ctx, req: req, reply: reply, index: index})
	}
}

// CloseAt fences the whole span at rev, for the leader's push of closed revisions. A replica that has applied the
// index that done gets is final up to rev.
func (c *closedTracker) CloseAt(rev int64, epoch shard.Epoch, done func(index uint64, ok bool)) {
	c.r.mu.Lock()
	if c.r.checkLeaderLocked() != nil {
		c.r.mu.Unlock()
		done(0, false)
		return
	}
	l := c.r.mu.lead
	f := &lead.Fence{Rev: rev, Epoch: epoch, Deadline: c.r.cfg.Now().Add(c.r.cfg.Patience)}
	f.Acc = append(f.AccBuf[:0], eval.Access{Span: c.r.mu.m.Desc.Span})
	f.Done = func(index uint64, err error) {
		if err == nil {
			c.learnClosedLocked(closedMark{rev: rev, index: index})
		}
		l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { done(index, err == nil) }})
	}
	l.Fences.Fence(f)
	l.Run()
	c.r.pumpLocked()
}

// LearnGranted takes an answer of the oracle by which this replica, wherever it is in its log, may be final up to the answer's revision. It reports
// whether it is, now.
func (c *closedTracker) LearnGranted(g *shard.Granted) bool {
	c.r.mu.Lock()
	final := !c.r.mu.closed && g.Final(c.r.cfg.Desc.ID, c.r.mu.m.Final())
	if final {
		c.learnClosedLocked(closedMark{rev: g.Revision, index: c.r.mu.m.Index})
	}
	c.r.pumpLocked()
	return final
}

// closedMark says that a replica which has applied index is final up to rev.
type closedMark struct {
	rev   int64
	index uint64
}

// closedMarksMax bounds the marks that wait for their index. The oldest is dropped, because newer ones cover it.
const closedMarksMax = 64

// LearnClosed takes a closed revision that the leader has pushed.
func (c *closedTracker) LearnClosed(rev int64, epoch shard.Epoch, term, index uint64) {
	c.r.mu.Lock()
	if c.r.mu.closed {
		c.r.mu.Unlock()
		return
	}
	c.learnClosedLocked(closedMark{rev: rev, index: index})
	c.r.pumpLocked()
}

func (c *closedTracker) learnClosedLocked(m closedMark) {
	if m.index <= c.r.mu.m.Index {
		if c.r.mu.m.AdvanceClosed(m.rev) {
			c.r.publishLocked()
			c.publishItemLocked(false)
		}
		return
	}
	for i := range c.r.mu.closedMarks {
		if k := &c.r.mu.closedMarks[i]; k.index >= m.index && k.rev <= m.rev {
			*k = m
			return
		}
	}
	if len(c.r.mu.closedMarks) >= closedMarksMax {
		c.r.mu.closedMarks = append(c.r.mu.closedMarks[:0], c.r.mu.closedMarks[1:]...)
	}
	c.r.mu.closedMarks = append(c.r.mu.closedMarks, m)
}

// applyClosedMarksLocked uses the marks whose index has been applied.
func (c *closedTracker) applyClosedMarksLocked() (advanced bool) {
	kept := c.r.mu.closedMarks[:0]
	for _, k := range c.r.mu.closedMarks {
		if k.index <= c.r.mu.m.Index {
			advanced = c.r.mu.m.AdvanceClosed(k.rev) || advanced
		} else {
			kept = append(kept, k)
		}
	}
	c.r.mu.closedMarks = kept
	return advanced
}

// publishItemLocked queues a feed item with the events that are held and the present position.
func (c *closedTracker) publishItemLocked(gap bool) {
	c.publishItemOfLocked(c.r.mu.m.Desc.Generation, gap)
}

func (c *closedTracker) publishItemOfLocked(gen shard.Generation, gap bool) {
	it := c.r.mu.nextItem
	c.r.mu.nextItem = shard.FeedItem{}
	if c.r.cfg.Feed == nil {
		return
	}
	m := c.r.mu.m
	it.Gap = it.Gap || gap
	it.Closed, it.Epoch, it.Index, it.Generation = m.Final(), m.Epoch, m.Index, gen
	c.r.mu.queue.calls = append(c.r.mu.queue.calls, func() { c.r.cfg.Feed.Publish(c.r.cfg.Desc.ID, it) })
}

// Resync publishes an item with a gap, so that the feed's subscribers read the history.
func (c *closedTracker) Resync() {
	c.r.mu.Lock()
	c.publishItemLocked(true)
	c.r.pumpLocked()
}

// followCompaction logs a compaction that an answer of the oracle has named and that the range has not been asked for.
func (c *leaderCalls) followCompaction(l *lead.Leader) {
	if rev := c.r.cfg.Oracle.Compacted(); l.Proposals.CompactionDue(rev) {
		l.Proposals.CompactTo(rev, nil, c.r.cfg.Now().Add(c.r.cfg.Patience), func(error) {})
	}
}

// CompactTo logs a compaction, on the leader. If it is to be physical, it waits until this replica has
// removed what was compacted. It is refused if the range holds less than its span, also if that has come to be so
// meanwhile.
func (c *leaderCalls) CompactTo(ctx context.Context, req *pb.CompactRangeRequest, reply func(error)) {
	deadline := c.deadline(ctx)
	c.r.mu.Lock()
	err := c.checkLeaderLocked()
	if err == nil && req.Physical && len(c.r.mu.physicalWaits) >= lead.CompactionsMax {
		err = shard.ErrTooManyRequests
	}
	if err != nil {
		c.r.mu.Unlock()
		reply(err)
		return
	}
	c.r.mu.lead.Proposals.CompactTo(req.Revision, req.Span, deadline, func(err error) {
		if err != nil || !req.Physical {
			reply(c.withLeaderHint(err, c.role()))
			return
		}
		c.r.mu.Lock()
		c.r.mu.physicalWaits = append(c.r.mu.physicalWaits, physicalWait{span: req.Span, deadline: deadline, done: reply})
		c.r.pumpLocked()
		if c.r.firePhysical() {
			c.r.cfg.Wake(c.r.cfg.Desc.ID, true)
		}
	})
	c.r.pumpLocked()
}
