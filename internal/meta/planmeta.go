package meta

import (
	"slices"

	"pontoon/placement"
	"pontoon/shard"
)

// metaMove is the move that takes the meta group off a member that is to be emptied, or whose node has been dead for as long as the limits say; nil: none is due, or nobody could take
// the replica. The planner knows ranges alone. One replica moves at a time. Where a member was removed and nobody is left to take its replica, the group
// shrinks.
func (in *planInput) metaMove(group shard.Descriptor, limits placement.Limits) *placement.Op {
	if in.heard == nil || slices.ContainsFunc(in.ops, func(op shard.Op) bool { return op.Range == shard.MetaID }) {
		return nil
	}
	op := placement.Op{Kind: placement.KindMove, Range: shard.MetaID, Generation: group.Generation}
	state := map[shard.NodeID]shard.MemberState{}
	for _, m := range in.members {
		state[m.ID] = m.State
		r, there := group.ReplicaOn(m.ID)
		p, seen := in.heard.pulses[m.ID]
		if op.To == 0 && m.State == shard.MemberPresent && !m.Learner && m.HasStarted() && !(there && r.Votes()) && seen && p.liveness == placement.Up {
			op.To = m.ID
		}
	}
	for _, r := range group.Replicas {
		s, member := state[r.Node]
		p := in.heard.pulses[r.Node]
		dead := limits.Mode != placement.ModeOff && p.liveness == placement.Dead && in.now-p.since >= limits.Pace.DeadAfter
		switch {
		case !r.Votes(): // see learners
			continue
		case member && s == shard.MemberLeaving:
			op.From, op.Why = r.Node, "its member was removed"
		case member && s == shard.MemberDraining && op.To != 0:
			op.From, op.Why = r.Node, "its member is to be emptied"
		case dead && op.To != 0:
			op.From, op.Why = r.Node, "its node is dead"
		default:
			continue
		}
		if op.To == 0 && !slices.ContainsFunc(group.Replicas, func(o shard.Replica) bool { return o.Votes() && o.Node != r.Node }) {
			return nil
		}
		return &op
	}
	return nil
}
