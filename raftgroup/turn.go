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
	g.turnMu.Lock()
	defer g.turnMu.Unlock()
	in, running := g.box.take()
	if !running {
		g.dropHeld()
		return
	}
	defer func() {
		if p := recover(); p != nil {
			g.fail(errorOf(p))
		}
	}()
	if in.work {
		g.wake()
	}
	g.acksOnly = len(in.calls)+len(in.lost)+in.ticks == 0
	for _, m := range in.msgs {
		g.stepMessage(m)
	}
	g.writing -= in.saved
	g.noteApplied(in.applied)
	for _, fn := range in.calls {
		fn()
	}
	g.propose(in.props)
	g.reportLost(in.lost)
	g.drain()
	g.maybeTruncate()
	g.maybeFail(in.ticks)
	if in.ticks > 0 {
		g.maybeQuiesce()
		g.tick(in.ticks)
	}
	g.catchSaved()
}

// stepMessage hands Raft a message, unless a promise to the leader forbids it.
func (g *group) stepMessage(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgAppResp:
		g.acksOnly = g.acksOnly && !m.GetReject()
	case raftpb.MsgStorageAppendResp:
		g.noteSaved(m)
	default:
		g.acksOnly = false
	}
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if !g.mayVote(m) {
			g.promise.hold(m)
			return
		}
	case raftpb.MsgTimeoutNow:
		if g.cfg.Lost {
			return // it cannot serve, so it must not lead
		}
	case raftpb.MsgTransferLeader:
		// Passed on by a follower. From here on the term has no lease.
		g.pub.noLease.Store(g.leadership.Term)
	}
	// Errors say that the sender is no member, or that a message of another node claims to be
	// local: both are dropped.
	_ = g.rn.Step(m)
}

// noteSaved moves the bounds that Raft sees to what the writer has written.
func (g *group) noteSaved(m *raftpb.Message) {
	st := &g.store.state
	if meta := m.GetSnapshot().GetMetadata(); meta != nil {
		at := Position{meta.GetIndex(), meta.GetTerm()}
		if at.Index > st.Truncated.Index {
			st.Truncated, st.Last = at, at.Index
			if g.applied.Index < at.Index {
				g.applied = at
			}
		}
	}
	if m.GetIndex() != 0 {
		st.Last = max(m.GetIndex(), st.Truncated.Index)
	}
}

// noteApplied tells Raft what the state machine has applied. Configuration changes take effect
// first, as Raft demands.
func (g *group) noteApplied(items []appliedItem) {
	for _, it := range items {
		for _, e := range it.confs {
			g.applyConf(e)
		}
		if it.last.Index > g.applied.Index {
			g.applied = it.last
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
			p.drop(&shard.NotLeaderError{Range: g.cfg.ID, Term: st.GetTerm(), Leader: g.cfg.Peers[shard.ReplicaID(st.Lead)]})
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
	if !g.leadership.IsLeader {
		return
	}
	for _, node := range nodes {
		for id, n := range g.cfg.Peers {
			if n == node && id != g.cfg.Replica {
				g.rn.ReportUnreachable(uint64(id))
			}
		}
	}
}

// tick passes on time that has gone by, and what comes of it.
func (g *group) tick(n int) {
	for range n {
		if g.quiescent {
			return // it has just fallen asleep, or did after the tick was sent
		}
		g.tickOnce()
	}
	g.drain()
}

func (g *group) tickOnce() {
	g.rn.Tick()
	g.idleTicks++
	for _, m := range g.promise.passed(g) {
		g.stepMessage(m)
	}
	if g.standIn > 0 {
		g.stand()
	}
	if g.fresh && g.cfg.CampaignNow && g.leadership.Leader == 0 && g.idleTicks%3 == 0 {
		_ = g.rn.Campaign() // the others may only just have started
	}
	if g.idleTicks%g.h.cfg.ElectionTicks == 0 {
		g.lane.push(g, applyTask{poll: true})
	}
	if g.cfg.Lost {
		g.lostTick()
	}
	if g.cfg.Lease && g.leadership.IsLeader {
		g.h.prover.renewLease(g)
	}
}

// drain hands on everything that Raft wants done.
func (g *group) drain() {
	for {
		g.publish()
		if !g.rn.HasReady() {
			break
		}
		g.handleReady(g.rn.Ready())
	}
	g.payNotices()
}

// handleReady holds the order that safety rests on. Term and role have been published before.
func (g *group) handleReady(rd raft.Ready) {
	if n := len(rd.Entries); n > 0 {
		g.idleTicks = 0
		g.fresh = false
		g.noteAppended(rd.Entries)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			g.handleAppend(m)
		case raft.LocalApplyThread:
			g.lane.push(g, applyTask{ents: m.GetEntries(), resps: m.GetResponses()})
		default:
			g.send(m)
		}
	}
}

func (g *group) noteAppended(ents []*raftpb.Entry) {
	end := ents[len(ents)-1]
	g.last = end.GetIndex()
	g.sizes.append(ents)
	if g.leadership.IsLeader && g.ownIndex == 0 {
		for _, e := range ents {
			if e.GetTerm() == g.leadership.Term {
				g.ownIndex = e.GetIndex()
				break
			}
		}
	}
	g.pub.last.Store(end.GetIndex())
}

// handleAppend takes what must be written. A new commit index alone is not worth a write: Raft
// finds it again.
func (g *group) handleAppend(m *raftpb.Message) {
	task := appendTask{g: g, resps: m.GetResponses()}
	up := Update{Group: g.cfg.ID, Entries: m.GetEntries()}
	if m.Term != nil {
		hs := HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
		if hs.Term != g.saved.Term || hs.Vote != g.saved.Vote || len(up.Entries) > 0 {
			up.HardState = &hs
		}
		g.saved = hs
		task.term = hs.Term
	}
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		g.installSnapshot(snap, up, task)
		return
	}
	if up.HardState != nil || len(up.Entries) > 0 {
		task.update = &up
	} else if g.writing == 0 && !g.installing {
		g.deliver(task.resps)
		return
	}
	g.pushAppend(task)
}

