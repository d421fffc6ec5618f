package raftgroup

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Quiescence. A leader whose group is idle and whose followers are level with it tells them so
// and stops ticking; they check that they agree and stop too. Nothing is sent for such a group
// any more: what tells its followers that the leader lives is the frame that nodes exchange
// every tick. A group wakes when anything is proposed or arrives, when the leader's node falls
// silent or is started anew (its followers then stand for election), and when a follower's node
// comes back (its leader then looks after it). A node whose process is gone is told of by PeerGone,
// and groups that are awake stand for election as well.

// maybeQuiesce puts a leader's group to sleep. It comes after everything else of a turn, so
// that nothing of the turn wakes the followers again.
func (g *group) maybeQuiesce() {
	if g.quiescent || g.cfg.NoQuiesce || !g.leadership.IsLeader || g.failed != nil || g.idleTicks+1 < g.h.cfg.QuiesceTicks {
		return
	}
	if !g.level() {
		return
	}
	// Who sleeps does not hear how far the state machine has become durable, and keeps its log.
	if _, long := g.truncatable(g.applied.Index); long && g.idleTicks <= g.h.cfg.ElectionTicks {
		return
	}
	for id, node := range g.cfg.Peers {
		if id == g.cfg.Replica {
			continue
		}
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: uint64(g.cfg.Replica), To: uint64(id),
			Term: g.leadership.Term, Commit: g.last, Quiesce: true,
		}
		g.h.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
	}
	g.sleep()
}

// level reports whether every replica has everything, on nodes that live.
func (g *group) level() bool {
	st := g.rn.BasicStatus()
	if g.ownTerm != g.leadership.Term || st.GetCommit() != g.last || g.applied.Index != g.last ||
		g.writing != 0 || st.LeadTransferee != raft.None {
		return false
	}
	level := true
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == uint64(g.cfg.Replica) {
			return
		}
		if pr.Match != g.last || pr.State != tracker.StateReplicate {
			level = false
			return
		}
		if _, alive := g.h.lastHeard(g.cfg.Peers[shard.ReplicaID(id)]); !alive {
			level = false
		}
	})
	return level
}

// onQuiesce is a follower's answer to a leader that goes to sleep. One that does not agree on
// every point says so, and wakes the leader by it.
func (g *group) onQuiesce(hb *pb.Heartbeat) {
	if hb.Response {
		g.wake()
		return
	}
	st := g.rn.BasicStatus()
	agree := st.RaftState == raft.StateFollower && st.GetTerm() == hb.Term && st.Lead == hb.From &&
		st.GetCommit() == hb.Commit && g.last == hb.Commit && !g.cfg.NoQuiesce
	if agree {
		if !g.quiescent {
			g.sleep()
		}
		return
	}
	g.wake()
	g.stepMessage(messageOf(hb))
	no := &pb.Heartbeat{Group: hb.Group, From: hb.To, To: hb.From, Term: hb.Term, Response: true, Quiesce: true}
	node := g.cfg.Peers[shard.ReplicaID(hb.From)]
	g.h.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, no) })
}

func (g *group) sleep() {
	g.quiescent = true
	g.pub.quiescent.Store(true)
	g.h.stopTicking(g)
}

func (g *group) wake() {
	if !g.quiescent {
		return
	}
	g.quiescent = false
	g.idleTicks = 0
	g.pub.quiescent.Store(false)
	g.h.startTicking(g)
}

// leaderGone makes a follower stand for election soon. The node that held the leader has been
// silent for an election timeout already, has lost the lead by starting anew, or runs no more: it
// is not waited for any longer. The voters that are left stand one after the other, so that they
// do not split the votes.
func (g *group) leaderGone(node shard.NodeID) {
	if g.cfg.Peers[g.leadership.Leader] != node {
		return
	}
	_ = g.rn.ForgetLeader() // never refused with safe reads
	g.standWait, g.standIn = 0, 1+standEvery*g.turnToStand(node)
}

