package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/lead"
)

// Nodes reaches the replicas of a range on other nodes: *peerrpc.Mesh.
type Nodes interface {
	// CallFunc calls a node; cb is called once, from any goroutine, and must not block.
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// A split is led by the range's leader. All replicas copy the right part beside their store first, while everything
// goes on; then the range is drained, and a Split is logged. So requests stand for the drain and what little is left to
// copy, whatever the size of the range.
const (
	prepareAtMost = 10 * time.Minute       // then who asked is told, and may ask again
	prepareEvery  = 100 * time.Millisecond // the replicas are asked how far they are
	prepareLast   = 2 * time.Second        // a majority waits for the others at most
	splitsWaiting = 16                     // calls that wait for one split
)

// splits leads the splits of the range, one at a time.
type splits struct {
	r *Replica

	mu struct {
		sync.Mutex
		run *splitRun // nil: none is under way
	}
}

// splitRun is a split that is under way, and who waits for it.
type splitRun struct {
	split  *pb.Split
	giveUp bool
	term   uint64 // of the leadership; it ends with that
	waits  []func(*pb.SplitResponse, error)
}

// Split carries a split out, or, with GiveUp, makes it impossible for good. Asked again, it answers with what became of it. reply is called
// once, from any goroutine, and must not block. shard.ErrInvalid: the range cannot be cut like this. shard.ErrTimeout: it
// did not come to rest, and may be asked again. shard.ErrNoSpace: a majority has no room for the copy. Whatever the error says, the range
// is whole; only when the leadership is lost meanwhile, the next leader has to be asked.
func (s *splits) Split(_ context.Context, req *pb.SplitRequest, reply func(*pb.SplitResponse, error)) {
	sp := req.Split
	if len(sp.GetAt()) == 0 || sp.GetOp() == 0 {
		reply(nil, fmt.Errorf("%w: a split without a key or an op", shard.ErrInvalid))
		return
	}
	r := s.r
	if r.cfg.Births == nil && !req.GiveUp { // the right part would be cut off for good
		reply(nil, fmt.Errorf("%w: no range can come into being on this node", shard.ErrUnimplemented))
		return
	}
	r.mu.Lock()
	err := r.checkLeaderLocked()
	var resp *pb.SplitResponse
	run := &splitRun{split: sp, giveUp: req.GiveUp, waits: []func(*pb.SplitResponse, error){reply}}
	if term, serves := r.Leading(); err == nil && (!serves || term != r.mu.lead.Term) {
		err = shard.ErrUnavailable // what the terms before have made of the range is not known yet
	}
	if err == nil {
		run.term = r.mu.lead.Term
		if resp = s.outcomeLocked(sp.Op); resp == nil {
			if err = r.mu.lead.CheckSplit(sp); req.GiveUp && !errors.Is(err, apply.ErrGeneration) {
				err = nil
			}
		}
	}
	r.mu.Unlock()
	if err != nil || resp != nil {
		reply(resp, err)
		return
	}
	if !s.begin(run) {
		return
	}
	r.spawn(func() { s.lead(run) }, func() { s.end(run, nil, shard.ErrStopped) })
}

// outcomeLocked is what became of an op: nil, if it has not applied here.
func (s *splits) outcomeLocked(op uint64) *pb.SplitResponse {
	m := s.r.mu.m
	if m.Done.GetOp() != op {
		return nil
	}
	return &pb.SplitResponse{Left: pb.FromDescriptor(m.Desc), Right: m.Done.GetChild()}
}

// begin takes the run up, or joins the one that is under way for the same op.
func (s *splits) begin(run *splitRun) bool {
	reply := run.waits[0]
	s.mu.Lock()
	cur := s.mu.run
	switch {
	case cur == nil:
		s.mu.run = run
		s.mu.Unlock()
		return true
	case cur.split.Op == run.split.Op && cur.giveUp == run.giveUp && cur.term == run.term && len(cur.waits) < splitsWaiting:
		cur.waits = append(cur.waits, reply)
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	reply(nil, fmt.Errorf("%w: %v is being changed by op %d", shard.ErrTooManyRequests, s.r.cfg.Desc.ID, cur.split.Op))
	return false
}

// end answers everybody who waits.
func (s *splits) end(run *splitRun, resp *pb.SplitResponse, err error) {
	s.mu.Lock()
	s.mu.run = nil
	waits := run.waits
	s.mu.Unlock()
	for _, reply := range waits {
		reply(resp, err)
	}
}

// lead carries the run out, on a goroutine of its own.
func (s *splits) lead(run *splitRun) {
	r := s.r
	began := r.cfg.Now()
	if !run.giveUp {
		if err := s.prepareAll(run); err != nil {
			s.end(run, nil, err)
			return
		}
	}
	prepared := r.cfg.Now().Sub(began)
	e := &pb.Entry{Split: run.split}
	if run.giveUp {
		e = &pb.Entry{GenRise: &pb.GenRise{Generation: run.split.Generation, Op: run.split.Op}}
	}
	deadline := r.cfg.Now().Add(r.cfg.Patience)
	r.onLeader(func(err error) { s.end(run, nil, err) }, func(l *lead.Leader) {
		l.Barriers.Change(e, deadline, func(stood time.Duration, err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { s.applied(run, prepared, stood, r.withLeaderHint(err, r.role())) }})
		})
	})
}

