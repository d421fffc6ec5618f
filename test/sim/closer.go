package sim

import (
	"fmt"
	"sync/atomic"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	closeInterval = 200 * time.Millisecond
	closeSpacing  = 2 * time.Millisecond
	closeRechecks = 10 // ticks after which a node looks for what it has missed
)

// closer closes the revisions of the ranges that this node leads, as that of internal/host does,
// driven by events.
type closer struct {
	l      *life
	asked  atomic.Int64 // by the own hub and router, not passed on yet
	kicked bool
	missed bool
	before int64
	ticks  int
}

func (c *closer) begin() {
	c.l.n.w.after(closeInterval, fmt.Sprintf("close %d", c.l.n.id), c.tick)
}

func (c *closer) tick() {
	if !c.l.alive {
		return
	}
	c.begin()
	if c.l.n.paused {
		return
	}
	c.l.client.NowFunc(func(now shard.Now, err error) {
		if err == nil {
			c.l.n.w.post(fmt.Sprintf("close round %d", c.l.n.id), 0, func() { c.current(now.Revision, now.Epoch) })
		}
	})
}

func (c *closer) current(rev int64, epoch shard.Epoch) {
	if !c.l.alive {
		return
	}
	if c.ticks++; c.ticks >= closeRechecks {
		if c.before > 0 && c.behind(c.before) {
			c.tell(&pb.PeerRequest{Close: &pb.CloseRequest{Revision: c.before, Epoch: uint64(epoch), Missed: true}})
		}
		c.before, c.ticks = rev, 0
	}
	c.round(rev, epoch)
}

func (c *closer) behind(rev int64) bool {
	for _, rep := range c.l.reps.Values() {
		if rep.ClosedRevision() < rev {
			return true
		}
	}
	return false
}

// AskClose implements watchfanout.Closer.
func (c *closer) AskClose(rev int64) {
	if c.asked.Swap(max(1, rev)) != 0 {
		return
	}
	c.l.n.w.post(fmt.Sprintf("ask close %d", c.l.n.id), 0, func() {
		rev := c.asked.Swap(0)
		c.wanted()
		c.tell(&pb.PeerRequest{Close: &pb.CloseRequest{Revision: rev, Epoch: uint64(c.l.client.Epoch())}})
	})
}

func (c *closer) askedBy(req *pb.CloseRequest) {
	c.missed = c.missed || req.Missed
	c.wanted()
}

func (c *closer) wanted() {
	if c.kicked {
		return
	}
	c.kicked = true
	c.l.n.w.after(closeSpacing, fmt.Sprintf("kicked %d", c.l.n.id), func() {
		c.kicked = false
		if c.l.alive && !c.l.n.paused {
			c.round(c.l.client.Revision(), c.l.client.Epoch())
		}
	})
}

// round closes every range that this node leads at rev.
func (c *closer) round(rev int64, epoch shard.Epoch) {
	all := c.missed
	c.missed = false
	if rev == 0 {
		return
	}
	for _, id := range c.l.held() {
		rep, _ := c.l.reps.Get(id)
		term, ok := rep.Leading()
		if !ok {
			continue
		}
		push := func(index uint64) {
			c.tell(&pb.PeerRequest{ClosedPush: &pb.ClosedPush{Revision: rev, Epoch: uint64(epoch), Ranges: []*pb.ClosedRange{
				{RangeId: uint64(id), Term: term, Index: index}}}})
		}
		if rep.ClosedRevision() >= rev {
			if all {
				push(rep.AppliedIndex())
			}
			continue
		}
		rep.CloseAt(rev, epoch, func(index uint64, ok bool) {
			if ok {
				rep.LearnClosed(rev, epoch, term, index)
				push(index)
			}
		})
	}
}

func (c *closer) tell(req *pb.PeerRequest) {
	for _, n := range c.l.n.w.nodes {
		if n.id != c.l.n.id {
			c.l.port.CallFunc(c.l.ctx, n.id, req, func(*pb.PeerResponse, error) {})
		}
	}
}

func (c *closer) learn(p *pb.ClosedPush) {
	for _, cr := range p.Ranges {
		if rep, ok := c.l.reps.Get(shard.RangeID(cr.RangeId)); ok {
			rep.LearnClosed(p.Revision, shard.Epoch(p.Epoch), cr.Term, cr.Index)
		}
	}
}
