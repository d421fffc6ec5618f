package placement

import (
	"bytes"
	"slices"
	"sort"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Layout is what a new cluster is laid out from. Slices are read, and never kept.
type Layout struct {
	// Members are those of the cluster, learners too, in any order.
	Members []shard.Member
	// SplitKeys are the borders between the ranges, in any order.
	SplitKeys [][]byte
	// ReplicationFactor is how many replicas a range should have: at least 1, and at most as many as there
	// are voting members.
	ReplicationFactor int
}

// Bootstrap lays out a new cluster: the meta group on an odd number of members, at most five, and a
// range between any two neighbouring split keys, each on min(factor, members) members. Every member
// gets about as many replicas as any other, replicas of one range are spread over localities, and the
// first replica of a descriptor should lead first: these rotate over the members. Learners get nothing;
// without a voting member there is no plan, and nil is returned. Who proposes it sets the cluster's id.
func Bootstrap(s Layout) *pb.MetaBootstrap {
	ring := ringOf(s.Members)
	if len(ring) == 0 {
		return nil
	}
	all := slices.Clone(s.Members)
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	b := &pb.MetaBootstrap{Members: pb.FromMembers(all)}

	voters := shard.MetaVoters(len(ring))
	b.Meta = pb.FromDescriptor(shard.Descriptor{ID: shard.MetaID, Generation: 1, Replicas: place(ring, 0, voters)})

	rf := max(1, min(s.ReplicationFactor, len(ring)))
	var start []byte
	for i, end := range append(cleanKeys(s.SplitKeys), nil) {
		b.Ranges = append(b.Ranges, pb.FromDescriptor(shard.Descriptor{
			ID:         shard.FirstRangeID + shard.RangeID(i),
			Span:       shard.Span{Start: start, End: end},
			Generation: 1,
			Replicas:   place(ring, i, rf),
		}))
		start = end
	}
	return b
}

// cleanKeys sorts keys, and drops empty ones and repetitions.
func cleanKeys(keys [][]byte) [][]byte {
	out := slices.Clone(keys)
	slices.SortFunc(out, bytes.Compare)
	out = slices.CompactFunc(out, bytes.Equal)
	if len(out) > 0 && len(out[0]) == 0 {
		out = out[1:]
	}
	return out
}

// ringOf orders the voting members so that neighbours are in different localities as far as
// possible: it deals out the localities in turn.
func ringOf(members []shard.Member) []shard.Member {
	byPlace := make(map[string][]shard.Member)
	for _, m := range members {
		if !m.Learner {
			byPlace[m.Locality] = append(byPlace[m.Locality], m)
		}
	}
	places := make([]string, 0, len(byPlace))
	for p, ms := range byPlace {
		sort.Slice(ms, func(i, j int) bool { return ms[i].ID < ms[j].ID })
		places = append(places, p)
	}
	sort.Slice(places, func(i, j int) bool { // the fullest first: its members need most neighbours
		if a, b := len(byPlace[places[i]]), len(byPlace[places[j]]); a != b {
			return a > b
		}
		return places[i] < places[j]
	})
	var ring []shard.Member
	for round := 0; ; round++ {
		before := len(ring)
		for _, p := range places {
			if round < len(byPlace[p]) {
				ring = append(ring, byPlace[p][round])
			}
		}
		if len(ring) == before {
			return ring
		}
	}
}

// place picks n members from the ring, from a position on: first those that bring a new
// locality, then whoever comes next.
func place(ring []shard.Member, from, n int) []shard.Replica {
	var out []shard.Replica
	taken := make(map[shard.NodeID]bool, n)
	seen := make(map[string]bool, n)
	for _, anywhere := range []bool{false, true} {
		for k := 0; k < len(ring) && len(out) < n; k++ {
			m := ring[(from+k)%len(ring)]
			if taken[m.ID] || !anywhere && seen[m.Locality] {
				continue
			}
			taken[m.ID], seen[m.Locality] = true, true
			out = append(out, shard.Replica{ID: shard.ReplicaID(len(out) + 1), Node: m.ID})
		}
	}
	return out
}
