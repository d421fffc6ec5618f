package raftgroup

import (
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// role is who leads, as the step worker knows it, to whom it belongs.
type role struct {
	Leadership
	ownIndex uint64 // a leader's first entry of its term, 0: not seen yet
	ownTerm  uint64 // the last term in which ownIndex was committed
	move     leaderMove
}

// published is what others read of a group without asking the worker.
type published struct {
	term, leadTerm, leader atomic.Uint64 // leadTerm: the term that this replica leads, or 0
	ownTerm                atomic.Uint64 // the term in which it has committed an entry of its own
	savedTerm              atomic.Uint64 // the highest term that is durable
	commit, applied        atomic.Uint64
	first, last            atomic.Uint64
	durable                atomic.Uint64 // as the state machine last said
	noLease                atomic.Uint64 // the term in which a transfer began
	quiescent              atomic.Bool
	lease                  atomic.Pointer[lease]
}

// leads tells whether this replica leads, as others may read it.
func (p *published) leads() bool { return p.leadTerm.Load() != 0 }

// noteAppended looks for a leader's first entry of its term.
func (r *role) noteAppended(ents []*raftpb.Entry) {
	if !r.IsLeader || r.ownIndex != 0 {
		return
	}
	for _, e := range ents {
		if e.GetTerm() == r.Term {
			r.ownIndex = e.GetIndex()
			return
		}
	}
}

// publish makes term, role and commit known to those who do not ask the worker.
func (r *role) publish(g *group) {
	st := g.rn.BasicStatus()
	now := Leadership{
		Term:     st.GetTerm(),
		Leader:   shard.ReplicaID(st.Lead),
		IsLeader: st.RaftState == raft.StateLeader,
	}
	g.pub.commit.Store(st.GetCommit())
	g.pub.first.Store(g.store.state.Truncated.Index + 1)
	g.pub.last.Store(g.appends.last)
	if now != r.Leadership {
		r.change(g, now)
	}
	if now.IsLeader && r.ownTerm != now.Term && r.ownIndex != 0 && st.GetCommit() >= r.ownIndex {
		r.ownTerm = now.Term
		g.pub.ownTerm.Store(now.Term)
		g.h.prover.ownTermCommitted(g)
	}
}

func (r *role) change(g *group, now Leadership) {
	before := r.Leadership
	r.Leadership = now
	g.pub.term.Store(now.Term)
	g.pub.leader.Store(uint64(now.Leader))
	if now.IsLeader {
		g.pub.leadTerm.Store(now.Term)
	} else {
		g.pub.leadTerm.Store(0)
	}
	if before.IsLeader && (!now.IsLeader || now.Term != before.Term) {
		g.h.prover.fail(g)
		if g.role.move.done != nil {
			g.role.move.roleChanged()
		}
	}
	if now.IsLeader && !before.IsLeader {
		r.ownIndex = 0
	}
	g.notices.forget()
	g.quiescence.idle = 0
	g.lane.push(g, applyTask{event: &now})
}
