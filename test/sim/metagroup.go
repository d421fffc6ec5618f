package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"pontoon/internal/meta"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// metaGroup is a life's replica of the meta group, which comes and goes as internal/host lets it.
type metaGroup struct {
	l   *life
	now atomic.Pointer[meta.Here] // nil: none is here
}

// ServeLeased implements metaclient.Oracle.
func (g *metaGroup) ServeLeased(epoch uint64, ask shard.Ask, lend bool) (shard.Now, bool) {
	if r := g.now.Load(); r != nil {
		return r.ServeLeased(epoch, ask, lend)
	}
	return shard.Now{}, false
}

// handle serves a call of the meta group, or says where its replicas are.
func (g *metaGroup) handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, answer func(*pb.PeerResponse)) {
	if r := g.now.Load(); r != nil {
		r.Handle(ctx, from, req, answer)
		return
	}
	answer(meta.Elsewhere(g.l.n.id, g.l.client.Meta(), g.l.client.Leader()))
}

func (g *metaGroup) dir() string { return filepath.Join(g.l.dir, "meta") }

// start opens the replica that the log lists, or at first the one that the layout has here.
func (g *metaGroup) start() error {
	n := g.l.n
	list, err := n.log.Replicas()
	if err != nil {
		return err
	}
	how := meta.Begin(n.id, list, n.w.layout.meta, n.metaAt)
	switch {
	case how.Removed:
		return os.RemoveAll(g.dir())
	case how.Self == 0:
		return nil
	}
	return g.open(how)
}

func (g *metaGroup) open(how meta.Beginning) error {
	l := g.l
	if err := os.MkdirAll(g.dir(), 0o700); err != nil {
		return err
	}
	l.draws += 1 << 16
	draws := l.draws
	conf := meta.Config{
		Node: l.n.id, Host: l.host, Dir: g.dir(), Replica: how.Self, Desc: how.Desc, Removed: g.givenUp,
		ElectionTimeout: election, TickInterval: -1, SnapshotEntries: 60, Now: l.n.clock, Ranges: rangeOps{l},
		RandomID: func() int64 { draws++; return draws }, Push: l.port,
	}
	if l.n.w.quorum {
		conf.Mode = meta.ModeQuorum
	}
	if how.First {
		conf.Bootstrap = l.n.w.layout.plan
	}
	m, err := meta.Open(conf)
	if err != nil {
		return err
	}
	r := &meta.Here{Meta: m, Self: how.Self, Heard: how.Desc}
	group := raftgroup.GroupConfig{
		ID: shard.MetaID, Replica: how.Self, SM: m, Observer: m, Members: func() map[shard.ReplicaID]shard.NodeID { return r.Places(l.n.metaAt) },
		Lease: !l.n.w.quorum, NoQuiesce: true, CampaignNow: how.Campaign, Waiting: how.Waits,
	}
	if !how.Waits {
		group.Peers = how.Desc.Places()
		group.Peers[how.Self] = l.n.id
	}
	g.now.Store(r)
	if err := l.host.AddGroup(group); err != nil {
		g.now.Store(nil)
		return errors.Join(err, m.Close())
	}
	return nil
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
		err = g.open(meta.Beginning{Self: self.ID, Desc: d, Waits: true})
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
	d := g.l.client.Meta()
	return d.Dropped(r.Self, r.Belonged())
}

// givenUp is told by the replica that its own log has removed it. That is not enough: see askForIt.
func (g *metaGroup) givenUp() {
	l := g.l
	l.n.w.post(fmt.Sprintf("meta given up %d", l.n.id), 0, func() {
		if l.alive {
			l.askForIt(shard.MetaID)
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
	w.note("node %d: replica %d of the meta group is removed", l.n.id, r.Self)
	w.stats.MetaRemoved++
	g.now.Store(nil)
	err := l.host.RemoveGroup(shard.MetaID, func() {
		w.post(fmt.Sprintf("meta removed %d", l.n.id), 0, func() {
			if !l.alive {
				return
			}
			if w.inspector != nil {
				w.inspector.buried(shard.MetaID, r.Self)
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