// applied ends a run whose entry has applied, or never will by this term.
func (s *splits) applied(run *splitRun, prepared, stood time.Duration, err error) {
	r := s.r
	r.mu.Lock()
	resp := s.outcomeLocked(run.split.Op) // also where another term has logged it
	r.mu.Unlock()
	log := r.cfg.Logger.With("range", r.cfg.Desc.ID.String(), "op", run.split.Op, "stood", stood)
	switch {
	case resp == nil:
		if err == nil {
			err = shard.ErrUnavailable
		}
		log.Warn("a range was not cut as asked", "error", err)
		s.end(run, nil, err)
		return
	case resp.Right == nil:
		log.Info("the cut of a range is given up for good")
	default:
		log.Info("a range has been cut", "at", string(run.split.At), "right", shard.RangeID(run.split.Child).String(), "prepared", prepared)
	}
	resp.StoodUs = stood.Microseconds()
	s.end(run, resp, nil)
}

// preparation is how far the replicas are.
type preparation struct {
	ready, full int // replicas that are, and that have no room
	self        bool
}

// prepareAll lets the replicas copy, until this one and a majority have, and the others, if they are quick.
func (s *splits) prepareAll(run *splitRun) error {
	r := s.r
	began := r.cfg.Now()
	var majority time.Time
	for {
		desc := r.Desc()
		voters := 0
		for _, rep := range desc.Replicas {
			if !rep.Learner {
				voters++
			}
		}
		p := s.askAll(run, desc)
		now := r.cfg.Now()
		switch term, leading := r.Leading(); {
		case r.ctx.Err() != nil:
			return shard.ErrStopped
		case !leading || term != run.term:
			return r.notLeader(r.role())
		case p.ready == len(desc.Replicas):
			return nil
		case p.full > voters-voters/2-1:
			return fmt.Errorf("%w: the part that is cut off needs twice its size, and most nodes of %v have less; free some disk, or add nodes", shard.ErrNoSpace, desc.ID)
		case p.self && p.ready > voters/2:
			if majority.IsZero() {
				majority = now
			}
			if now.Sub(majority) >= prepareLast {
				return nil
			}
		case now.Sub(began) > prepareAtMost:
			return fmt.Errorf("%w: no majority of %v has copied the part that is cut off", shard.ErrTimeout, desc.ID)
		}
		if !r.sleep(r.ctx, prepareEvery) {
			return shard.ErrStopped
		}
	}
}

// askAll asks every replica once. One that does not answer is not ready.
func (s *splits) askAll(run *splitRun, desc shard.Descriptor) (p preparation) {
	r := s.r
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.TxnPatience)
	defer cancel()
	type answer struct {
		self bool
		resp *pb.PrepareSplitResponse
		err  error
	}
	answers := make(chan answer, len(desc.Replicas))
	for _, rep := range desc.Replicas {
		req := &pb.PrepareSplitRequest{
			RangeId: uint64(desc.ID), Generation: run.split.Generation, At: run.split.At, Child: run.split.Child, Op: run.split.Op,
		}
		if rep.ID == r.cfg.Self.ID {
			r.PrepareSplit(ctx, req, func(resp *pb.PrepareSplitResponse, err error) { answers <- answer{true, resp, err} })
			continue
		}
		r.cfg.Nodes.CallFunc(ctx, rep.Node, &pb.PeerRequest{PrepareSplit: req}, func(resp *pb.PeerResponse, err error) {
			if err == nil {
				err = pb.ErrorFromPB(resp.GetError())
			}
			answers <- answer{false, resp.GetPrepareSplit(), err}
		})
	}
	for range desc.Replicas {
		a := <-answers
		switch {
		case errors.Is(a.err, shard.ErrNoSpace):
			p.full++
		case a.err == nil && a.resp.GetReady():
			p.ready++
			p.self = p.self || a.self
		}
	}
	return p
}

// sleep waits; false: ctx has ended.
func (q *pump) sleep(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	q.r.cfg.AfterFunc(d, func() { close(over) })
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}
