package sim

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
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
	asked  waiting                // by the own hub and router, not passed on yet
	wanted map[shard.RangeID]bool // of the round that is kicked
	all    bool                   // every range is
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
	c.ask(nil, func(now shard.Now) { c.current(now.Revision, now.Epoch) })
}

// ask asks the oracle whom it has given revisions lately, and closes by its answer what it can of the ranges that are wanted, nil: of every range.
func (c *closer) ask(wanted map[shard.RangeID]bool, then func(now shard.Now)) {
	since := int64(math.MaxInt64)
	for _, id := range c.l.held() {
		if rep, _ := c.l.reps.Get(id); wanted == nil || wanted[id] {
			since = min(since, rep.ClosedRevision())
		}
	}
	c.l.client.GrantedFunc(since, func(now shard.Now, err error) {
		if err != nil {
			return
		}
		c.l.n.w.post(fmt.Sprintf("close round %d", c.l.n.id), 0, func() {
			if !c.l.alive || c.l.n.paused {
				return
			}
			for _, id := range c.l.held() {
				if rep, _ := c.l.reps.Get(id); (wanted == nil || wanted[id]) && rep.ClosedRevision() < now.Granted.Revision && rep.LearnGranted(now.Granted) {
					c.l.n.w.stats.Spared++
				}
			}
			then(now)
		})
	})
}

func (c *closer) current(rev int64, epoch shard.Epoch) {
	if c.ticks++; c.ticks >= closeRechecks {
		if c.before > 0 && c.behind(c.before) {
			c.tell(&pb.PeerRequest{Close: &pb.CloseRequest{Revision: c.before, Epoch: uint64(epoch), Missed: true}})
		}
		c.before, c.ticks = rev, 0
	}
	c.round(rev, epoch, nil)
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
func (c *closer) AskClose(rev int64, ranges []shard.RangeID) {
	if !c.asked.add(rev, ranges) {
		return
	}
	c.l.n.w.post(fmt.Sprintf("ask close %d", c.l.n.id), 0, func() {
		rev, ranges := c.asked.take()
		c.want(ranges)
		c.tell(&pb.PeerRequest{Close: &pb.CloseRequest{Revision: rev, Epoch: uint64(c.l.client.Epoch()), Ranges: pb.FromRangeIDs(ranges)}})
	})
}

// waiting is what was asked for and not passed on; any goroutine may add to it.
type waiting struct {
	mu     sync.Mutex
	rev    int64
	all    bool
	ranges map[shard.RangeID]bool
}

// add reports whether there was nothing before.
func (a *waiting) add(rev int64, ranges []shard.RangeID) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first = a.ranges == nil
	if first {
		a.ranges = map[shard.RangeID]bool{}
	}
	a.rev, a.all = max(a.rev, rev), a.all || ranges == nil
	for _, id := range ranges {
		a.ranges[id] = true
	}
	return first
}

// take returns it, in order, and leaves nothing. nil: every range.
func (a *waiting) take() (rev int64, ranges []shard.RangeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rev, ranges = a.rev, slices.Sorted(maps.Keys(a.ranges))
	if a.all {
		ranges = nil
	}
	a.rev, a.all, a.ranges = 0, false, nil
	return rev, ranges
}

func (c *closer) askedBy(req *pb.CloseRequest) {
	c.missed = c.missed || req.Missed
	c.want(pb.ToRangeIDs(req.Ranges))
}

func (c *closer) want(ranges []shard.RangeID) {
	c.all = c.all || ranges == nil
	if c.wanted == nil {
		c.wanted = map[shard.RangeID]bool{}
	}
	for _, id := range ranges {
		c.wanted[id] = true
	}
	if c.kicked {
		return
	}
	c.kicked = true
	c.l.n.w.after(closeSpacing, fmt.Sprintf("kicked %d", c.l.n.id), func() {
		wanted := c.wanted
		if c.all {
			wanted = nil
		}
		c.kicked, c.all, c.wanted = false, false, nil
		if c.l.alive && !c.l.n.paused {
			c.ask(wanted, func(now shard.Now) { c.round(now.Revision, now.Epoch, wanted) })
		}
	})
}

// round closes the ranges that are wanted, nil: every range, that this node leads, at rev.
func (c *closer) round(rev int64, epoch shard.Epoch, wanted map[shard.RangeID]bool) {
	all := c.missed
	c.missed = false
	if rev == 0 {
		return
	}
	for _, id := range c.l.held() {
		rep, _ := c.l.reps.Get(id)
		term, ok := rep.Leading()
		if !ok || wanted != nil && !wanted[id] {
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
