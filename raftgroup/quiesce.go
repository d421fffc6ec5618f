package raftgroup

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Quiescence. A leader whose group is idle and whose followers are level with it tells them so
// and stops ticking; they check that they agree and stop too. Nothing is sent for such a group
// any more: what tells its followers that the leader lives is the frame that nodes exchange
// every tick. A group wakes when anything is proposed or arrives, when the leader's node falls
// silent or is started anew (its followers then campaign), and when a follower's node
// comes back (its leader then looks after it). A node whose process is gone is told of by PeerGone,
// and voters of groups that are awake campaign as well.

// quiescence is whether a group sleeps. It belongs to the step worker, but for its place among those that
// do not.
type quiescence struct {
	asleep    bool
	idle      int // ticks since something happened
	tickIndex int // in Host.ticking, which guards it; -1: not there
}

// maybeSleep puts a leader's group to sleep. It comes after everything else of a turn, so
// that nothing of the turn wakes the followers again.
func (q *quiescence) maybeSleep(g *group) {
	if q.asleep || g.cfg.NoQuiesce || !g.role.IsLeader || g.handover.why != nil || g.role.move.done != nil || q.idle+1 < g.h.cfg.QuiesceTicks {
		return
	}
	if !q.level(g) {
		return
	}
	// Who sleeps does not hear how far the state machine has become durable, and keeps its log.
	if _, long := g.truncation.target(g, g.store.applied.Index); long && q.idle <= g.h.cfg.ElectionTicks {
		return
	}
	for _, v := range g.members.conf().others {
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: uint64(g.cfg.Replica), To: v.id,
			Term: g.role.Term, Commit: g.appends.last, Quiesce: true,
		}
		g.h.nodes.post(v.node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
	}
	q.sleep(g)
}

// level reports whether every replica has everything, on nodes that live.
func (q *quiescence) level(g *group) bool {
	st := g.rn.BasicStatus()
	if g.role.ownTerm != g.role.Term || st.GetCommit() != g.appends.last || g.store.applied.Index != g.appends.last ||
		g.appends.writing != 0 || st.LeadTransferee != raft.None {
		return false
	}
	level := true
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == uint64(g.cfg.Replica) {
			return
		}
		if pr.Match != g.appends.last || pr.State != tracker.StateReplicate {
			level = false
			return
		}
		if _, alive := g.h.nodes.lastHeard(g.members.nodeOf(shard.ReplicaID(id))); !alive {
			level = false
		}
	})
	return level
}

// onRequest is a follower's answer to a leader that goes to sleep. One that does not agree on
// every point says so, and wakes the leader by it.
func (q *quiescence) onRequest(g *group, hb *pb.Heartbeat) {
	if hb.Response {
		q.wake(g)
		return
	}
	st := g.rn.BasicStatus()
	agree := st.RaftState == raft.StateFollower && st.GetTerm() == hb.Term && st.Lead == hb.From &&
		st.GetCommit() == hb.Commit && g.appends.last == hb.Commit && !g.cfg.NoQuiesce
	if agree {
		if !q.asleep {
			q.sleep(g)
		}
		return
	}
	q.wake(g)
	g.stepMessage(messageOf(hb))
	no := &pb.Heartbeat{Group: hb.Group, From: hb.To, To: hb.From, Term: hb.Term, Response: true, Quiesce: true}
	node := g.members.nodeOf(shard.ReplicaID(hb.From))
	g.h.nodes.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, no) })
}

func (q *quiescence) sleep(g *group) {
	q.asleep = true
	g.pub.quiescent.Store(true)
	g.h.ticking.remove(g)
}

func (q *quiescence) wake(g *group) {
	if !q.asleep {
		return
	}
	q.asleep = false
	q.idle = 0
	g.pub.quiescent.Store(false)
	g.h.ticking.add(g)
}

// PeerGone says that no process listens at a node's address: it does not live, and its followers
// need not wait until its silence proves that. Called for a node that lives, it costs an election at
// worst, and only where most replicas of a group are told so. Repeated calls for a node that
// counts as dead do nothing.
func (h *Host) PeerGone(node shard.NodeID) {
	if h.nodes.gone(node) {
		h.nodeDied(node, true)
	}
}

// nodeDied wakes the sleeping groups whose leader was on a node that does not live any more, and the
// leaders that have lost their majority by it: they shall find out, and step down. Groups that are
// awake find out by themselves, unless the node is known to be gone.
func (h *Host) nodeDied(node shard.NodeID, gone bool) {
	h.eachGroup(func(g *group) {
		asleep := g.pub.quiescent.Load()
		lead := shard.ReplicaID(g.pub.leader.Load())
		switch {
		case g.members.nodeOf(lead) == node && (asleep || gone):
			g.box.call(func() { g.campaign.leaderGone(g, node) })
		case asleep && lead == g.cfg.Replica && !g.members.conf().votersAlive(h.nodes.alive):
			g.box.call(func() {})
		}
	})
}

// noteFrame keeps account of which nodes live, and wakes what a change concerns.
func (h *Host) noteFrame(node shard.NodeID, f *pb.RaftFrame) {
	returned, restarted := h.nodes.saw(node, f.Boot, f.Leaving)
	if !returned && !restarted {
		return
	}
	h.eachGroup(func(g *group) {
		if !g.pub.quiescent.Load() {
			return
		}
		lead := shard.ReplicaID(g.pub.leader.Load())
		switch {
		case lead == g.cfg.Replica && g.members.conf().on(node):
			g.box.call(func() {})
		case restarted && g.members.nodeOf(lead) == node:
			g.box.call(func() { g.campaign.leaderGone(g, node) })
		}
	})
}

// tickList is the groups that are not quiescent.
type tickList struct {
	mu struct {
		sync.Mutex
		groups []*group
	}
}

// add lets a group take part in ticks.
func (l *tickList) add(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.quiescence.tickIndex < 0 {
		g.quiescence.tickIndex = len(l.mu.groups)
		l.mu.groups = append(l.mu.groups, g)
	}
}

// remove takes a group out of the ticks, in constant time.
func (l *tickList) remove(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := g.quiescence.tickIndex
	if i < 0 {
		return
	}
	last := len(l.mu.groups) - 1
	moved := l.mu.groups[last]
	l.mu.groups[i], moved.quiescence.tickIndex = moved, i
	l.mu.groups[last] = nil
	l.mu.groups = l.mu.groups[:last]
	g.quiescence.tickIndex = -1
}

func (l *tickList) all() []*group {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.mu.groups)
}
