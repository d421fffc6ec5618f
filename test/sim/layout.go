package sim

import (
	"fmt"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// keysPerRange is small, so that clients get in each other's way.
const keysPerRange = 5

// layout is what the cluster is made of.
type layout struct {
	plan *pb.MetaBootstrap
	meta shard.Descriptor
	all  *shard.Map
	keys [][]byte // in order
}

func newLayout(nodes, ranges int) *layout {
	var members []shard.Member
	for i := 1; i <= nodes; i++ {
		members = append(members, shard.Member{ID: shard.NodeID(i), Name: fmt.Sprintf("n%d", i), Formats: uint32(clusterversion.Newest)})
	}
	l := &layout{}
	var cuts [][]byte
	for r := range ranges {
		first := byte('a' + r)
		if r > 0 {
			cuts = append(cuts, []byte{first})
		}
		for k := range keysPerRange {
			l.keys = append(l.keys, fmt.Appendf(nil, "%c%d", first, k))
		}
	}
	l.plan = placement.Bootstrap(placement.Layout{Members: members, SplitKeys: cuts, ReplicationFactor: 3})
	l.plan.ClusterId = 1
	l.meta = pb.ToDescriptor(l.plan.Meta)
	m, err := shard.NewMap(1, pb.ToDescriptors(l.plan.Ranges))
	if err != nil {
		panic(err) // the plan covers the key space
	}
	l.all = m
	return l
}
