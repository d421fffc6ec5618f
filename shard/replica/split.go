package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
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
)

// splits leads the splits of the range.
type splits struct{ r *Replica }

// lead carries a split out, on a goroutine of its own.
func (s *splits) lead(run *changeRun) {
	r := s.r
	began := r.cfg.Now()
	if !run.req.GiveUp {
		if err := s.prepareAll(run); err != nil {
			r.changes.end(run, nil, err)
			return
		}
	}
	prepared := r.cfg.Now().Sub(began)
	e := &pb.Entry{Split: run.req.Split}
	if run.req.GiveUp {
		e = &pb.Entry{GenRise: &pb.GenRise{Generation: run.req.Split.Generation, Op: run.req.Split.Op}}
	}
	r.changes.propose(run, e, r.cfg.Patience, func(stood time.Duration, err error) { s.applied(run, prepared, stood, err) })
}

// applied ends a run whose entry has applied, or never will by this term.
func (s *splits) applied(run *changeRun, prepared, stood time.Duration, err error) {
	r := s.r
	r.mu.Lock()
	resp := outcomeOf(r.mu.m.Shape, run.req) // also where another term has logged it
	r.mu.Unlock()
	log := r.cfg.Logger.With("range", r.cfg.Desc.ID.String(), "op", run.req.Split.Op, "stood", stood)
	switch {
	case resp == nil:
		if err == nil {
			err = shard.ErrUnavailable
		}
		log.Warn("a range was not cut as asked", "error", err)
		r.changes.end(run, nil, err)
		return
	case resp.Child == nil:
		log.Info("the cut of a range is given up for good")
	default:
		log.Info("a range has been cut", "at", string(run.req.Split.At), "right", shard.RangeID(run.req.Split.Child).String(), "prepared", prepared)
	}
	resp.StoodUs = stood.Microseconds()
	r.changes.end(run, resp, nil)
}

// preparation is how far the replicas are.
type preparation struct {
	ready, full int // replicas that are, and that have no room
	self        bool
}

// prepareAll lets the replicas copy, until this one and a majority have, and the others, if they are quick.
func (s *splits) prepareAll(run *changeRun) error {
	r := s.r
	began := r.cfg.Now()
	var majority time.Time
	for {
		desc := r.Desc()
		voters := 0
		for _, rep := range desc.Replicas {
			if rep.Votes() {
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
func (s *splits) askAll(run *changeRun, desc shard.Descriptor) (p preparation) {
	sp := run.req.Split
	req := &pb.PrepareSplitRequest{RangeId: uint64(desc.ID), Generation: sp.Generation, At: sp.At, Child: sp.Child, Op: sp.Op}
	q := question[*pb.PrepareSplitResponse]{
		req: &pb.PeerRequest{PrepareSplit: req},
		here: func(ctx context.Context, reply func(*pb.PrepareSplitResponse, error)) {
			s.r.PrepareSplit(ctx, req, reply)
		},
		of: (*pb.PeerResponse).GetPrepareSplit,
	}
	q.ask(s.r, desc, func(from shard.Replica, is *pb.PrepareSplitResponse, err error) {
		switch {
		case errors.Is(err, shard.ErrNoSpace):
			p.full++
		case err == nil && is.GetReady():
			p.ready++
			p.self = p.self || from.ID == s.r.cfg.Self.ID
		}
	})
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
