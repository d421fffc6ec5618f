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

// isNotice takes a message that says nothing but what is committed: the notice is sent in its place,
// now or once it is acknowledged. An append that asks a follower what it has is no such message:
// Raft sends that when it hears of a heartbeat's answer, a refusal, or a connection that broke.
func (g *group) isNotice(m *raftpb.Message) bool {
	if len(m.GetEntries()) > 0 {
		if g.owed[m.GetTo()] <= m.GetCommit() {
			delete(g.owed, m.GetTo()) // it is in this message
		}
		return false
	}
	if !g.acksOnly || !g.leadership.IsLeader {
		return false
	}
	replicating := false
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		replicating = replicating || id == m.GetTo() && pr.State == tracker.StateReplicate
	})
	if replicating {
		if g.owed == nil {
			g.owed = make(map[uint64]uint64)
		}
		g.owed[m.GetTo()] = m.GetCommit()
	}
	return replicating
}

// payNotices sends the notices that may be sent.
func (g *group) payNotices() {
	if len(g.owed) == 0 {
		return
	}
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		commit, owed := g.owed[id]
		if !owed || pr.Match < commit {
			return
		}
		delete(g.owed, id)
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: uint64(g.cfg.Replica), To: id, Term: g.leadership.Term, Commit: commit, Notice: true,
		}
		node := g.cfg.Peers[shard.ReplicaID(id)]
		g.h.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
	})
}
