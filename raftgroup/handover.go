package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/shard"
)

// handover is the end of a replica whose state machine has failed. One that leads first hands over, so
// that nobody has to wait for an election timeout; it stops when that is done, or takes too long.
type handover struct {
	why   error // nil: nothing has failed
	ticks int   // until the group stops anyway
}

// begin hands over, or stops the group at once where there is nothing to hand over, or nobody.
func (o *handover) begin(g *group, why error) {
	if !g.role.IsLeader || g.rn.BasicStatus().LeadTransferee != raft.None {
		g.fail(why)
		return
	}
	var best, match uint64
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		if id != uint64(g.cfg.Replica) && typ == raft.ProgressTypePeer && pr.RecentActive && pr.Match >= match {
			best, match = id, pr.Match
		}
	})
	if best == 0 {
		g.fail(why)
		return
	}
	g.log.Error("the leader's state machine has failed: handing over", "to", best, "error", why)
	o.why, o.ticks = why, g.h.cfg.ElectionTicks
	g.transfer(shard.ReplicaID(best))
}

// advance stops a replica that has handed over, or has tried to for long enough.
func (o *handover) advance(g *group, ticks int) {
	if o.why == nil {
		return
	}
	o.ticks -= ticks
	if !g.role.IsLeader || o.ticks <= 0 {
		g.fail(o.why)
	}
}
