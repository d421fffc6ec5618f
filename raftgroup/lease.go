package raftgroup

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Leader leases. A round of proofs to a group with a lease asks every follower for a vote lease: to
// vote for nobody and not to campaign for LeaseDuration, by its clock, from when it hears
// the request. The leader counts from when it sent it, and a tenth less. Only answers of the
// same group in the same term count.
//
// What keeps a vote lease over a crash is that a voter which has just started behaves as if it
// had granted one in the last moment of its former life, unless nothing was ever written there; and one
// whose term is not durable yet, and could forget that it ever took part, grants none.
//
// A leader transfer overrides vote leases, because its votes must be granted at once. That is why
// the term in which one began never has a lease again: a late MsgTimeoutNow may still come.

// A lease counts in the configuration in which it has been worked out, and in no other: those who could elect
// somebody else after a change need not be those who have granted it. While a configuration is joint, both of
// its halves must have. The leader asks anew at once when it applies a change.

// lease is what a leader has been granted.
type lease struct {
	term  uint64
	conf  uint64 // the index of the configuration whose voters have granted it
	until time.Time
}

// voteLease is what a replica has granted its leader. It belongs to the step worker.
type voteLease struct {
	until time.Time
	// starting says that it is the one of a voter that has just started, and asked are the requests for a
	// pre-vote that came meanwhile, by sender: they are answered when it has passed. Others may start a
	// moment earlier, and would have to ask again.
	starting bool
	asked    map[uint64]*raftpb.Message
}

// restart is the vote lease of a voter that does not know what it granted before.
func (l *voteLease) restart(g *group) {
	if g.cfg.Lease && !g.campaign.fresh {
		l.until, l.starting = g.h.cfg.Alone.Add(g.h.cfg.LeaseDuration), true
	}
}

// deferVote keeps a request for a vote until the vote lease of the start has ended.
func (l *voteLease) deferVote(m *raftpb.Message) {
	if l.starting && m.GetType() == raftpb.MsgPreVote {
		if l.asked == nil {
			l.asked = map[uint64]*raftpb.Message{}
		}
		l.asked[m.GetFrom()] = m
	}
}

// expire forgets the vote lease of the start once it has ended, and returns what waited for that.
func (l *voteLease) expire(g *group) []*raftpb.Message {
	if !l.starting || l.active(g) {
		return nil
	}
	var waited []*raftpb.Message
	for _, from := range slices.Sorted(maps.Keys(l.asked)) {
		waited = append(waited, l.asked[from])
	}
	l.starting, l.asked = false, nil
	return waited
}

func (l *voteLease) active(g *group) bool {
	return g.cfg.Lease && g.h.cfg.Now().Before(l.until)
}

// transferVote is Raft's mark of an election that the leader asked for.
var transferVote = []byte("CampaignTransfer")

// allows says whether a request for a vote may reach Raft, or this replica's own may leave.
func (l *voteLease) allows(g *group, m *raftpb.Message) bool {
	return bytes.Equal(m.GetContext(), transferVote) || !l.active(g)
}

// grant answers a leader that asks for a lease. It runs on the worker, so that no vote
// can be under way.
func (l *voteLease) grant(g *group, node shard.NodeID, seq uint64, pr *pb.Proof) {
	d := time.Duration(pr.LeaseMs) * time.Millisecond
	if g.rn.BasicStatus().GetTerm() != pr.Term || g.pub.savedTerm.Load() != pr.Term || d > g.h.cfg.LeaseDuration {
		return
	}
	if until := g.h.cfg.Now().Add(d); until.After(l.until) {
		*l = voteLease{until: until}
	}
	answer := &pb.ProofRound{Seq: seq, Response: true, Proofs: []*pb.Proof{pr}}
	g.h.nodes.post(node, 32, func(f *pb.RaftFrame) { f.Rounds = append(f.Rounds, answer) })
}

// LeaseUntil returns until when this replica, which leads term, is sure that no other replica
// leads a higher one, as things stand at the call: a leader transfer ends the lease before that
// time, and so does a change of the configuration: ask again at every use. A group of one voter always has a lease while it leads.
func (h *Host) LeaseUntil(id shard.RangeID, term uint64) (time.Time, bool) {
	g := h.group(id)
	if g == nil {
		return time.Time{}, false
	}
	l := g.pub.lease.Load()
	if l == nil || l.term != term || g.pub.leadTerm.Load() != term || g.pub.noLease.Load() == term ||
		l.conf != g.members.conf().Index && !mutate.On(mutate.LeaseOverChange) || !h.cfg.Now().Before(l.until) {
		return time.Time{}, false
	}
	return l.until, true
}
