package front

import (
	"context"
	"errors"
	"iter"

	"pontoon/internal/backend"
	"pontoon/internal/clusterversion"
	"pontoon/internal/corruption"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// compareReplicas compares what the replicas of ranges hold, until ctx ends: those of this node's ranges once, all while it leads the meta group.
func (f *Front) compareReplicas(ctx context.Context) {
	c := comparison{f.backend}
	corruption.Run(ctx, f.cfg.Corruption, corruption.Env{
		Leads:     f.leads,
		Ranges:    c.ranges,
		Compacted: f.backend.Cluster.Compacted,
		Copies:    f.router.Copies,
		Distrust:  c.distrust,
		Corrupt: func(ctx context.Context, node shard.NodeID) error {
			return f.backend.Cluster.Client.SetAlarm(ctx, node, placement.AlarmCorrupt, true)
		},
		Logger: f.log,
	})
}

// leads reports whether this node leads the meta group.
func (f *Front) leads() bool { return f.backend.Local.Meta().Leader == f.backend.Identity.Node }

// comparison is what package corruption asks of the node.
type comparison struct{ backend *backend.Backend }

// ranges are the ranges of the newest map that is known here, or those of them that this node holds.
func (c comparison) ranges(here bool) iter.Seq[shard.Descriptor] {
	return func(yield func(shard.Descriptor) bool) {
		m := c.backend.Cluster.Map()
		if m == nil {
			return
		}
		for d := range m.All() {
			if _, mine := d.ReplicaOn(c.backend.Identity.Node); (mine || !here) && !yield(d) {
				return
			}
		}
	}
}

// errOldMembers is why nobody is told that its replica differs: not all members understand it.
var errOldMembers = errors.New("members of an older version have to be replaced first")

// distrust has a node get the state of a range from the others.
func (c comparison) distrust(ctx context.Context, node shard.NodeID, id shard.RangeID, why string) error {
	if !c.backend.Cluster.Client.View().Version.Active(clusterversion.Distrust) {
		return errOldMembers
	}
	_, err := c.backend.Peers.Call(ctx, node, &pb.PeerRequest{Distrust: &pb.DistrustRequest{ReplicaOf: uint64(id), Why: why}})
	return err
}
