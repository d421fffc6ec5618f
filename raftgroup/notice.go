package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Notices of commits. A leader whose commit index has risen tells its followers by an append without
// entries, which they acknowledge as they do any other: two messages per follower and entry that
// carry one number. A follower that has acknowledged everything up to the commit index needs the
// number alone, which a heartbeat may carry; and the leader needs no answer, since it knows what it
// would say. One that has not acknowledged so much yet could not apply it either, and is told as
// soon as it has.
//
// A notice may be lost, as any message may: heartbeats say the same again, and a group does not sleep
// before its followers agree on the commit index.

// noticeMark is the context of a notice, and of the answer that Raft makes to it, which is not sent.
var noticeMark = []byte("notice")

// notices is what a leader has to tell of its commits. It belongs to the step worker.
type notices struct {
	acksOnly bool              // nothing but acknowledgements has been stepped in this turn
	pending  map[uint64]uint64 // commit indexes that replicas are to be told
}

// stepped notes a message that Raft is given in this turn.
func (n *notices) stepped(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgAppResp:
		n.acksOnly = n.acksOnly && !m.GetReject()
	case raftpb.MsgStorageAppendResp:
	default:
		n.acksOnly = false
	}
}

// forget is for a leadership that has changed.
func (n *notices) forget() { clear(n.pending) }

// replaces takes a message that says nothing but what is committed: the notice is sent in its place,
// now or once it is acknowledged. An append that asks a follower what it has is no such message:
// Raft sends that when it hears of a heartbeat's answer, a refusal, or a connection that broke.
func (n *notices) replaces(g *group, m *raftpb.Message) bool {
	if len(m.GetEntries()) > 0 {
		if n.pending[m.GetTo()] <= m.GetCommit() {
			delete(n.pending, m.GetTo()) // it is in this message
		}
		return false
	}
	if !n.acksOnly || !g.role.IsLeader {
		return false
	}
	replicating := false
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		replicating = replicating || id == m.GetTo() && pr.State == tracker.StateReplicate
	})
	if replicating {
		if n.pending == nil {
			n.pending = make(map[uint64]uint64)
		}
		n.pending[m.GetTo()] = m.GetCommit()
	}
	return replicating
}

// send sends the notices that may be sent.
func (n *notices) send(g *group) {
	if len(n.pending) == 0 {
		return
	}
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		commit, pending := n.pending[id]
		if !pending || pr.Match < commit {
			return
		}
		delete(n.pending, id)
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: uint64(g.cfg.Replica), To: id, Term: g.role.Term, Commit: commit, Notice: true,
		}
		node := g.members.nodeOf(shard.ReplicaID(id))
		g.h.nodes.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
	})
}
