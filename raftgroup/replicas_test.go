package raftgroup_test

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// A log from before replicas were noted is opened as it is, and the note is made without a write of its own being
// waited for.
func TestReplicaOfAnOlderLog(t *testing.T) {
	log := simtest.NewMemLog()
	err := log.Save([]raftgroup.Update{{
		Group: 7, Reset: &raftgroup.Position{Index: 10, Term: 5}, HardState: &raftgroup.HardState{Term: 6, Vote: 2, Commit: 10},
		Conf: &raftgroup.Conf{State: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Index: 10},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := raftgroup.NewHost(raftgroup.Config{Node: 1, Log: log, Sender: simtest.NewNet().Sender(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	cfg := raftgroup.GroupConfig{ID: 7, Replica: 1, Peers: map[shard.ReplicaID]shard.NodeID{1: 1, 2: 2, 3: 3}, SM: &simtest.Machine{}}
	if err := h.AddGroup(cfg); err != nil {
		t.Fatal(err)
	}
	saves := log.Saves
	for h.Step() {
	}
	want := []raftgroup.Replica{{Group: 7, ID: 1, State: raftgroup.ReplicaPresent}}
	if got, err := log.Replicas(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if log.Saves != saves {
		t.Errorf("the note took %d durable writes", log.Saves-saves)
	}
}
