package meta

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/meta/state"
	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// groupMoves leads the moves of the group's own replicas: see package moves. The driver of ops asks it as it asks the leader of a range, and
// it answers alike. One thing is under way at a time in a term: the change of the configuration says what the descriptor is behind
// it, so nothing else may change that meanwhile.
//
// Who is to leave and leads hands over first, with the exact revision in the log: else what the oracle has in hand is a gap.
type groupMoves struct {
	m        *Meta
	learners learners
	// Under the lock:
	pending chan error // of what is under way: nil once it has applied; nil: nothing is
}

// Change does what shard/replica's leaders do for their ranges. It blocks until the next step has applied, for as long as ctx lasts.
func (g *groupMoves) Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	m, mv := g.m, req.Move
	if mv.GetOp() == 0 || req.Split != nil {
		return nil, fmt.Errorf("%w: a change of the meta group that is no move", shard.ErrInvalid)
	}
	m.mu.Lock()
	shape, term, err := m.state.Moving(), m.lead.ownTerm, m.lead.refuses(0)
	if err == nil && (term == 0 || g.pending != nil) {
		err = shard.ErrUnavailable
	}
	m.mu.unlock()
	if err != nil {
		return nil, err
	}
	if over := shape.Outcome(mv); over != nil {
		return over, nil
	}
	at := shape.At(mv)
	next, err := shape.Next(mv, req.GiveUp)
	switch {
	case at == moves.Begins && req.GiveUp:
		err = g.rise(ctx, term, mv)
	case err != nil:
		return nil, err
	case next.Step == moves.Joint && next.In != 0 && !mutate.On(mutate.PromoteBehind):
		if why := raftgroup.LearnerLacks(ctx, m.cfg.Host, shard.MetaID, term, &next); why != "" {
			return shape.Stepped(why), nil
		}
		err = g.step(ctx, term, &next, mv)
	case next.Step == moves.Done && shape.Leaves(m.lead.self) && !mutate.On(mutate.LeaderLeaves):
		if err := m.HandOver(ctx); err != nil && !errors.As(err, new(*shard.NotLeaderError)) {
			return shape.Stepped("the leader leaves the meta group, and has to hand over first: " + err.Error()), nil
		}
		m.mu.Lock()
		defer m.mu.unlock()
		return nil, m.lead.notLeader()
	default:
		err = g.step(ctx, term, &next, mv)
	}
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	shape = m.state.Moving()
	m.mu.unlock()
	m.cfg.Logger.Info("the meta group's replicas have changed", "op", mv.Op, "step", uint32(shape.At(mv)), "replicas", fmt.Sprint(shape.Desc.Replicas))
	if over := shape.Outcome(mv); over != nil {
		return over, nil
	}
	return shape.Stepped(""), nil
}

// begin takes the place of what is under way.
func (g *groupMoves) begin(term uint64) (chan error, error) {
	m := g.m
	m.mu.Lock()
	defer m.mu.unlock()
	if m.lead.ownTerm != term || g.pending != nil {
		return nil, shard.ErrUnavailable
	}
	g.pending = make(chan error, 1)
	return g.pending, nil
}

// end says what has become of it. Called with the lock held.
func (g *groupMoves) end(pending chan error, err error) {
	if g.pending == pending && pending != nil {
		g.pending = nil
		pending <- err
	}
}

// await waits for that. What ctx ends goes on: it is still under way then.
func (g *groupMoves) await(ctx context.Context, pending chan error) error {
	select {
	case err := <-pending:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// step proposes the next step, from the configuration that is in force, and waits until it has applied.
func (g *groupMoves) step(ctx context.Context, term uint64, next *moves.Next, mv *pb.Move) error {
	pending, err := g.begin(term)
	if err != nil {
		return err
	}
	dropped := func(err error) {
		g.m.mu.Lock()
		g.end(pending, err)
		g.m.mu.unlock()
	}
	raftgroup.ProposeMove(g.m.cfg.Host, shard.MetaID, term, next, mv, dropped)
	return g.await(ctx, pending)
}

// rise makes a move impossible that has not begun.
func (g *groupMoves) rise(ctx context.Context, term uint64, mv *pb.Move) error {
	pending, err := g.begin(term)
	if err != nil {
		return err
	}
	m := g.m
	m.mu.Lock()
	m.log.propose(&pb.MetaEntry{GenRise: &pb.GenRise{Generation: mv.Generation, Op: mv.Op}}, func(r state.Result) { g.end(pending, r.Err) })
	m.mu.unlock()
	return g.await(ctx, pending)
}

// applied is told of every change of the configuration that has applied, with the lock held. A replica that is no member any more is asked
// for nothing from then on, and its host takes it away.
func (g *groupMoves) applied() {
	g.end(g.pending, nil)
	m := g.m
	d := m.state.Meta()
	if _, member := d.Replica(m.lead.self); member {
		return
	}
	if !mutate.On(mutate.MetaRemovedServes) {
		m.lead.removed = true
		m.stepDown(m.lead.notLeader())
	}
	if m.cfg.Removed != nil {
		m.mu.later(m.cfg.Removed)
	}
}

// stepDown ends what is under way: its fate is open.
func (g *groupMoves) stepDown() { g.end(g.pending, shard.ErrAmbiguous) }
