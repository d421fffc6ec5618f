package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// handover is the end of a replica whose state machine has failed. One that leads first hands over, so
// that nobody has to wait for an election timeout; it stops when that is done, or takes too long. One whose state machine waits
// hands over, too, and does not stop.
type handover struct {
	why    error // nil: nothing has failed
	ticks  int   // until the group stops anyway
	waited int   // ticks for which the state machine has waited here, since this replica leads or has tried to hand over
}

// begin hands over, or stops the group at once where there is nothing to hand over, or nobody.
func (o *handover) begin(g *group, why error) {
	if !g.role.IsLeader || g.rn.BasicStatus().LeadTransferee != raft.None {
		g.fail(why)
		return
	}
	best := o.heir(g)
	if best == 0 {
		g.fail(why)
		return
	}
	g.log.Error("the leader's state machine has failed: handing over", "to", uint64(best), "error", why)
	o.why, o.ticks = why, g.h.cfg.ElectionTicks
	g.transfer(best)
}

// heir is the replica that has most of the log among those that are heard; 0: none is.
func (o *handover) heir(g *group) shard.ReplicaID {
	var best, match uint64
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		if id != uint64(g.cfg.Replica) && typ == raft.ProgressTypePeer && pr.RecentActive && pr.Match >= match {
			best, match = id, pr.Match
		}
	})
	return shard.ReplicaID(best)
}

// passOn lets another replica lead while the state machine waits here: it may be able to go on. No earlier than after an election timeout, or replicas
// that all wait would hand the lead round and round.
func (o *handover) passOn(g *group, ticks int) {
	if !g.lane.waits.Load() || mutate.On(mutate.LaterLeads) || !g.role.IsLeader || g.role.move.done != nil {
		o.waited = 0
		return
	}
	if o.waited += ticks; o.waited < g.h.cfg.ElectionTicks {
		return
	}
	o.waited = 0
	if to := o.heir(g); to != 0 && g.rn.BasicStatus().LeadTransferee == raft.None {
		g.log.Warn("the leader's state machine waits: handing over", "to", uint64(to))
		g.transfer(to)
	}
}

// advance stops a replica that has handed over, or has tried to for long enough.
func (o *handover) advance(g *group, ticks int) {
	if o.why == nil {
		o.passOn(g, ticks)
		return
	}
	o.ticks -= ticks
	if !g.role.IsLeader || o.ticks <= 0 {
		g.fail(o.why)
	}
}
