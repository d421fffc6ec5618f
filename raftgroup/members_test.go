package raftgroup_test

import (
	"testing"
	"testing/cryptotest"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// Who takes part in a group is what its configuration says: a replica that has been removed is not asked, not
// waited for and not put to sleep, and the voters that are left go on without it.
func TestPeersComeFromTheConfiguration(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	c := simtest.NewCluster(4)
	c.First = 1
	c.AddGroup(raftgroup.GroupConfig{ID: 1})
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.Tick(5)
	h := c.Node(1).Host
	h.ProposeConfChange(1, &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{
		Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(4)),
	}}}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	c.Settle()
	told := 0
	c.Net.Drop = func(_, to shard.NodeID, f *pb.RaftFrame) bool {
		for _, hb := range f.Heartbeats {
			if to == 4 && hb.Quiesce && !hb.Response {
				told++
			}
		}
		for _, r := range f.Rounds {
			if to == 4 && !r.Response {
				told++
			}
		}
		return false
	}
	st, _ := h.Status(1)
	if err := h.Propose(1, st.Term, []byte("without it")); err != nil {
		t.Fatal(err)
	}
	proven := false
	h.Confirm(1, st.Term, func(ok bool, _ uint64) { proven = ok })
	c.Tick(10)
	c.Crash(4)
	c.Tick(30) // longer than node 4 counts as alive
	if err := h.Propose(1, st.Term, []byte("and after its death")); err != nil {
		t.Fatal(err)
	}
	c.Tick(10)
	if !proven {
		t.Error("no proof of three voters")
	}
	for id := shard.NodeID(1); id <= 3; id++ {
		if st, _ := c.Node(id).Host.Status(1); !st.Quiescent || st.Commit != st.LastIndex {
			t.Errorf("node %v: %+v", id, st)
		}
	}
	if told != 0 {
		t.Errorf("the replica that was removed was asked or put to sleep %d times", told)
	}
	c.Crash(1)
	c.Tick(40)
	lead, term := c.Leader(1)
	if lead == 0 || lead == 1 || term <= st.Term {
		t.Errorf("node %v leads term %d after the leader's death in term %d", lead, term, st.Term)
	}
}
