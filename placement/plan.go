package placement

import (
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Snapshot is what a plan is made from: the cluster as the meta group knows it, and what is wanted of it.
// Slices are read, and never kept.
type Snapshot struct {
	// Members are those of the cluster, learners too, in any order.
	Members []shard.Member
	// Map places the ranges. nil: the cluster has not been laid out.
	Map *shard.Map
	// SplitKeys are the borders between the ranges of a new cluster, in any order.
	SplitKeys [][]byte
	// ReplicationFactor is how many replicas a range should have: at least 1, and at most as many as there
	// are voting members.
	ReplicationFactor int
}

// Op is one step of a plan; exactly one field is set.
type Op struct {
	// Bootstrap lays out the cluster. Who proposes it sets the cluster's id.
	Bootstrap *pb.MetaBootstrap
}

// Plan returns the steps that are due, in the order in which they should be taken: none where everything
// is as wanted, or where nothing can be done, as without a voting member. The steps are the caller's.
func Plan(s Snapshot) []Op {
	if s.Map != nil {
		return nil
	}
	if b := bootstrap(s); b != nil {
		return []Op{{Bootstrap: b}}
	}
	return nil
}
