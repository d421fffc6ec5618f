package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	steps "pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/lead"
)

// moves leads the moves of the range's replicas, step by step: see package moves. Requests go on meanwhile.
type moves struct{ r *Replica }

// lead takes the next step, on a goroutine of its own.
func (v *moves) lead(run *changeRun) {
	r, mv := v.r, run.req.Move
	r.mu.Lock()
	at := r.mu.m.Moving().At(mv)
	next, err := r.mu.m.Moving().Next(mv, run.req.GiveUp)
	r.mu.Unlock()
	switch {
	case at == steps.Begins && run.req.GiveUp:
		v.rise(run)
		return
	case err != nil:
		r.changes.end(run, nil, err)
		return
	case next.Step == steps.Joint && next.In != 0 && !mutate.On(mutate.PromoteBehind):
		if why := raftgroup.LearnerLacks(r.ctx, r.cfg.Host, r.cfg.Desc.ID, run.term, &next); why != "" {
			v.waits(run, why)
			return
		}
	case next.Step == steps.Done && v.leaves() && !mutate.On(mutate.LeaderLeaves):
		v.handOver(run)
		return
	}
	v.step(run)
}

// rise makes a move impossible that has not begun.
func (v *moves) rise(run *changeRun) {
	r, mv := v.r, run.req.Move
	e := &pb.Entry{GenRise: &pb.GenRise{Generation: mv.Generation, Op: mv.Op}}
	r.changes.propose(run, e, r.cfg.Patience, func(stood time.Duration, err error) { v.applied(run, stood, err) })
}

// moved tells who keeps the replica, if the range has given it up.
func (v *moves) moved() {
	if _, member := v.r.desc.Load().Replica(v.r.cfg.Self.ID); !member {
		v.r.cfg.Removed(v.r.cfg.Desc.ID)
	}
}

// Self is this replica's id.
func (v *moves) Self() shard.ReplicaID { return v.r.cfg.Self.ID }

// leaves reports whether this replica is the one that the range is about to lose.
func (v *moves) leaves() bool {
	return steps.Shape{Desc: v.r.Desc()}.Leaves(v.r.cfg.Self.ID)
}

// handOver lets another voter lead the last step: this replica would leave with what it has allocated.
func (v *moves) handOver(run *changeRun) {
	r := v.r
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.TxnPatience)
	r.HandOver(ctx, func(stood time.Duration, err error) {
		cancel()
		why := ""
		switch {
		case errors.As(err, new(*shard.NotLeaderError)): // it has failed meanwhile
			r.changes.end(run, nil, r.notLeader(r.role()))
			return
		case err != nil:
			why = "the leader leaves the range, and has to hand over first: " + err.Error()
		default:
			r.cfg.Logger.Info("a leader that leaves its range has handed over", "range", r.cfg.Desc.ID.String(), "op", run.req.Move.Op, "stood", stood)
		}
		resp := steps.Shape{Desc: r.Desc()}.Stepped(why) // whoever leads now is to be asked
		resp.StoodUs = stood.Microseconds()
		r.changes.end(run, resp, nil)
	})
}

// waits answers that the range is to be asked again later.
func (v *moves) waits(run *changeRun, why string) {
	v.r.changes.end(run, steps.Shape{Desc: v.r.Desc()}.Stepped(why), nil)
}

// step proposes the next step, once no other change of the descriptor can be on its way. What the step is follows from the range as
// it is then.
func (v *moves) step(run *changeRun) {
	r := v.r
	r.onLeader(func(err error) { r.changes.end(run, nil, err) }, func(l *lead.Leader) {
		if l.Term != run.term {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { r.changes.end(run, nil, shard.ErrUnavailable) }})
			return
		}
		l.Barriers.Reconfigure(func(barrier uint64) {
			dropped := func(err error) { r.deliver(func() { l.Barriers.Acted(barrier, err) }) }
			r.mu.Lock()
			next, err := r.mu.m.Moving().Next(run.req.Move, run.req.GiveUp)
			r.mu.Unlock()
			if err != nil {
				dropped(err)
				return
			}
			raftgroup.ProposeMove(r.cfg.Host, r.cfg.Desc.ID, run.term, &next, run.req.Move, dropped)
		}, func(err error) {
			l.Emit(lead.Action{Kind: lead.ActCall, Fn: func() { v.applied(run, 0, r.withLeaderHint(err, r.role())) }})
		})
	})
}

// applied ends a run whose entry has applied, or never will by this term.
func (v *moves) applied(run *changeRun, stood time.Duration, err error) {
	r, mv := v.r, run.req.Move
	r.mu.Lock()
	m := r.mu.m
	resp, at := outcomeOf(m.Shape, run.req), m.Moving().At(mv)
	if resp == nil {
		resp = m.Moving().Stepped("")
	}
	r.mu.Unlock()
	log := r.cfg.Logger.With("range", r.cfg.Desc.ID.String(), "op", mv.Op)
	if err != nil {
		log.Info("a range's replicas were not changed as asked", "error", err)
		r.changes.end(run, nil, err)
		return
	}
	resp.StoodUs = stood.Microseconds()
	log.Info("a range's replicas have changed", "step", uint32(at), "replicas", fmt.Sprint(r.Desc().Replicas))
	r.changes.end(run, resp, nil)
}
