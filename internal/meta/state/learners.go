package state

import (
	"slices"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// LearnerMove is the next move by which the meta group follows the learners among the members; nil: none is due, or the group is in an op.
//
// A learner that has started gets a replica that learns, as far as LearnersMax allows. Where it has been promoted the replica goes on learning until the planner
// lets it vote, or moves one to it that has to leave another node. What learns on a member that is to be emptied, or where nobody will need it, goes.
func LearnerMove(s *State) *pb.MoveOp {
	inWay := slices.ContainsFunc(s.open, func(op shard.Op) bool { return op.Range == shard.MetaID })
	if !s.Bootstrapped() || !s.version.Active(clusterversion.Moves) || inWay {
		return nil
	}
	group := s.Meta()
	voters, want := votersOf(group), metaVoters(s)
	move := func(from, to shard.NodeID, learner bool, why string) *pb.MoveOp {
		return &pb.MoveOp{RangeId: uint64(shard.MetaID), From: uint64(from), To: uint64(to), Learner: learner, Generation: uint64(group.Generation), Reason: why}
	}
	spare := shard.NodeID(0)
	for _, r := range group.Replicas {
		m, member := s.Member(r.Node)
		switch {
		case r.Role != shard.Learner:
		case !member || m.State != shard.MemberPresent:
			return move(r.Node, 0, false, "it learns on a node that is to be emptied")
		case !m.Learner && voters >= want:
			spare = r.Node
		}
	}
	if spare != 0 && want == shard.MetaVotersMax {
		return move(spare, 0, false, "there are enough that vote")
	}
	for _, m := range s.list {
		_, there := group.ReplicaOn(m.ID)
		switch {
		case !m.Learner || m.State != shard.MemberPresent || !m.HasStarted() || there:
		case len(group.Replicas)-voters < LearnersMax:
			return move(0, m.ID, true, "its member is a learner")
		case spare != 0:
			return move(spare, 0, false, "a learner among the members needs its place")
		}
	}
	return nil
}

// metaVoters is how many voters the meta group should have with the members as they are.
func metaVoters(s *State) int {
	n := 0
	for _, m := range s.list {
		if !m.Learner && m.State == shard.MemberPresent && m.HasStarted() {
			n++
		}
	}
	return shard.MetaVoters(n)
}
