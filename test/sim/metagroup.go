package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"pontoon/internal/meta"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// metaGroup is a life's replica of the meta group, which comes and goes as internal/host lets it.
type metaGroup struct {
	l   *life
	now atomic.Pointer[metaReplica] // nil: none is here
}

type metaReplica struct {
	*meta.Meta
	self  shard.ReplicaID
	heard shard.Descriptor // that it was opened with
}

// ServeLeased implements metaclient.Oracle.
func (g *metaGroup) ServeLeased(epoch uint64, n int64) (shard.Now, bool) {
	if r := g.now.Load(); r != nil {
		return r.ServeLeased(epoch, n)
	}
	return shard.Now{}, false
}

// handle serves a call of the meta group, or says where its replicas are.
func (g *metaGroup) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, answer func(*pb.PeerResponse)) {
	if r := g.now.Load(); r != nil {
		r.Handle(ctx, from, req, answer)
		return
	}
	nl := &shard.NotLeaderError{Range: shard.MetaID, Known: []shard.Descriptor{g.l.client.Meta()}}
	if lead := g.l.client.Leader(); lead != g.l.n.id {
		nl.Leader = lead
	}
	answer(&pb.PeerResponse{Error: pb.ErrorToPB(nl)})
}

func (g *metaGroup) dir() string { return filepath.Join(g.l.dir, "meta") }

// start opens the replica that the log lists, or at first the one that the layout has here.
func (g *metaGroup) start() error {
	n := g.l.n
	first := n.w.layout.meta
	by, named := first.ReplicaOn(n.id)
	if n.lives == 1 {
		if !named {
			return nil
		}
		return g.open(by.ID, first, false)
	}
	list, err := n.log.Replicas()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(r raftgroup.Replica) bool { return r.Group == shard.MetaID })
	switch {
	case i < 0:
		return nil
	case list[i].State == raftgroup.ReplicaRemoved:
		return os.RemoveAll(g.dir())
	}
	desc := first
	if list[i].ID != by.ID {
		desc = n.metaAt
	}
	return g.open(list[i].ID, desc, list[i].State == raftgroup.ReplicaWaiting)
}

func (g *metaGroup) open(self shard.ReplicaID, desc shard.Descriptor, waits bool) error {
	l := g.l
	if err := os.MkdirAll(g.dir(), 0o700); err != nil {
		return err
	}
	l.draws += 1 << 16
	draws := l.draws
	conf := meta.Config{
		Node: l.n.id, Host: l.host, Dir: g.dir(), Replica: self, Desc: desc, Removed: g.givenUp,
		ElectionTimeout: election, TickInterval: -1, SnapshotEntries: 60, Ranges: rangeOps{l},
		RandomID: func() int64 { draws++; return draws },
	}
	if first, _ := l.n.w.layout.meta.ReplicaOn(l.n.id); first.ID == self {
		conf.Bootstrap = l.n.w.layout.plan
	}
	m, err := meta.Open(conf)
	if err != nil {
		return err
	}
	r := &metaReplica{m, self, desc}
	group := raftgroup.GroupConfig{
		ID: shard.MetaID, Replica: self, SM: m, Observer: m, Members: func() map[shard.ReplicaID]shard.NodeID { return g.places(r) },
		Lease: true, NoQuiesce: true, CampaignNow: l.n.lives == 1 && desc.Replicas[0].ID == self, Waiting: waits,
	}
	if !waits {
		group.Peers = peersOf(desc)
		group.Peers[self] = l.n.id
	}
	g.now.Store(r)
	if err := l.host.AddGroup(group); err != nil {
		g.now.Store(nil)
		return errors.Join(err, m.Close())
	}
	return nil
}

