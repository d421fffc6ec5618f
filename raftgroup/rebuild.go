package raftgroup

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/shard"
)

// Replicas that have lost their state. A state machine's file may be damaged while the shared log
// is not: then the replica has its term, its vote and its entries, and everything that it has
// promised by them holds. What is gone is what the entries before the log's front amounted to.
//
// Such a group (GroupConfig.Lost) takes part in Raft as a follower that votes and stores entries,
// with these exceptions: it applies nothing, truncates nothing, and never stands for election, for
// a leader must be able to serve. It asks the leader for its state, again and again. The leader
// streams it as it streams a snapshot; Raft is told nothing, because the log lacks nothing. When
// the log is known to agree with the state's position, the state is installed, and the caller
// starts the group again, as after a crash: from the state's position on it replays its own log.
//
// If meanwhile the log itself falls too far behind, Raft's own snapshot serves the same end.

// ErrStateBehind is returned by AddGroup when the log begins after the state machine's state: the
// state is older than what the log was cut for, or it is not there. The group can be added as
// Lost.
var ErrStateBehind = errors.New("the log begins after the state")

// stateRequest marks the message that asks for a state, and the one that announces it. Raft's own
// reads are not used (see proofs), so the message's type is free.
var stateRequest = []byte("pontoon state")

func isStateRequest(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgReadIndex && bytes.Equal(m.GetContext(), stateRequest)
}

func isStateTransfer(m *raftpb.Message) bool { return bytes.Equal(m.GetContext(), stateRequest) }

// rebuild is what a lost replica has received and waits to install.
type rebuild struct {
	staged Staged
	at     Position
	conf   Conf
}

// askForState asks the leader for its state, or everybody while the leader is not known: a leader
// whose group sleeps wakes up by it.
func (g *group) askForState() {
	g.mu.Lock()
	busy := g.mu.rebuild != nil || g.mu.receiving > 0
	g.mu.Unlock()
	if busy || g.installing {
		return
	}
	for id := range g.cfg.Peers {
		if id == g.cfg.Replica || g.leadership.Leader != 0 && id != g.leadership.Leader {
			continue
		}
		g.postMessage(&raftpb.Message{
			Type: raftpb.MsgReadIndex.Enum(), From: new(uint64(g.cfg.Replica)), To: new(uint64(id)), Context: stateRequest,
		})
	}
}

// sendState streams the leader's state to a replica that has lost its own.
func (g *group) sendState(to uint64) {
	node, ok := g.cfg.Peers[shard.ReplicaID(to)]
	if !ok || !g.leadership.IsLeader || g.cfg.Lost || g.stateTo[to] || !g.h.tokens.sending.take(g.h.cfg.MaxSnapshots) {
		return // it asks again
	}
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(g.cfg.Replica)), To: &to,
		Term: &g.leadership.Term, Context: stateRequest,
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(raftPanic("marshal a snapshot message: " + err.Error()))
	}
	if g.stateTo == nil {
		g.stateTo = map[uint64]bool{}
	}
	g.stateTo[to] = true
	g.log.Info("sending the state to a replica that has lost its own", "to", to)
	g.h.cfg.Sender.SendSnapshot(node, g.snapshotHeader(data), g.writeSnapshot, func(err error) {
		g.h.tokens.sending.put()
		if err != nil {
			g.log.Warn("a state was not delivered", "to", to, "error", err)
		}
		g.box.call(func() { delete(g.stateTo, to) })
	})
}

// offerState takes a state that has been received. It runs on the worker.
func (g *group) offerState(r *rebuild) {
	if g.installing || r.at.Index < g.store.state.Truncated.Index {
		r.staged.Discard() // the next one that is asked for is newer
		return
	}
	g.mu.Lock()
	old := g.mu.rebuild
	g.mu.rebuild = r
	g.mu.Unlock()
	if old != nil {
		old.staged.Discard()
	}
	g.maybeRebuild()
}

// maybeRebuild installs the state that has been received, once everything up to its position is
// known to be committed in the log, too: only then the log holds the same history.
func (g *group) maybeRebuild() {
	g.mu.Lock()
	r := g.mu.rebuild
	if r == nil || g.installing || r.at.Index > g.rn.BasicStatus().GetCommit() {
		g.mu.Unlock()
		return
	}
	g.mu.rebuild = nil
	g.mu.Unlock()
	g.installing = true // for ever: the group is started anew after it
	install := func() { g.lane.push(g, applyTask{install: func() error { return g.installState(r) }}) }
	if r.conf.Index <= g.confIndex {
		install()
		return
	}
	g.confIndex = r.conf.Index
	g.writing++
	g.h.writer.push(appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &r.conf}, then: install})
}

// installState runs on the apply lane.
func (g *group) installState(r *rebuild) error {
	if err := r.staged.Install(); err != nil {
		return err
	}
	g.log.Info("installed the leader's state in place of the lost one", "index", r.at.Index, "term", r.at.Term)
	return nil
}

// lostTick is the rest of a tick of a lost replica.
func (g *group) lostTick() {
	g.maybeRebuild()
	if g.idleTicks%g.h.cfg.ElectionTicks == 0 {
		g.askForState()
	}
}

// StopGroup stops a group and keeps its log, so that AddGroup can start it again as after a crash.
// done is called, from any goroutine, once nothing of the group is under way any more; not if the
// host is closed before that. It must not be called by the group's state machine or observer.
func (h *Host) StopGroup(id shard.RangeID, done func()) error {
	g := h.group(id)
	if g == nil {
		return shard.ErrUnavailable
	}
	h.groups.Delete(id)
	g.stop(shard.ErrStopped)
	g.awaitIdle()
	h.addPeers(&g.cfg, -1)
	h.writer.push(appendTask{g: g, then: done})
	return nil
}

// abdicate is for a replica whose state machine has failed. One that leads first hands over, so
// that nobody has to wait for an election timeout; it stops when that is done, or takes too long.
func (g *group) abdicate(why error) {
	if !g.leadership.IsLeader || g.rn.BasicStatus().LeadTransferee != raft.None {
		g.fail(why)
		return
	}
	var best, match uint64
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		if id != uint64(g.cfg.Replica) && typ == raft.ProgressTypePeer && pr.RecentActive && pr.Match >= match {
			best, match = id, pr.Match
		}
	})
	if best == 0 {
		g.fail(why)
		return
	}
	g.log.Error("the leader's state machine has failed: handing over", "to", best, "error", why)
	g.failed, g.abdicating = why, g.h.cfg.ElectionTicks
	g.transfer(shard.ReplicaID(best))
}

// maybeFail stops a replica that has handed over, or has tried to for long enough.
func (g *group) maybeFail(ticks int) {
	if g.failed == nil {
		return
	}
	g.abdicating -= ticks
	if !g.leadership.IsLeader || g.abdicating <= 0 {
		g.fail(g.failed)
	}
}