// pushAppend hands a task to the writer, or keeps it back while a snapshot is being installed.
func (g *group) pushAppend(t appendTask) {
	if t.update != nil && len(t.update.Entries) > 0 {
		t.bytes = bytesOf(t.update.Entries)
		g.h.intake.bytes.Add(t.bytes)
	}
	if g.installing {
		g.held = append(g.held, t)
		return
	}
	g.writing++
	g.h.writer.push(t)
}

// dropHeld forgets what a group that has stopped will not hand to the writer any more.
func (g *group) dropHeld() {
	for i := range g.held {
		g.h.intake.bytes.Add(-g.held[i].bytes)
	}
	g.held = nil
}

// deliver hands out messages that waited for a write: on the worker.
func (g *group) deliver(resps []*raftpb.Message) {
	for _, m := range resps {
		if m.GetTo() == uint64(g.cfg.Replica) {
			g.stepMessage(m)
		} else {
			g.send(m)
		}
	}
}

// send gives a message of this replica to the network, from the worker.
func (g *group) send(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgSnap:
		g.sendSnapshot(m)
		return
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if g.cfg.Lost || !g.mayCampaign(m) {
			return
		}
	case raftpb.MsgApp:
		if g.isNotice(m) {
			return
		}
	case raftpb.MsgHeartbeatResp:
		if bytes.Equal(m.GetContext(), noticeMark) {
			return
		}
	}
	g.postMessage(m)
}

// publish makes term, role and commit known to those who do not ask the worker.
func (g *group) publish() {
	st := g.rn.BasicStatus()
	now := Leadership{
		Term:     st.GetTerm(),
		Leader:   shard.ReplicaID(st.Lead),
		IsLeader: st.RaftState == raft.StateLeader,
	}
	g.pub.commit.Store(st.GetCommit())
	g.pub.first.Store(g.store.state.Truncated.Index + 1)
	g.pub.last.Store(g.last)
	if now != g.leadership {
		g.changeLeadership(now)
	}
	if now.IsLeader && g.ownTerm != now.Term && g.ownIndex != 0 && st.GetCommit() >= g.ownIndex {
		g.ownTerm = now.Term
		g.pub.ownTerm.Store(now.Term)
		g.h.prover.ownTermCommitted(g)
	}
}

func (g *group) changeLeadership(now Leadership) {
	before := g.leadership
	g.leadership = now
	g.pub.term.Store(now.Term)
	g.pub.leader.Store(uint64(now.Leader))
	if now.IsLeader {
		g.pub.leadTerm.Store(now.Term)
	} else {
		g.pub.leadTerm.Store(0)
	}
	if before.IsLeader && (!now.IsLeader || now.Term != before.Term) {
		g.h.prover.fail(g)
	}
	if now.IsLeader && !before.IsLeader {
		g.ownIndex = 0
	}
	clear(g.owed)
	g.idleTicks = 0
	g.lane.push(g, applyTask{event: &now})
}

// transfer begins a leader transfer: from here on this term has no lease.
func (g *group) transfer(to shard.ReplicaID) {
	if !g.leadership.IsLeader {
		return
	}
	g.pub.noLease.Store(g.leadership.Term)
	g.rn.TransferLeader(uint64(to))
}

// applyConf puts a configuration change into effect, unless the configuration that was
// recovered holds it already.
func (g *group) applyConf(e *raftpb.Entry) {
	if e.GetIndex() <= g.confIndex {
		return
	}
	cc, err := confChangeOf(e)
	if err != nil {
		panic(raftPanic(err.Error()))
	}
	g.confIndex = e.GetIndex()
	conf := Conf{State: g.rn.ApplyConfChange(cc), Index: e.GetIndex()}
	g.setConf(conf)
	g.pushAppend(appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &conf}})
}