// places is where the replicas live, nil as long as the state does not say.
func (g *metaGroup) places(r *metaReplica) map[shard.ReplicaID]shard.NodeID {
	d, known := r.Descriptor()
	if !known {
		return nil
	}
	at, saved := peersOf(d), g.l.n.metaAt
	for _, r := range saved.Replicas {
		if _, known := at[r.ID]; !known && saved.Generation > d.Generation {
			at[r.ID] = r.Node
		}
	}
	return at
}

// consider lets a replica wait that a member of the group has spoken to.
func (g *metaGroup) consider(s raftgroup.Stranger) {
	l := g.l
	d := l.client.Meta()
	self, mine := d.ReplicaOn(l.n.id)
	if !mine || self.ID != s.Replica || g.now.Load() != nil || !l.unnoted(shard.MetaID) {
		return
	}
	if self.Role != shard.Learner {
		l.n.w.note("node %d: replica %d of the meta group is not here, and votes", l.n.id, self.ID)
		return
	}
	l.n.w.note("node %d: replica %d of the meta group waits", l.n.id, self.ID)
	err := os.RemoveAll(g.dir())
	if err == nil {
		err = g.open(self.ID, d, true)
	}
	if errors.Is(err, raftgroup.ErrReplicaRemoved) { // the map has not heard yet
		err = os.RemoveAll(g.dir())
	}
	if err != nil {
		l.n.w.failf("node %d: the meta group's replica cannot wait: %v", l.n.id, err)
	}
}

// look saves where the group is, and finds out whether a newer descriptor than the replica's is without it.
func (g *metaGroup) look() {
	l := g.l
	if d := l.client.Meta(); d.Generation > l.n.metaAt.Generation {
		l.n.metaAt = d
	}
	if g.out() {
		l.askForIt(shard.MetaID)
	}
}

// out reports whether the group has given up the replica here, as far as this node has heard.
func (g *metaGroup) out() bool {
	r := g.now.Load()
	if r == nil {
		return false
	}
	at, known := r.Descriptor()
	if _, member := at.Replica(r.self); !known || !member {
		at = r.heard
	}
	d := g.l.client.Meta()
	return d.Dropped(r.self, at.Generation)
}

// givenUp is told by the replica that its own log has removed it.
func (g *metaGroup) givenUp() {
	l := g.l
	l.n.w.post(fmt.Sprintf("meta given up %d", l.n.id), 0, func() {
		r := g.now.Load()
		if r == nil || !l.alive {
			return
		}
		if d, known := r.Descriptor(); known {
			if _, member := d.Replica(r.self); !member {
				g.remove()
			}
		}
	})
}

// remove writes the tombstone, and then deletes the files.
func (g *metaGroup) remove() {
	l, r := g.l, g.now.Load()
	w := l.n.w
	if r == nil {
		return
	}
	w.note("node %d: replica %d of the meta group is removed", l.n.id, r.self)
	w.stats.MetaRemoved++
	g.now.Store(nil)
	err := l.host.RemoveGroup(shard.MetaID, func() {
		w.post(fmt.Sprintf("meta removed %d", l.n.id), 0, func() {
			if !l.alive {
				return
			}
			if w.inspector != nil {
				w.inspector.buried(shard.MetaID, r.self)
			}
			if g.now.Load() != nil { // another one waits already
				return
			}
			if err := os.RemoveAll(g.dir()); err != nil {
				w.failf("node %d: %v", l.n.id, err)
			}
		})
	})
	if err != nil {
		w.failf("node %d: the meta group's replica cannot be removed: %v", l.n.id, err)
	}
	l.removals.closes(r.Close)
}

// close closes the replica that is here.
func (g *metaGroup) close() error {
	if r := g.now.Swap(nil); r != nil {
		return r.Close()
	}
	return nil
}

// meta is where the meta group is, as the node knows that knows it best.
func (w *world) meta() shard.Descriptor {
	d := w.layout.meta
	for _, n := range w.nodes {
		if n.life != nil {
			if o := n.life.client.Meta(); o.Generation > d.Generation {
				d = o
			}
		}
	}
	return d
}
