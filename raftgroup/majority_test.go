package raftgroup

import (
	"testing"

	"go.etcd.io/raft/v3/quorum"
)

// What majority says must be what Raft says.
func TestMajority(t *testing.T) {
	half := func(set int) quorum.MajorityConfig {
		c := quorum.MajorityConfig{}
		for id := range uint64(5) {
			if set>>id&1 == 1 {
				c[id] = struct{}{}
			}
		}
		return c
	}
	for in := range 1 << 5 {
		for out := range 1 << 5 {
			voters := quorum.JointConfig{half(in), half(out)}
			for yes := range 1 << 5 {
				var list []uint64
				votes := map[uint64]bool{}
				for id := range half(yes) {
					list, votes[id] = append(list, id), true
				}
				if want := voters.VoteResult(votes) == quorum.VoteWon; majority(voters, list) != want {
					t.Fatalf("voters %v, votes %v: want %v", voters, list, want)
				}
			}
		}
	}
}
