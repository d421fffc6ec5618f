package backend

import (
	"context"
	"slices"

	"pontoon/internal/metaclient"
	"pontoon/internal/peer"
	"pontoon/shard"
	"pontoon/shard/router"
)

// Cluster is the meta group as this process knows it: its client, and who is where.
type Cluster struct {
	// Client asks the leader of the meta group.
	Client *metaclient.Client

	directory *peer.Directory
}

var _ router.Cluster = (*Cluster)(nil)

// NewCluster returns the view of a client, which tells the directory of the members.
func NewCluster(client *metaclient.Client, directory *peer.Directory) *Cluster {
	return &Cluster{Client: client, directory: directory}
}

// Current implements router.Cluster.
func (c *Cluster) Current(ctx context.Context) (router.Now, error) { return c.Client.Current(ctx) }

// CurrentFunc implements router.Cluster.
func (c *Cluster) CurrentFunc(cb func(router.Now, error)) { c.Client.NowFunc(cb) }

// GrantedFunc implements router.Cluster.
func (c *Cluster) GrantedFunc(since int64, cb func(router.Now, error)) {
	c.Client.GrantedFunc(since, cb)
}

// Granted implements router.Cluster.
func (c *Cluster) Granted(ctx context.Context, since int64) (router.Now, error) {
	return c.Client.Granted(ctx, since)
}

// Revision implements router.Cluster.
func (c *Cluster) Revision() int64 { return c.Client.Revision() }

// Compacted implements router.Cluster.
func (c *Cluster) Compacted() int64 { return c.Client.Compacted() }

// Map implements router.Cluster.
func (c *Cluster) Map() *shard.Map { return c.Client.Map() }

// Range finds a range in the newest map.
func (c *Cluster) Range(id shard.RangeID) (shard.Descriptor, bool) {
	if m := c.Client.Map(); m != nil {
		return m.Get(id)
	}
	return shard.Descriptor{}, false
}

// Refresh implements router.Cluster.
func (c *Cluster) Refresh(ctx context.Context) error { return c.Client.Refresh(ctx) }

// Compact implements router.Cluster.
func (c *Cluster) Compact(ctx context.Context, rev int64, physical bool) (int64, error) {
	return c.Client.Compact(ctx, rev, physical)
}

// Holders are those of some nodes on which a range may have a replica: all of them where ranges is nil, or one of them is not in the map. The answer may
// be nodes itself.
func (c *Cluster) Holders(ranges []shard.RangeID, nodes []shard.NodeID) []shard.NodeID {
	if ranges == nil {
		return nodes
	}
	m := c.Client.Map()
	if m == nil {
		return nodes
	}
	holds := make(map[shard.NodeID]bool, len(nodes))
	for _, id := range ranges {
		d, ok := m.Get(id)
		if !ok {
			return nodes
		}
		for _, r := range d.Replicas {
			holds[r.Node] = true
		}
		if len(holds) > len(nodes) {
			return nodes
		}
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(n shard.NodeID) bool { return !holds[n] })
}

// Newest is the newest revision that this process has seen anywhere, and the highest epoch. A fence at them
// is sound: no later oracle hands out a revision at or below one seen before.
func (c *Cluster) Newest() (int64, shard.Epoch) { return c.Client.Revision(), c.Client.Epoch() }

// Learn takes a revision and an epoch that a message carried.
func (c *Cluster) Learn(rev int64, epoch shard.Epoch) {
	c.Client.NoteEpoch(epoch)
	c.Client.NoteRevision(rev)
}

// Members are the members of the cluster, as the directory has them.
func (c *Cluster) Members() []shard.Member { return c.directory.Members() }
