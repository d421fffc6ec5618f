package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"pontoon/internal/backend"
	"pontoon/internal/meta"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// openMeta opens this node's replica of the meta group, where it has one, and makes the client.
func (h opening) openMeta() error {
	var plan *pb.MetaBootstrap // of a node that has joined a cluster that was there: none
	desc := metaclient.AnyMember(h.cfg.Members)
	if !h.cfg.Joined {
		if plan = h.cfg.Bootstrap; plan == nil {
			plan = placement.Bootstrap(placement.Layout{Members: h.cfg.Members, SplitKeys: h.cfg.SplitKeys, ReplicationFactor: h.cfg.ReplicationFactor})
		}
		if plan == nil {
			return fmt.Errorf("%w: the initial cluster has no voting member", shard.ErrInvalid)
		}
		plan.ClusterId = h.cfg.Identity.ClusterID
		desc = pb.ToDescriptor(plan.Meta)
	}
	if saved := h.saved.about.meta; saved.Generation > desc.Generation {
		desc = saved // whom to ask, and no more
	}
	h.meta = &metaGroup{h: h.Host, watch: h.machines.watch, dir: filepath.Join(h.cfg.DataDir, "meta"), saved: desc}
	h.opened(h.meta.close)
	if err := h.meta.start(plan); err != nil {
		return err
	}
	client := metaclient.New(metaclient.Config{
		Self: h.cfg.Identity.Node, Calls: h.net.mesh, Local: h.meta, Meta: desc, Nodes: h.net.directory.Others,
		Members: h.net.directory.SetMembers, ElectionTimeout: h.cfg.Election, FollowSettings: true, Steady: bootClock,
	})
	h.opened(func() error {
		client.Close()
		return nil
	})
	h.cluster = backend.NewCluster(client, h.net.directory)
	return nil
}

// placement is what the planner is given, which runs where the meta group is led.
func (g *metaGroup) placement() meta.Placement {
	h := g.h
	return meta.Placement{
		Mode: h.cfg.Placement, SplitBytes: h.cfg.RangeMaxBytes, ReplicationFactor: h.cfg.ReplicationFactor, DeadAfter: h.cfg.DeadAfter, MergeAfter: h.cfg.MergeAfter, Group: true,
		Nodes: h.net.mesh, Alive: func(n shard.NodeID) bool { return h.members.alive(n) },
	}
}

// rangeOps is the router for the meta replica, which is there before it: both ask the meta group.
type rangeOps struct{ h *Host }

// ExpireLease implements meta.RangeOps.
func (o rangeOps) ExpireLease(ctx context.Context, lease int64, grant uint64, spans []shard.Span) (int64, error) {
	return o.h.router.ExpireLease(ctx, lease, grant, spans)
}

// CompactRanges implements meta.RangeOps.
func (o rangeOps) CompactRanges(ctx context.Context, rev int64, physical bool) error {
	return o.h.router.CompactRanges(ctx, rev, physical)
}

// Change implements meta.RangeOps.
func (o rangeOps) Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	return o.h.router.Change(ctx, req)
}

// metaObserver counts leader changes besides telling the meta group's replica.
type metaObserver struct {
	*meta.Meta
	log   *slog.Logger
	leads *metaLeads
	last  shard.ReplicaID
}

// LeaderChanged implements raftgroup.Observer.
func (o *metaObserver) LeaderChanged(l raftgroup.Leadership) {
	if l.Leader != 0 && l.Leader != o.last {
		o.last = l.Leader
		o.leads.count.Add(1)
		o.log.Info("the meta group has a leader", "leader", l.Leader, "term", l.Term, "this_node", l.IsLeader)
	}
	o.Meta.LeaderChanged(l)
	o.leads.changed.wake()
}

// peersOf says where the replicas of a range live. self is here: the descriptor may not know it any more.
func peersOf(d shard.Descriptor, self shard.Replica) map[shard.ReplicaID]shard.NodeID {
	peers := d.Places()
	peers[self.ID] = self.Node
	return peers
}

func learnersOf(d shard.Descriptor) (ids []shard.ReplicaID) {
	for _, r := range d.Replicas {
		if !r.Votes() {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// inbound hands what the transport receives to the groups, which need the transport to be there first.
type inbound struct{ h *Host }

// HandleFrame implements transport.Handler.
func (in inbound) HandleFrame(from shard.NodeID, f *pb.RaftFrame) { in.h.raft.HandleFrame(from, f) }

// HandleSnapshot implements transport.Handler.
func (in inbound) HandleSnapshot(from shard.NodeID, head *pb.SnapshotHeader, r io.Reader) error {
	repairs := in.h.ranges.repairs
	if l, lost := repairs.lostOf(shard.RangeID(head.Group)); lost && l.waiting { // one that has had a state gets it in any case
		if err := repairs.room.spare(); err != nil {
			return err
		}
	}
	return in.h.raft.HandleSnapshot(from, head, r)
}

// PeerUnreachable implements transport.Handler.
func (in inbound) PeerUnreachable(node shard.NodeID) { in.h.raft.PeerUnreachable(node) }
