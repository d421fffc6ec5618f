package raftgroup

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/shard"
)

// Behind asks this replica, which leads term, whether another is fit for a vote: whether its node was heard within the last two heartbeats
// and its log lacks no more than entries of what there is. done is called once, on a worker, with what it lacks, or with "". It is not called
// when an error is returned, nor when the group stops.
func (l leaderMoves) Behind(id shard.RangeID, term uint64, replica shard.ReplicaID, entries uint64, done func(why string)) error {
	g := l.h.group(id)
	if g == nil || !g.box.call(func() { done(g.role.move.behind(g, term, replica, entries)) }) {
		return shard.ErrUnavailable
	}
	return nil
}

func (m *leaderMove) behind(g *group, term uint64, replica shard.ReplicaID, entries uint64) string {
	if st := g.rn.BasicStatus(); st.RaftState != raft.StateLeader || st.GetTerm() != term {
		return g.notLeader().Error()
	}
	why := "is not known to the group yet"
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if shard.ReplicaID(id) == replica {
			why = g.h.nodes.unfit(&g.h.cfg, g.members.nodeOf(replica), pr, g.appends.last, entries)
		}
	})
	return why
}

// unfit says what a replica on a node lacks to carry on with a log that ends at last; empty: no more than so many entries.
func (n *nodes) unfit(cfg *Config, node shard.NodeID, pr tracker.Progress, last, entries uint64) string {
	silence := time.Duration(2*cfg.HeartbeatTicks) * cfg.TickInterval
	heard, alive := n.lastHeard(node)
	switch {
	case !alive || cfg.Now().Sub(heard) > silence:
		return "is not heard of"
	case pr.State == tracker.StateSnapshot:
		return "is being sent the range"
	case pr.State != tracker.StateReplicate:
		return "has fallen behind the log"
	case last-min(pr.Match, last) > entries:
		return fmt.Sprintf("is %d entries behind", last-pr.Match)
	}
	return ""
}
