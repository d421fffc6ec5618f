package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"pontoon/internal/backend"
	"pontoon/internal/meta"
	"pontoon/internal/metaclient"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// openMeta opens this node's replica of the meta group, where it has one, and makes the client.
func (h opening) openMeta() error {
	conf := metaclient.Config{
		Self: h.cfg.Identity.Node, Calls: h.net.mesh, Members: h.net.directory.SetMembers, ElectionTimeout: h.cfg.Election,
	}
	if h.cfg.Joined {
		conf.Meta = metaclient.AnyMember(h.cfg.Members)
	} else if err := h.openFirstMeta(&conf); err != nil {
		return err
	}
	if h.saved.about.meta.ID != 0 {
		conf.Meta = h.saved.about.meta // it may have moved away from where it was first
	}
	client := metaclient.New(conf)
	h.opened(func() error {
		client.Close()
		return nil
	})
	h.cluster = backend.NewCluster(client, h.net.directory)
	return nil
}

// openFirstMeta opens the replica that one of the first members has, if it has one still, and says where all of them were.
func (h opening) openFirstMeta(conf *metaclient.Config) error {
	plan := placement.Bootstrap(placement.Layout{Members: h.cfg.Members, SplitKeys: h.cfg.SplitKeys, ReplicationFactor: h.cfg.ReplicationFactor})
	if plan == nil {
		return fmt.Errorf("%w: the initial cluster has no voting member", shard.ErrInvalid)
	}
	plan.ClusterId = h.cfg.Identity.ClusterID
	conf.Meta = pb.ToDescriptor(plan.Meta)
	holds, err := h.holdsMeta()
	if err != nil {
		return err
	}
	self, here := conf.Meta.ReplicaOn(h.cfg.Identity.Node)
	if !here || !holds {
		return nil
	}
	if err := h.openMetaReplica(conf.Meta, self, plan); err != nil {
		return err
	}
	conf.Local = h.meta
	return nil
}

// holdsMeta reports whether the meta group's replica that the flags name is here. At the first start of a node it is. Later the
// log says it: the group may have moved away, and must not be laid out once more (hazard 46).
func (h opening) holdsMeta() (bool, error) {
	list, err := h.raftLog.Replicas()
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(list, func(r raftgroup.Replica) bool { return r.Group == shard.MetaID })
	return len(list) == 0 || mutate.On(mutate.StartByFlags) || i >= 0 && list[i].State != raftgroup.ReplicaRemoved, nil
}

func (h opening) openMetaReplica(desc shard.Descriptor, self shard.Replica, plan *pb.MetaBootstrap) error {
	dir := filepath.Join(h.cfg.DataDir, "meta")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mode := meta.ModeLease
	if h.cfg.QuorumOracle {
		mode = meta.ModeQuorum
	}
	broken := func(err error) error {
		return advise(err, "the meta group's replica in "+dir+" with its part of the log", promisesLost)
	}
	m, err := meta.Open(meta.Config{
		Node: h.cfg.Identity.Node, Host: h.raft, Dir: dir, Desc: desc, Bootstrap: plan, Now: bootClock,
		Ranges: rangeOps{h.Host}, Placement: h.placement(), Reach: h.reach,
		ElectionTimeout: h.cfg.Election, Mode: mode, Logger: h.log,
	})
	if err != nil {
		return broken(err)
	}
	h.opened(m.Close)
	h.meta = m
	err = h.raft.AddGroup(raftgroup.GroupConfig{
		ID: shard.MetaID, Replica: self.ID, Peers: peersOf(desc, self), SM: m,
		Observer: &metaObserver{Meta: m, log: h.log, leads: &h.metaLeads},
		Lease:    !h.cfg.QuorumOracle, NoQuiesce: true, CampaignNow: preferred(desc) == self.ID,
	})
	if err != nil {
		return broken(err)
	}
	return nil
}

// placement is what the planner is given, which runs where the meta group is led.
func (h opening) placement() meta.Placement {
	return meta.Placement{
		Mode: h.cfg.Placement, SplitBytes: h.cfg.RangeMaxBytes, ReplicationFactor: h.cfg.ReplicationFactor, DeadAfter: h.cfg.DeadAfter,
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

// peersOf says where the replicas of a range live. self is here, if it is given: the descriptor may not know it any more.
func peersOf(d shard.Descriptor, self shard.Replica) map[shard.ReplicaID]shard.NodeID {
	peers := make(map[shard.ReplicaID]shard.NodeID, len(d.Replicas))
	for _, r := range d.Replicas {
		peers[r.ID] = r.Node
	}
	if self.ID != 0 {
		peers[self.ID] = self.Node
	}
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
