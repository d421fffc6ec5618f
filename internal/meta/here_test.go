package meta

import (
	"testing"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// TestBegin: the log says which replica of the group is here, and the layout of the cluster only where the log says nothing at all.
func TestBegin(t *testing.T) {
	first := shard.Descriptor{ID: shard.MetaID, Generation: 1, Replicas: []shard.Replica{{ID: 1, Node: 11}, {ID: 2, Node: 12}}}
	saved := shard.Descriptor{ID: shard.MetaID, Generation: 9, Replicas: []shard.Replica{{ID: 2, Node: 12}, {ID: 7, Node: 11}}}
	listed := func(id shard.ReplicaID, state raftgroup.ReplicaState) []raftgroup.Replica {
		return []raftgroup.Replica{{Group: shard.FirstRangeID, ID: 4, State: raftgroup.ReplicaPresent}, {Group: shard.MetaID, ID: id, State: state}}
	}
	for name, c := range map[string]struct {
		node shard.NodeID
		list []raftgroup.Replica
		want Beginning
	}{
		"a new cluster, the first":         {11, nil, Beginning{Self: 1, Desc: first, First: true, Campaign: true}},
		"a new cluster, another":           {12, nil, Beginning{Self: 2, Desc: first, First: true}},
		"a node that joins":                {13, nil, Beginning{}},
		"it holds others":                  {11, listed(1, raftgroup.ReplicaPresent)[:1], Beginning{}},
		"it is there":                      {11, listed(1, raftgroup.ReplicaPresent), Beginning{Self: 1, Desc: first, First: true}},
		"the log is older than such notes": {12, listed(0, raftgroup.ReplicaUnknown), Beginning{Self: 2, Desc: first, First: true}},
		"one that came later":              {11, listed(7, raftgroup.ReplicaPresent), Beginning{Self: 7, Desc: saved}},
		"one that waits":                   {13, listed(8, raftgroup.ReplicaWaiting), Beginning{Self: 8, Desc: saved, Waits: true}},
		"one that was removed":             {11, listed(1, raftgroup.ReplicaRemoved), Beginning{Removed: true}},
	} {
		got := Begin(c.node, c.list, first, saved)
		if !got.Desc.Equal(&c.want.Desc) {
			t.Errorf("%s: it knows of %+v", name, got.Desc)
		}
		got.Desc, c.want.Desc = shard.Descriptor{}, shard.Descriptor{}
		if got.Self != c.want.Self || got.First != c.want.First || got.Waits != c.want.Waits || got.Campaign != c.want.Campaign || got.Removed != c.want.Removed {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestBelonged: a replica that was removed while its node was down, or whose node stopped before its files were gone, is found to be out: what it was
// opened with says no more than that the group was without it.
func TestBelonged(t *testing.T) {
	with := func(gen shard.Generation) shard.Descriptor {
		return shard.Descriptor{ID: shard.MetaID, Generation: gen, Replicas: []shard.Replica{{ID: 7, Node: 11}, {ID: 8, Node: 12}}}
	}
	without := func(gen shard.Generation) shard.Descriptor {
		return shard.Descriptor{ID: shard.MetaID, Generation: gen, Replicas: []shard.Replica{{ID: 8, Node: 12}}}
	}
	for name, c := range map[string]struct {
		own, heard shard.Descriptor
		now        shard.Descriptor // as the group says
		out        bool
	}{
		"it belongs":                     {with(5), with(4), with(5), false},
		"it has a vote that it knows of": {with(5), with(4), without(4), false},
		"it waits":                       {shard.Descriptor{}, with(4), with(4), false},
		"it was removed":                 {with(5), with(5), without(6), true},
		"by its own log, too":            {without(6), with(5), without(6), true},
		"and its node remembers that":    {without(6), without(6), without(6), true},
		"its node remembers it alone":    {with(5), without(6), without(6), true},
		"it never had a state":           {shard.Descriptor{}, without(6), without(7), true},
	} {
		if got := c.now.Dropped(7, belonged(7, c.own, c.heard)); got != c.out {
			t.Errorf("%s: out: %v", name, got)
		}
	}
}
