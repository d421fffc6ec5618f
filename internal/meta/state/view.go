package state

import (
	"slices"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// View is what nodes are told of the cluster, as it was at one moment. It is immutable: taking it costs nothing, and
// rendering it, which may take a second, needs no lock.
type View struct {
	Meta      shard.Descriptor
	ranges    *shard.Map
	clusterID uint64
	members   []shard.Member
	version   clusterversion.Version
	known     uint64   // the version that the asker has
	since     []change // to it
	changed   bool     // since is all that is to be told
}

// View returns it for an asker who has the given version of the map, 0 for none. With differences he takes what has
// changed since.
func (s *State) View(known uint64, differences bool) View {
	v := View{Meta: s.Meta(), ranges: s.ranges.now, clusterID: s.clusterID, members: s.list, version: s.version, known: known}
	if differences {
		v.since, v.changed = s.ranges.since(known)
	}
	return v
}

// Size bounds the number of descriptors that Response looks at.
func (v *View) Size() int {
	switch {
	case v.known == v.ranges.Version():
		return 0
	case !v.changed:
		return v.ranges.Len()
	}
	size := 0
	for _, c := range v.since {
		size += len(c.ranges)
	}
	return min(size, v.ranges.Len())
}

// Response renders the answer: that nothing is new, all there is, or the differences if these are known and less.
func (v *View) Response() *pb.DescriptorsResponse {
	out := &pb.DescriptorsResponse{Version: v.ranges.Version(), ClusterId: v.clusterID, ClusterVersion: uint32(v.version)}
	if v.known == out.Version {
		return out
	}
	members := true
	if ids := v.changedIDs(); v.changed && len(ids) < v.ranges.Len() {
		out.BaseVersion = v.known
		for _, id := range ids {
			if d, ok := v.ranges.Get(id); ok {
				out.Ranges = append(out.Ranges, pb.FromDescriptor(d))
			} else {
				out.Removed = append(out.Removed, uint64(id))
			}
		}
		members = slices.ContainsFunc(v.since, func(c change) bool { return c.members })
	} else {
		out.Ranges = pb.FromMap(v.ranges)
	}
	if members {
		out.Members, out.Meta = pb.FromMembers(v.members), pb.FromDescriptor(v.Meta)
	}
	return out
}

// ChangedSince lists the ranges that have changed since a version of the map, each once; false: nobody knows any more.
func ChangedSince(s *State, version uint64) ([]shard.RangeID, bool) {
	v := s.View(version, true)
	return v.changedIDs(), v.changed
}

// changedIDs lists the ranges that have changed, each once.
func (v *View) changedIDs() []shard.RangeID {
	var ids []shard.RangeID
	for _, c := range v.since {
		ids = append(ids, c.ranges...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
