package raftgroup

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// Steps are possible where they keep to the order: a learner first, one in and one out, always joint.
func TestConfChangeCheck(t *testing.T) {
	single := &raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}
	joint := &raftpb.ConfState{Voters: []uint64{1, 2, 4}, VotersOutgoing: []uint64{1, 2, 3}}
	alone := &raftpb.ConfState{Voters: []uint64{1}}
	for _, c := range []struct {
		cs *raftpb.ConfState
		ConfChange
		ok bool
	}{
		{single, ConfChange{Kind: AddLearner, In: 5}, true},
		{single, ConfChange{Kind: AddLearner, In: 4}, false},
		{single, ConfChange{Kind: AddLearner, In: 3}, false},
		{single, ConfChange{Kind: AddLearner, In: 5, Out: 3}, false},
		{single, ConfChange{Kind: AddLearner}, false},
		{single, ConfChange{Kind: RemoveLearner, Out: 4}, true},
		{single, ConfChange{Kind: RemoveLearner, Out: 3}, false},
		{single, ConfChange{Kind: EnterJoint, In: 4, Out: 3}, true},
		{single, ConfChange{Kind: EnterJoint, In: 4}, true},
		{single, ConfChange{Kind: EnterJoint, Out: 1}, true},
		{single, ConfChange{Kind: EnterJoint, In: 5, Out: 3}, false},
		{single, ConfChange{Kind: EnterJoint, In: 4, Out: 4}, false},
		{single, ConfChange{Kind: EnterJoint}, false},
		{single, ConfChange{Kind: LeaveJoint}, false},
		{single, ConfChange{}, false},
		{joint, ConfChange{Kind: LeaveJoint}, true},
		{joint, ConfChange{Kind: LeaveJoint, Out: 3}, false},
		{joint, ConfChange{Kind: AddLearner, In: 5}, false},
		{joint, ConfChange{Kind: EnterJoint, Out: 1}, false},
		{alone, ConfChange{Kind: EnterJoint, Out: 1}, false},
	} {
		err := c.check(c.cs)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%+v in %v: %v", c.ConfChange, c.cs, err)
			continue
		}
		if err != nil {
			continue
		}
		cc := c.raft()
		if _, joint := cc.EnterJoint(); joint != (c.Kind == EnterJoint) || cc.LeaveJoint() != (c.Kind == LeaveJoint) {
			t.Errorf("%+v is %v to Raft", c.ConfChange, cc)
		}
		after, err := (Conf{State: c.cs, Index: 3}).after(cc, 9)
		if err != nil || after.Index != 9 || proto.Equal(after.State, c.cs) {
			t.Errorf("%+v in %v: %+v, %v", c.ConfChange, c.cs, after, err)
		}
		if c.Kind == EnterJoint && len(after.State.GetVotersOutgoing()) == 0 {
			t.Errorf("%+v leads to %v", c.ConfChange, after.State)
		}
	}
}

// FuzzConfChange: no entry makes the decoder panic, nor what comes after it.
func FuzzConfChange(f *testing.F) {
	for _, c := range []ConfChange{{Kind: AddLearner, In: 4, Context: []byte("x")}, {Kind: EnterJoint, In: 4, Out: 1}, {Kind: LeaveJoint}} {
		data, err := proto.Marshal(c.raft())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{8, 9}) // an unknown transition, and a negative one
	f.Add([]byte("\b\xbe\xbe\xbe\xae\xbe0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for typ := raftpb.EntryNormal; typ <= raftpb.EntryConfChangeV2+1; typ++ {
			e := &raftpb.Entry{Type: typ.Enum(), Index: new(uint64(9)), Data: data}
			cc, err := confChangeOf(e)
			if err != nil {
				continue
			}
			for _, out := range [][]uint64{nil, {1, 2, 5}} {
				c := Conf{State: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, VotersOutgoing: out, Learners: []uint64{4}}}
				if after, err := c.after(cc, 9); err == nil && len(after.State.GetVoters()) == 0 {
					t.Fatalf("%v leaves no voters", cc)
				}
			}
		}
	})
}

// A node opens the replica that is noted, and no id that it has given up or a lower one.
func TestReplicaCheck(t *testing.T) {
	for _, c := range []struct {
		noted Replica
		id    shard.ReplicaID
		want  error
	}{
		{Replica{}, 3, nil},
		{Replica{ID: 3, State: ReplicaWaiting}, 3, nil},
		{Replica{ID: 3, State: ReplicaPresent}, 3, nil},
		{Replica{ID: 3, State: ReplicaPresent}, 4, shard.ErrInvalid},
		{Replica{ID: 3, State: ReplicaRemoved}, 2, ErrReplicaRemoved},
		{Replica{ID: 3, State: ReplicaRemoved}, 3, ErrReplicaRemoved},
		{Replica{ID: 3, State: ReplicaRemoved}, 4, nil},
	} {
		if err := c.noted.check(&GroupConfig{ID: 7, Replica: c.id}); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%+v, replica %d: %v, want %v", c.noted, c.id, err, c.want)
		}
	}
}
