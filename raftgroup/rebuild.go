package raftgroup

import (
	"bytes"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/shard"
)

// Replicas that have lost their state. A state machine's file may be damaged while the shared log
// is not: then the replica has its term, its vote and its entries, and everything that it has
// granted by them holds. What is gone is what the entries before the log's front amounted to.
//
// Such a group (GroupConfig.Lost) takes part in Raft as a follower that votes and stores entries,
// with these exceptions: it applies nothing, truncates nothing, and never campaigns, for
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

// rebuild is how a replica that has lost its state gets one, and how a leader sends one.
type rebuild struct {
	sending map[uint64]bool // replicas that the state is being sent to; the step worker's
	mu      struct {
		sync.Mutex
		received *receivedState // not installed yet
	}
}

// receivedState is what a lost replica has received and waits to install.
type receivedState struct {
	staged Staged
	at     Position
	conf   Conf
}

// ask asks the leader for its state, or everybody while the leader is not known: a leader
// whose group sleeps wakes up by it.
func (b *rebuild) ask(g *group) {
	if g.snapshots.installing || b.waiting() || g.snapshots.receiving() {
		return
	}
	for _, v := range g.members.conf().others {
		if g.role.Leader != 0 && v.id != uint64(g.role.Leader) {
			continue
		}
		g.postMessage(&raftpb.Message{
			Type: raftpb.MsgReadIndex.Enum(), From: new(uint64(g.cfg.Replica)), To: new(v.id), Context: stateRequest,
		})
	}
}

// send streams the leader's state to a replica that has lost its own.
func (b *rebuild) send(g *group, to uint64) {
	node := g.members.nodeOf(shard.ReplicaID(to))
	if node == 0 || !g.role.IsLeader || g.cfg.Lost || b.sending[to] || !g.h.tokens.sending.take(g.h.cfg.MaxSnapshots) {
		return // it asks again
	}
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(g.cfg.Replica)), To: &to,
		Term: &g.role.Term, Context: stateRequest,
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(raftPanic("marshal a snapshot message: " + err.Error()))
	}
	if b.sending == nil {
		b.sending = map[uint64]bool{}
	}
	b.sending[to] = true
	g.log.Info("sending the state to a replica that has lost its own", "to", to)
	g.h.cfg.Sender.SendSnapshot(node, g.snapshots.header(g, data), g.snapshots.writer(g), func(err error) {
		g.h.tokens.sending.put()
		if err != nil {
			g.log.Warn("a state was not delivered", "to", to, "error", err)
		}
		g.box.call(func() { delete(b.sending, to) })
	})
}

// offer takes a state that has been received. It runs on the worker.
func (b *rebuild) offer(g *group, r *receivedState) {
	if g.snapshots.installing || r.at.Index < g.store.state.Truncated.Index {
		r.staged.Discard() // the next one that is asked for is newer
		return
	}
	if old := b.swap(r); old != nil {
		old.staged.Discard()
	}
	b.maybeInstall(g)
}

// swap puts a state in the place of the one that waits.
func (b *rebuild) swap(r *receivedState) (old *receivedState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, b.mu.received = b.mu.received, r
	return old
}

func (b *rebuild) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.received != nil
}

// discard is for a group that has stopped.
func (b *rebuild) discard() {
	if old := b.swap(nil); old != nil {
		old.staged.Discard()
	}
}

// maybeInstall installs the state that has been received, once everything up to its position is
// known to be committed in the log, too: only then the log holds the same history.
func (b *rebuild) maybeInstall(g *group) {
	b.mu.Lock()
	r := b.mu.received
	if r == nil || g.snapshots.installing || r.at.Index > g.rn.BasicStatus().GetCommit() {
		b.mu.Unlock()
		return
	}
	b.mu.received = nil
	b.mu.Unlock()
	g.snapshots.installing = true // for ever: the group is started anew after it
	install := func() { g.lane.push(g, applyTask{install: func() error { return r.install(g) }}) }
	if r.conf.Index <= g.members.index {
		install()
		return
	}
	g.members.index = r.conf.Index
	g.appends.pushNow(g, appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &r.conf}, then: install})
}

// install runs on the apply lane.
func (r *receivedState) install(g *group) error {
	if err := r.staged.Install(); err != nil {
		return err
	}
	g.log.Info("installed the leader's state in place of the lost one", "index", r.at.Index, "term", r.at.Term)
	return nil
}

// tick is the rest of a tick of a lost replica.
func (b *rebuild) tick(g *group) {
	b.maybeInstall(g)
	if g.quiescence.idle%g.h.cfg.ElectionTicks == 0 {
		b.ask(g)
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
	g.members.leave(h.nodes)
	h.writer.push(appendTask{g: g, then: done})
	return nil
}
