package raftgroup

import (
	"testing"

	"go.etcd.io/raft/v3/quorum"

	"pontoon/shard"
)

// TestCampaignRanksSpread: when all nodes start again, each is the first to campaign for a third of the ranges, also
// where the replicas of ranges are numbered from another node each time.
func TestCampaignRanksSpread(t *testing.T) {
	for _, turned := range []bool{false, true} {
		first := map[shard.NodeID]int{}
		for id := range 30 {
			peers, voters := map[shard.ReplicaID]shard.NodeID{}, quorum.MajorityConfig{}
			for i := range 3 {
				node := i
				if turned {
					node = (i + id) % 3
				}
				peers[shard.ReplicaID(i+1)] = shard.NodeID(10 * (node + 1))
				voters[uint64(i+1)] = struct{}{}
			}
			turns, rounds := map[int]bool{}, map[int]bool{}
			for replica, node := range peers {
				c := newConfiguration(&GroupConfig{ID: shard.RangeID(id + 1), Replica: replica}, node, Conf{}, quorum.JointConfig{voters}, peers)
				turn := c.campaignRank(0)
				turns[turn], rounds[c.campaignRound()] = true, true
				if turn == 0 {
					first[node]++
				}
			}
			if len(turns) != 3 || len(rounds) != 3 {
				t.Errorf("range %d: voters share a turn, or come to campaign at the same time for ever", id+1)
			}
		}
		if first[10] != 10 || first[20] != 10 || first[30] != 10 {
			t.Errorf("replicas numbered in turn: %v; first to campaign for so many of 30 ranges, by node: %v, want 10 each", turned, first)
		}
	}
}
