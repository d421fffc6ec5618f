package replica

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/lead"
)

// HandOver hands the leadership to any voter that is fit, once the range has drained; no revision and no request is
// lost by it. It tries until ctx ends, at most Config.Patience, and a drain that takes too long gives way for a while.
// done is called once, from any goroutine, and must not block: with nil when this replica leads no more, or why it
// still does; stood is how long requests had to wait for that.
func (c *leaderCalls) HandOver(ctx context.Context, done func(stood time.Duration, err error)) {
	c.transfer(ctx, 0, done)
}

func (c *leaderCalls) transfer(ctx context.Context, to shard.ReplicaID, done func(time.Duration, error)) {
	deadline := c.deadline(ctx)
	c.onLeader(func(err error) { done(0, err) }, func(l *lead.Leader) {
		l.Barriers.Transfer(to, deadline, func(stood time.Duration, err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { done(stood, c.withLeaderHint(err, c.role())) }})
		})
	})
}

// Transfer is HandOver to the replica on the request's node, or to any that is fit. It answers when another replica
// leads. reply is called once, from any goroutine, and must not block.
func (c *leaderCalls) Transfer(ctx context.Context, req *pb.TransferRequest, reply func(*pb.TransferResponse, error)) {
	var to shard.ReplicaID
	if node := shard.NodeID(req.Node); node != 0 {
		r, err := c.heir(node)
		if err != nil {
			reply(nil, err)
			return
		}
		to = r
	}
	c.transfer(ctx, to, func(stood time.Duration, err error) {
		log := c.r.cfg.Logger.With("range", c.r.cfg.Desc.ID.String(), "to", shard.NodeID(req.Node).String(), "stood", stood)
		if err != nil {
			log.Warn("a range's lead was not handed over as asked", "error", err)
			reply(nil, err)
			return
		}
		log.Info("a range's lead was handed over as asked")
		c.onceLed(func(l raftgroup.Leadership, err error) {
			if err != nil {
				reply(nil, err)
				return
			}
			reply(&pb.TransferResponse{LeaderNode: uint64(c.r.desc.Load().NodeOf(l.Leader)), Term: l.Term, StoodUs: stood.Microseconds()}, nil)
		})
	})
}

// heir is the replica on a node, which is to lead instead of this one.
func (c *leaderCalls) heir(node shard.NodeID) (shard.ReplicaID, error) {
	c.r.mu.Lock()
	err := c.checkLeaderLocked()
	c.r.mu.Unlock()
	if err != nil {
		return 0, err
	}
	desc := c.r.desc.Load()
	r, found := desc.ReplicaOn(node)
	switch {
	case !found:
		return 0, fmt.Errorf("%w: node %v holds no replica of %v", shard.ErrInvalid, node, desc.ID)
	case !r.Votes():
		return 0, fmt.Errorf("%w: the replica of %v on node %v has no vote", shard.ErrInvalid, desc.ID, node)
	case r.ID == c.r.cfg.Self.ID:
		return 0, fmt.Errorf("%w: node %v leads %v already", shard.ErrInvalid, node, desc.ID)
	}
	return r.ID, nil
}

// onceLed calls fn, from any goroutine, when this replica knows who leads.
func (c *leaderCalls) onceLed(fn func(raftgroup.Leadership, error)) {
	c.r.mu.Lock()
	l, closed := c.r.mu.role, c.r.mu.closed
	if l.Leader == 0 && !closed {
		c.r.mu.leaderWaits = append(c.r.mu.leaderWaits, fn)
		c.r.mu.Unlock()
		return
	}
	c.r.mu.Unlock()
	if closed {
		fn(l, shard.ErrStopped)
		return
	}
	fn(l, nil)
}

// fireLeaderWaitsLocked answers those who wait for a leader to be known.
func (c *leaderCalls) fireLeaderWaitsLocked(err error) {
	if err == nil && c.r.mu.role.Leader == 0 {
		return
	}
	l := c.r.mu.role
	for _, fn := range c.r.mu.leaderWaits {
		c.r.mu.queue.calls = append(c.r.mu.queue.calls, func() { fn(l, err) })
	}
	c.r.mu.leaderWaits = nil
}

// beginTransfer and abortTransfer carry out what a core asks for. That the leadership has moved is no event of its
// own: the term ends.
func (q *pump) beginTransfer(l *lead.Leader, id uint64, to shard.ReplicaID) {
	ended := func(err error) {
		if err != nil {
			q.deliver(func() { l.Barriers.Acted(id, err) })
		}
	}
	if err := q.r.cfg.Host.HandOver(q.r.cfg.Desc.ID, l.Term, to, ended); err != nil {
		ended(err)
	}
}

func (q *pump) abortTransfer(l *lead.Leader) { q.r.cfg.Host.AbortHandOver(q.r.cfg.Desc.ID, l.Term) }
