package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	steps "pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/lead"
)

// changesWaiting bounds the calls that wait for one change.
const changesWaiting = 16

// changes leads the changes of the range's descriptor, one at a time.
type changes struct {
	r *Replica

	mu struct {
		sync.Mutex
		run *changeRun // nil: none is under way
	}
}

// changeRun is a change that is under way, and who waits for it.
type changeRun struct {
	req   *pb.ChangeRequest
	term  uint64 // of the leadership; it ends with that
	waits []func(*pb.ChangeResponse, error)
}

// op is the op that a request carries out.
func opOf(req *pb.ChangeRequest) uint64 {
	return req.Split.GetOp() + req.Move.GetOp() + req.Merge.GetOp() + req.Freeze.GetOp() // one is set
}

// kinds counts what is asked for.
func kinds(req *pb.ChangeRequest) (n int) {
	for _, set := range []bool{req.Split != nil, req.Move != nil, req.Merge != nil, req.Freeze != nil} {
		if set {
			n++
		}
	}
	return n
}

// Change carries a change of the range out, or, with GiveUp, makes it impossible for good. Asked again, it answers with what became of it. A move is
// answered after each step, and where it waits for something. reply is called once, from any goroutine, and must not block.
// shard.ErrInvalid: the range cannot be changed like this. shard.ErrTimeout: it did not come to rest, and may be asked again.
// shard.ErrNoSpace: a majority has no room for the copy of what is cut off. Whatever the error says, the range is whole; only when
// the leadership is lost meanwhile, the next leader has to be asked.
func (c *changes) Change(_ context.Context, req *pb.ChangeRequest, reply func(*pb.ChangeResponse, error)) {
	if kinds(req) != 1 || opOf(req) == 0 || req.Split != nil && len(req.Split.At) == 0 {
		reply(nil, fmt.Errorf("%w: a change without an op, or of no kind that is known here", shard.ErrInvalid))
		return
	}
	r := c.r
	if r.cfg.Births == nil && req.Split != nil && !req.GiveUp { // the right part would be cut off for good
		reply(nil, fmt.Errorf("%w: no range can come into being on this node", shard.ErrUnimplemented))
		return
	}
	r.mu.Lock()
	err := r.checkLeaderLocked()
	var resp *pb.ChangeResponse
	run := &changeRun{req: req, waits: []func(*pb.ChangeResponse, error){reply}}
	if term, serves := r.Leading(); err == nil && (!serves || term != r.mu.lead.Term) {
		err = shard.ErrUnavailable // what the terms before have made of the range is not known yet
	}
	if err == nil {
		run.term = r.mu.lead.Term
		if resp = outcomeOf(r.mu.m.Shape, req); resp == nil && req.Split != nil {
			if err = r.mu.lead.CheckSplit(req.Split); req.GiveUp && !errors.Is(err, steps.ErrGeneration) {
				err = nil
			}
		}
	}
	r.mu.Unlock()
	if err != nil || resp != nil {
		reply(resp, err)
		return
	}
	if !c.begin(run) {
		return
	}
	lead := r.splits.lead
	switch {
	case req.Move != nil:
		lead = r.moves.lead
	case req.Merge != nil:
		lead = r.merges.lead
	case req.Freeze != nil:
		lead = r.merges.leadFreeze
	}
	r.spawn(func() { lead(run) }, func() { c.end(run, nil, shard.ErrStopped) })
}

// outcomeOf is what became of a change: nil, if it is not over here. One that was decided for a descriptor that is not this one any
// more will never be.
func outcomeOf(m apply.Shape, req *pb.ChangeRequest) *pb.ChangeResponse {
	if req.Move != nil {
		return m.Moving().Outcome(req.Move)
	}
	is := shard.ChangeGivenUp
	resp := &pb.ChangeResponse{Range: pb.FromDescriptor(m.Desc)}
	switch {
	case req.Merge != nil: // one that cannot apply any more is over when the right has been thawed
		if m.Done.GetOp() != req.Merge.Op || m.Done.Merged == 0 {
			return nil
		}
		is = shard.ChangeDone
	case req.Freeze != nil:
		f := req.Freeze
		frozen, past := m.FrozenFor(f.Op), m.Desc.Generation > shard.Generation(f.Generation) // past: it cannot be frozen any more
		switch {
		case f.Thaw && (frozen || !past), !f.Thaw && !frozen && !past:
			return nil
		case f.Thaw || frozen:
			is = shard.ChangeDone
		}
	case m.Done.GetOp() == req.Split.Op && m.Done.GetChild() != nil:
		is, resp.Child = shard.ChangeDone, m.Done.GetChild()
	case m.Desc.Generation <= shard.Generation(req.Split.Generation):
		return nil
	}
	resp.Outcome = uint32(is)
	return resp
}

// begin takes the run up, or joins the one that is under way for the same op.
func (c *changes) begin(run *changeRun) bool {
	reply := run.waits[0]
	c.mu.Lock()
	cur := c.mu.run
	switch {
	case cur == nil:
		c.mu.run = run
		c.mu.Unlock()
		return true
	case opOf(cur.req) == opOf(run.req) && cur.req.GiveUp == run.req.GiveUp && cur.term == run.term && len(cur.waits) < changesWaiting:
		cur.waits = append(cur.waits, reply)
		c.mu.Unlock()
		return false
	}
	c.mu.Unlock()
	reply(nil, fmt.Errorf("%w: %v is being changed by op %d", shard.ErrTooManyRequests, c.r.cfg.Desc.ID, opOf(cur.req)))
	return false
}

// propose logs an entry that changes the descriptor, once the range has come to rest for it, and calls done when it has applied, or never will by this
// term. It is not called where this replica does not lead: the run ends then. stood is how long requests have.
func (c *changes) propose(run *changeRun, e *pb.Entry, patience time.Duration, done func(stood time.Duration, err error)) {
	r := c.r
	r.onLeader(func(err error) { c.end(run, nil, err) }, func(l *lead.Leader) {
		l.Barriers.Change(e, r.cfg.Now().Add(patience), func(stood time.Duration, err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { done(stood, r.withLeaderHint(err, r.role())) }})
		})
	})
}

// end answers everybody who waits.
func (c *changes) end(run *changeRun, resp *pb.ChangeResponse, err error) {
	c.mu.Lock()
	c.mu.run = nil
	waits := run.waits
	c.mu.Unlock()
	for _, reply := range waits {
		reply(resp, err)
	}
}
