package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"pontoon/internal/meta"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// metaGroup is this node's replica of the meta group, which comes and goes as those of ranges do: see held. A start opens what the log
// lists, and only the first start of a cluster lays a group out by the flags (hazard 46). From then on a replica comes when a leader speaks to it and the
// newest map has it here as a learner: it waits for its state. It goes when the group has given it up.
//
// What a former life has saved of where the group is says whom to ask, and nothing else.
type metaGroup struct {
	h     *Host
	dir   string                    // of the state's file
	saved shard.Descriptor          // where the group was, as far as a former life of the node knew
	now   atomic.Pointer[meta.Here] // nil: none is here

	told    atomic.Uint64 // the last replica of which it was said that it does not begin again
	expired atomic.Uint64 // leases that have, while this node led the group

	watch func(shard.RangeID, raftgroup.StateMachine) raftgroup.StateMachine // returns one that is counted
}

// get is the replica that is here, nil: none is, which is what a nil *meta.Meta says.
func (g *metaGroup) get() *meta.Meta {
	if r := g.now.Load(); r != nil {
		return r.Meta
	}
	return nil
}

// ServeLeased implements metaclient.Oracle.
func (g *metaGroup) ServeLeased(epoch uint64, ask shard.Ask, lend bool) (shard.Now, bool) {
	if r := g.now.Load(); r != nil {
		return r.ServeLeased(epoch, ask, lend)
	}
	return shard.Now{}, false
}

// Handle serves a call of the meta group. Where no replica is, the answer says where they are: this may be a node that somebody remembers.
func (g *metaGroup) Handle(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, answer func(*pb.PeerResponse)) {
	if r := g.now.Load(); r != nil {
		r.Handle(ctx, from, req, answer)
		return
	}
	client := g.h.cluster.Client
	answer(meta.Elsewhere(g.h.cfg.Identity.Node, client.Meta(), client.Leader()))
}

// start opens the replica that the log lists. Where it lists nothing at all, this is the first start: a new cluster is laid out by the plan, nil:
// the cluster was there already.
func (g *metaGroup) start(plan *pb.MetaBootstrap) error {
	list, err := g.h.raftLog.Replicas()
	if err != nil {
		return err
	}
	var first shard.Descriptor
	if plan != nil {
		first = pb.ToDescriptor(plan.Meta)
	}
	how := meta.Begin(g.h.cfg.Identity.Node, list, first, g.saved)
	switch {
	case how.Removed:
		return os.RemoveAll(g.dir)
	case how.Self == 0:
		return nil
	}
	if err := g.open(how, plan); err != nil {
		return advise(err, "the meta group's replica in "+g.dir+" with its part of the log", promisesLost)
	}
	return nil
}

// open opens a replica and adds its group. plan is what a new cluster is laid out by.
func (g *metaGroup) open(how meta.Beginning, plan *pb.MetaBootstrap) error {
	h := g.h
	if !how.First {
		plan = nil
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return err
	}
	mode := meta.ModeLease
	if h.cfg.QuorumOracle {
		mode = meta.ModeQuorum
	}
	m, err := meta.Open(meta.Config{
		Node: h.cfg.Identity.Node, Host: h.raft, Dir: g.dir, Replica: how.Self, Desc: how.Desc, Bootstrap: plan, Now: bootClock,
		Ranges: rangeOps{h}, Placement: g.placement(), Reach: h.reach, Push: h.net.mesh,
		Removed:         func() { h.ranges.removals.push(shard.MetaID) },
		Expired:         func() { g.expired.Add(1) },
		ElectionTimeout: h.cfg.Election, Mode: mode, Logger: h.log,
	})
	if err != nil {
		return err
	}
	r := &meta.Here{Meta: m, Self: how.Self, Heard: how.Desc}
	cfg := raftgroup.GroupConfig{
		ID: shard.MetaID, Replica: how.Self, SM: g.watch(shard.MetaID, m), Members: func() map[shard.ReplicaID]shard.NodeID { return r.Places(g.saved) },
		Observer: &metaObserver{Meta: m, log: h.log, leads: &h.metaLeads},
		Lease:    !h.cfg.QuorumOracle, NoQuiesce: true, CampaignNow: how.Campaign, Waiting: how.Waits,
	}
	if !how.Waits {
		cfg.Peers = peersOf(how.Desc, shard.Replica{ID: how.Self, Node: h.cfg.Identity.Node})
	}
	g.now.Store(r) // it may be told at once that it is removed
	if err := h.raft.AddGroup(cfg); err != nil {
		g.now.Store(nil)
		return errors.Join(err, m.Close())
	}
	return nil
}

