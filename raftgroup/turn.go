package raftgroup

import (
	"bytes"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// turn is one visit of a step worker: what has come in is stepped, then what Raft wants done is
// handed on. Messages come before ticks, so that a leader that spoke in time is heard in time; and a
// group that may sleep does so instead of ticking.
func (g *group) turn() {
	g.box.running.Lock()
	defer g.box.running.Unlock()
	in, running := g.box.take()
	if !running {
		g.appends.forget(g)
		return
	}
	defer func() {
		if p := recover(); p != nil {
			g.fail(errorOf(p))
		}
	}()
	if in.work {
		g.quiescence.wake(g)
	}
	g.notices.acksOnly = len(in.calls)+len(in.lost)+in.ticks == 0
	for _, m := range in.msgs {
		g.stepMessage(m)
	}
	g.appends.writing -= in.saved
	g.noteApplied(in.applied)
	for _, fn := range in.calls {
		fn()
	}
	g.propose(in.props)
	g.reportLost(in.lost)
	g.drain()
	g.truncation.maybe(g)
	g.handover.advance(g, in.ticks)
	if g.role.move.done != nil && g.role.move.asked == 0 {
		g.role.move.advance(g)
		g.drain()
	}
	if in.ticks > 0 {
		g.quiescence.maybeSleep(g)
		g.tick(in.ticks)
	}
	g.appends.catchUp(g)
}

// stepMessage hands Raft a message, unless the vote lease forbids it.
func (g *group) stepMessage(m *raftpb.Message) {
	g.notices.stepped(m)
	switch m.GetType() {
	case raftpb.MsgStorageAppendResp:
		g.store.noteSaved(m)
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if !g.voteLease.allows(g, m) {
			g.voteLease.deferVote(m)
			return
		}
	case raftpb.MsgTimeoutNow:
		if g.cfg.Lost || g.h.nodes.leaving.Load() {
			return // it cannot serve, or not for long, so it must not lead
		}
	case raftpb.MsgTransferLeader:
		// Passed on by a follower. From here on the term has no lease.
		g.pub.noLease.Store(g.role.Term)
	}
	// Errors say that the sender is no member, or that a message of another node claims to be
	// local: both are dropped.
	_ = g.rn.Step(m)
}

// noteApplied tells Raft what the state machine has applied. Configuration changes take effect
// first, as Raft demands.
func (g *group) noteApplied(items []appliedItem) {
	for _, it := range items {
		for _, e := range it.confs {
			g.applyConf(e, it.places)
		}
		if it.last.Index > g.store.applied.Index {
			g.store.applied = it.last
		}
		for _, m := range it.resps {
			_ = g.rn.Step(m) // a local answer is never refused
		}
	}
}

// propose appends the proposals whose term this replica still leads, all in one message.
func (g *group) propose(props []proposal) {
	if len(props) == 0 {
		return
	}
	st := g.rn.BasicStatus()
	var live []proposal
	msg := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(g.cfg.Replica))}
	for i := range props {
		p := &props[i]
		if st.RaftState != raft.StateLeader || st.GetTerm() != p.term {
			p.drop(&shard.NotLeaderError{Range: g.cfg.ID, Term: st.GetTerm(), Leader: g.members.nodeOf(shard.ReplicaID(st.Lead))})
			continue
		}
		live = append(live, *p)
		msg.Entries = append(msg.Entries, &raftpb.Entry{Data: p.data})
	}
	if len(live) == 0 {
		return
	}
	if err := g.rn.Step(msg); err == nil {
		return
	}
	// All or none: Raft has appended nothing.
	why := error(shard.ErrTooManyRequests)
	if st.LeadTransferee != raft.None {
		why = &shard.NotLeaderError{Range: g.cfg.ID, Term: st.GetTerm()}
	}
	for i := range live {
		live[i].drop(why)
	}
}

func (g *group) reportLost(nodes []shard.NodeID) {
	if !g.role.IsLeader {
		return
	}
	for _, node := range nodes {
		for _, v := range g.members.conf().others {
			if v.node == node {
				g.rn.ReportUnreachable(v.id)
			}
		}
	}
}

// tick passes on time that has gone by, and what comes of it.
func (g *group) tick(n int) {
	for range n {
		if g.quiescence.asleep {
			return // it has just fallen asleep, or did after the tick was sent
		}
		g.tickOnce()
	}
	g.drain()
}

func (g *group) tickOnce() {
	g.rn.Tick()
	g.quiescence.idle++
	for _, m := range g.voteLease.expire(g) {
		g.stepMessage(m)
	}
	g.campaign.tick(g)
	if g.quiescence.idle%g.h.cfg.ElectionTicks == 0 {
		g.lane.push(g, applyTask{poll: true})
	}
	if g.cfg.Lost {
		g.rebuild.tick(g)
	}
	if g.cfg.Lease && g.role.IsLeader {
		g.h.prover.renewLease(g)
	}
}

// drain hands on everything that Raft wants done.
func (g *group) drain() {
	for {
		g.role.publish(g)
		if !g.rn.HasReady() {
			break
		}
		g.handleReady(g.rn.Ready())
	}
	g.notices.send(g)
}

// handleReady holds the order that safety rests on. Term and role have been published before.
func (g *group) handleReady(rd raft.Ready) {
	if n := len(rd.Entries); n > 0 {
		g.quiescence.idle = 0
		g.campaign.fresh = false
		g.appends.last = rd.Entries[n-1].GetIndex()
		g.truncation.sizes.append(rd.Entries)
		g.role.noteAppended(rd.Entries)
		g.pub.last.Store(g.appends.last)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			g.appends.handle(g, m)
		case raft.LocalApplyThread:
			g.lane.push(g, applyTask{ents: m.GetEntries(), resps: m.GetResponses()})
		default:
			g.send(m)
		}
	}
}

// send gives a message of this replica to the network, from the worker.
func (g *group) send(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgSnap:
		g.snapshots.send(g, m)
		return
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if g.cfg.Lost || !g.voteLease.allows(g, m) {
			return
		}
	case raftpb.MsgApp:
		if g.notices.replaces(g, m) {
			return
		}
	case raftpb.MsgHeartbeatResp:
		if bytes.Equal(m.GetContext(), noticeMark) {
			return
		}
	}
	g.postMessage(m)
}

// transfer begins a leader transfer: from here on this term has no lease.
func (g *group) transfer(to shard.ReplicaID) {
	if !g.role.IsLeader {
		return
	}
	g.pub.noLease.Store(g.role.Term)
	g.rn.TransferLeader(uint64(to))
}

// applyConf puts a configuration change into effect, unless the configuration that was
// recovered holds it already.
func (g *group) applyConf(e *raftpb.Entry, places map[shard.ReplicaID]shard.NodeID) {
	if e.GetIndex() <= g.members.index {
		g.members.place(g, places)
		return
	}
	cc, err := confChangeOf(e)
	if err != nil {
		panic(raftPanic(err.Error()))
	}
	conf := Conf{State: g.rn.ApplyConfChange(cc), Index: e.GetIndex()}
	g.setConf(conf, places)
	g.appends.push(g, appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &conf}})
}