const (
	// standEvery is how many ticks lie between two voters that stand for election.
	standEvery = 3
	// standAfterStart is how many ticks a node that was started again gives leaders to be heard,
	// and the other nodes to be reached, before the turn of its voters is counted. One that is opened later
	// waits for one tick. A promise may pass meanwhile.
	standAfterStart = 3
)

// turnToStand is how many of the voters that are left stand before this one. The group's id turns
// the order of their nodes, so that a dead node's leaderships spread over all others. It is not that of
// the replicas: who cuts ranges turns that, too.
func (g *group) turnToStand(gone shard.NodeID) int {
	var left []shard.ReplicaID
	for id := range g.pub.voters.Load().IDs() {
		if r := shard.ReplicaID(id); g.cfg.Peers[r] != gone {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b shard.ReplicaID) int { return cmp.Compare(g.cfg.Peers[a], g.cfg.Peers[b]) })
	i := slices.Index(left, g.cfg.Replica)
	if i < 0 {
		return len(left) // a learner; Raft refuses to let it stand
	}
	return (i + int(uint64(g.cfg.ID)%uint64(len(left)))) % len(left)
}

// stand counts down to this voter's turn, unless a leader is heard meanwhile. A promise is waited for
// first: nobody would be voted for before it ends. Others may have started a little later, so that theirs
// has not ended: they are asked again until the next voter's turn. And turns come again.
func (g *group) stand() {
	st := g.rn.BasicStatus()
	switch round := standEvery * len(g.pub.voters.Load().IDs()); {
	case st.Lead != raft.None:
		g.standIn = 0
	case g.standWait > 0:
		g.standWait--
	case g.promise.holds(g):
	default:
		g.standIn--
		again := g.standIn > round-standEvery && st.RaftState == raft.StatePreCandidate
		if g.standIn == 0 || again {
			_ = g.rn.Campaign() // refused while it cannot be elected
		}
		if g.standIn == 0 {
			g.standIn = round
		}
	}
}

// PeerGone says that no process listens at a node's address: it does not live, and its followers
// need not wait until its silence proves that. Called for a node that lives, it costs an election at
// worst, and only where most replicas of a group are told so. Repeated calls for a node that
// counts as dead do nothing.
func (h *Host) PeerGone(node shard.NodeID) {
	h.mu.Lock()
	p := h.mu.peers[node]
	news := p != nil && p.alive
	if news {
		p.alive = false
	}
	h.mu.Unlock()
	if news {
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
		case g.cfg.Peers[lead] == node && (asleep || gone):
			g.box.call(func() { g.leaderGone(node) })
		case asleep && lead == g.cfg.Replica && !g.majorityAlive():
			g.box.call(func() {})
		}
	})
}

func (g *group) majorityAlive() bool {
	voters := g.pub.voters.Load()
	votes := map[uint64]bool{}
	for id := range voters.IDs() {
		node := g.cfg.Peers[shard.ReplicaID(id)]
		_, alive := g.h.lastHeard(node)
		votes[id] = alive || node == g.h.cfg.Node
	}
	return voters.VoteResult(votes) == quorum.VoteWon
}

// noteFrame keeps account of which nodes live, and wakes what a change concerns.
func (h *Host) noteFrame(node shard.NodeID, boot uint64) {
	returned, restarted := h.sawNode(node, boot)
	if !returned && !restarted {
		return
	}
	h.eachGroup(func(g *group) {
		if !g.pub.quiescent.Load() {
			return
		}
		lead := shard.ReplicaID(g.pub.leader.Load())
		switch {
		case lead == g.cfg.Replica && g.hasReplicaOn(node):
			g.box.call(func() {})
		case restarted && g.cfg.Peers[lead] == node:
			g.box.call(func() { g.leaderGone(node) })
		}
	})
}

func (g *group) hasReplicaOn(node shard.NodeID) bool {
	for _, n := range g.cfg.Peers {
		if n == node {
			return true
		}
	}
	return false
}
