package placement

import (
	"fmt"
	"slices"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func membersOf(localities ...string) []shard.Member {
	ms := make([]shard.Member, len(localities))
	for i, l := range localities {
		ms[i] = shard.Member{ID: shard.NodeID(i + 1), Locality: l}
	}
	return ms
}

func TestPlanBootstrap(t *testing.T) {
	for _, c := range []struct {
		members  []shard.Member
		ranges   int
		rf       int
		meta     int // replicas
		replicas int // per range
	}{
		{membersOf(""), 4, 3, 1, 1},
		{membersOf("", ""), 4, 3, 1, 2},
		{membersOf("", "", ""), 1, 3, 3, 3},
		{membersOf("", "", "", ""), 8, 3, 3, 3},
		{membersOf("", "", "", "", ""), 10, 3, 5, 3},
		{membersOf("a", "a", "b", "b", "c", "c"), 12, 3, 5, 3},
		{membersOf("a", "a", "a", "b", "b", "b", "c", "c", "c"), 18, 3, 5, 3},
		{membersOf("", "", ""), 5, 0, 3, 1},
	} {
		name := fmt.Sprintf("%d members %d ranges", len(c.members), c.ranges)
		b := Bootstrap(Layout{Members: c.members, SplitKeys: shard.SplitKeys(c.ranges), ReplicationFactor: c.rf})
		if len(b.Ranges) != c.ranges || len(b.Meta.Replicas) != c.meta {
			t.Errorf("%s: %d ranges, meta on %d", name, len(b.Ranges), len(b.Meta.Replicas))
		}
		if _, err := shard.NewMap(1, pb.ToDescriptors(b.Ranges)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		places := map[string]bool{}
		locality := map[uint64]string{}
		for _, m := range c.members {
			places[m.Locality], locality[uint64(m.ID)] = true, m.Locality
		}
		count, first := map[uint64]int{}, map[uint64]int{}
		for i, d := range b.Ranges {
			if d.RangeId != uint64(shard.FirstRangeID)+uint64(i) || len(d.Replicas) != c.replicas {
				t.Errorf("%s: range %d has %d replicas", name, d.RangeId, len(d.Replicas))
			}
			first[d.Replicas[0].NodeId]++
			here, nodes := map[string]bool{}, map[uint64]bool{}
			for k, r := range d.Replicas {
				count[r.NodeId]++
				here[locality[r.NodeId]], nodes[r.NodeId] = true, true
				if r.ReplicaId != uint64(k+1) {
					t.Errorf("%s: replica id %d at %d", name, r.ReplicaId, k)
				}
			}
			if len(nodes) != len(d.Replicas) || len(here) != min(len(places), len(d.Replicas)) {
				t.Errorf("%s: range %d is on %v", name, d.RangeId, d.Replicas)
			}
		}
		for what, m := range map[string]map[uint64]int{"replicas": count, "first leaders": first} {
			lo, hi := c.ranges*c.replicas, 0
			for _, mem := range c.members {
				lo, hi = min(lo, m[uint64(mem.ID)]), max(hi, m[uint64(mem.ID)])
			}
			if c.ranges%len(c.members) == 0 && lo != hi || hi-lo > 2 {
				t.Errorf("%s: %s from %d to %d", name, what, lo, hi)
			}
		}
	}
}

func TestPlanBootstrapIsAFunctionOfItsInput(t *testing.T) {
	ms := membersOf("b", "a", "b", "c", "a")
	keys := [][]byte{[]byte("m"), []byte("c"), nil, []byte("m")}
	want, err := Bootstrap(Layout{Members: ms, SplitKeys: keys, ReplicationFactor: 3}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(ms)
	slices.Reverse(keys)
	for range 10 {
		b := Bootstrap(Layout{Members: ms, SplitKeys: keys, ReplicationFactor: 3})
		if len(b.Ranges) != 3 {
			t.Fatalf("%d ranges of the keys c and m", len(b.Ranges))
		}
		if got, err := b.MarshalVT(); err != nil || !slices.Equal(got, want) {
			t.Fatalf("another plan: %v", b)
		}
	}
}

func TestPlanBootstrapWithoutVoters(t *testing.T) {
	learner := shard.Member{ID: 1, Learner: true}
	for _, l := range []Layout{{ReplicationFactor: 3}, {Members: []shard.Member{learner}}} {
		if b := Bootstrap(l); b != nil {
			t.Errorf("a layout without a voting member: %v", b)
		}
	}
	b := Bootstrap(Layout{Members: []shard.Member{learner, {ID: 2}}, ReplicationFactor: 3})
	if len(b.Members) != 2 || len(b.Ranges) != 1 || len(b.Ranges[0].Replicas) != 1 || b.Ranges[0].Replicas[0].NodeId != 2 {
		t.Errorf("%v", b)
	}
}