// close closes the replica that is here.
func (g *metaGroup) close() error {
	if r := g.now.Swap(nil); r != nil {
		return r.Close()
	}
	return nil
}

// spokenTo lets a replica wait that a member of the group has spoken to and the newest map has, or does nothing: it is spoken to again. A replica is added as a learner, and is here before it
// votes. One that votes and is not here has lost its files, and what it has promised with them: it must not begin again (hazards 45, 63).
func (g *metaGroup) spokenTo(d shard.Descriptor, self shard.Replica, held *held) error {
	if self.Role != shard.Learner && !mutate.On(mutate.MetaWaitsAgain) {
		if g.now.Load() == nil && g.told.Swap(uint64(self.ID)) != uint64(self.ID) {
			return fmt.Errorf("%w: replica %d of the meta group has a vote, and its files are not on this node: move it to another node (see `client ranges move`)", shard.ErrCorrupt, self.ID)
		}
		return nil
	}
	return held.alone(shard.MetaID, func() error {
		if g.now.Load() != nil {
			return nil
		}
		if !mutate.On(mutate.MetaOldState) { // of a replica that was removed before
			if err := os.RemoveAll(g.dir); err != nil {
				return err
			}
		}
		err := g.open(meta.Beginning{Self: self.ID, Desc: d, Waits: true}, nil)
		if errors.Is(err, raftgroup.ErrReplicaRemoved) {
			return nil // the map has not heard yet, or the sender
		}
		if err == nil {
			g.h.log.Info("a replica of the meta group waits for its state", "replica", uint64(self.ID))
		}
		return err
	})
}

// learningPoll is how often is looked whether the replica of a learner has come.
const learningPoll = 20 * time.Millisecond

// awaitLearning lets a learner among the members wait until its replica of the group has a state, so that it can be promoted once it serves. Nothing
// depends on that: it waits for leadersWait at most.
func (g *metaGroup) awaitLearning(ctx context.Context) {
	until := time.Now().Add(leadersWait * g.h.cfg.Election)
	for time.Now().Before(until) && ctx.Err() == nil {
		if self, _ := g.h.net.directory.Member(g.h.cfg.Identity.Node); !self.Learner {
			return
		}
		if r := g.now.Load(); r != nil {
			if _, known := r.Descriptor(); known {
				return
			}
		}
		pause(ctx, learningPoll)
	}
}

// local is the replica that is here, and the newest generation at which it is known to belong to the group.
func (g *metaGroup) local() (self shard.ReplicaID, at shard.Generation, here bool) {
	r := g.now.Load()
	if r == nil {
		return 0, 0, false
	}
	return r.Self, r.Belonged(), true
}

// remove takes the replica away that the group has given up: first the tombstone, then the files.
func (g *metaGroup) remove(ctx context.Context) error {
	r := g.now.Load()
	if r == nil {
		return nil
	}
	done := make(chan struct{})
	if err := g.h.raft.RemoveGroup(shard.MetaID, func() { close(done) }); err != nil {
		return err
	}
	g.now.Store(nil)
	select {
	case <-done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), r.Close())
	}
	err := errors.Join(r.Close(), os.RemoveAll(g.dir))
	g.h.metaLeads.changed.wake()
	g.h.log.Info("a replica of the meta group has been removed from this node: the group has given it up", "replica", uint64(r.Self))
	return err
}
