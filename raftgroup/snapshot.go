package raftgroup

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Snapshots. Raft's own message carries no state: it only says that a follower needs a snapshot,
// and about where the leader is. The state is streamed past Raft, at whatever position the state
// machine writes; the receiver stages it and then hands Raft a message with exactly that
// position. The group's configuration comes behind the state, as it stands when the state has
// been written, at or after the position: what the state machine has been given counts, for Raft hears of a
// change a little later than it. A later one is harmless, since changes that it holds already are skipped.

// snapshotTokens bounds the snapshots under way, each way.
type snapshotTokens struct{ sending, receiving tokenCount }

// snapshots is the passage of a group's snapshots, both ways.
type snapshots struct {
	// Of the step worker.
	installing  bool   // one is being installed; appends are held
	offered     Staged // while Raft decides about it,
	offeredConf uint64 // and its configuration's index
	failure     string // why the last transfer from here was not delivered; empty: it was

	mu struct {
		sync.Mutex
		staged    Staged // received, not offered yet
		receiving int    // being received
	}
}

// send starts the transfer that Raft's message asks for.
func (s *snapshots) send(g *group, m *raftpb.Message) {
	to := m.GetTo()
	node := g.members.nodeOf(shard.ReplicaID(to))
	if node == 0 || !g.h.tokens.sending.take(g.h.cfg.MaxSnapshots) {
		g.rn.ReportSnapshot(to, raft.SnapshotFailure) // Raft asks again
		return
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(raftPanic("marshal a snapshot message: " + err.Error()))
	}
	g.h.cfg.Sender.SendSnapshot(node, s.header(g, data), s.writer(g), func(err error) {
		g.h.tokens.sending.put()
		g.box.call(func() { s.sent(g, m, err) })
	})
}

// sent tells Raft how a transfer has ended. One that failed is tried again soon, and what is said of it is said once for as long as the reason is the same.
func (s *snapshots) sent(g *group, m *raftpb.Message, err error) {
	to := m.GetTo()
	if err == nil {
		s.failure = ""
		g.log.Info("sent snapshot", "to", to, "index", m.GetSnapshot().GetMetadata().GetIndex())
		g.rn.ReportSnapshot(to, raft.SnapshotFinish)
		return
	}
	level := slog.LevelWarn
	if s.failure == err.Error() {
		level = slog.LevelDebug
	}
	s.failure = err.Error()
	g.log.Log(context.Background(), level, "a snapshot was not delivered", "to", to, "error", err)
	g.rn.ReportSnapshot(to, raft.SnapshotFailure)
}

func (*snapshots) header(g *group, message []byte) *pb.SnapshotHeader {
	return &pb.SnapshotHeader{Group: uint64(g.cfg.ID), FromNode: uint64(g.h.cfg.Node), Message: message}
}

// writer writes the state and the configuration behind it. It runs off the workers.
func (*snapshots) writer(g *group) func(io.Writer) error {
	return func(w io.Writer) error { return writeSnapshot(w, g.cfg.SM, &g.members) }
}

func writeSnapshot(w io.Writer, sm StateMachine, m *members) error {
	cw := &chunkWriter{w: w}
	if err := sm.SnapshotTo(cw); err != nil {
		return err
	}
	conf := m.latest()
	if mutate.On(mutate.ConfBehindSnapshot) {
		conf = m.conf().Conf
	}
	cs, err := proto.Marshal(conf.State)
	if err != nil {
		return err
	}
	trailer, err := (&pb.SnapshotTrailer{ConfState: cs, ConfIndex: conf.Index}).MarshalVT()
	if err != nil {
		return err
	}
	return cw.finish(trailer)
}

// HandleSnapshot receives a snapshot that another node streams, and returns when it has been
// staged. Whether Raft wants it is decided after that.
func (h *Host) HandleSnapshot(from shard.NodeID, header *pb.SnapshotHeader, r io.Reader) error {
	g := h.group(shard.RangeID(header.Group))
	if g == nil {
		return fmt.Errorf("raftgroup: %v is not here", shard.RangeID(header.Group))
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(header.Message, m); err != nil {
		return fmt.Errorf("raftgroup: malformed snapshot message: %w", err)
	}
	if m.GetType() != raftpb.MsgSnap || !g.fromPeer(from, m.GetFrom(), m.GetTo()) {
		return fmt.Errorf("raftgroup: %v: the snapshot is not meant for this replica", g.cfg.ID)
	}
	if isStateTransfer(m) && !g.cfg.Lost {
		return fmt.Errorf("raftgroup: %v: this replica has lost nothing", g.cfg.ID)
	}
	if !h.tokens.receiving.take(h.cfg.MaxSnapshots) {
		return fmt.Errorf("%w: snapshots are being received", shard.ErrTooManyRequests)
	}
	defer h.tokens.receiving.put()
	return g.snapshots.receive(g, m, r)
}

func (s *snapshots) receive(g *group, m *raftpb.Message, r io.Reader) error {
	s.countReceiving(1)
	defer s.countReceiving(-1)
	cr := &chunkReader{r: r}
	staged, err := g.cfg.SM.Receive(cr)
	if err != nil {
		return fmt.Errorf("%v: receive a snapshot: %w", g.cfg.ID, err)
	}
	conf, err := cr.conf()
	if err != nil {
		staged.Discard()
		return fmt.Errorf("%v: receive a snapshot: %w", g.cfg.ID, err)
	}
	index, term := staged.Position()
	if isStateTransfer(m) {
		if !g.box.call(func() { g.rebuild.offer(g, &receivedState{staged, Position{index, term}, conf}) }) {
			staged.Discard()
		}
		return nil
	}
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf.State, Index: &index, Term: &term}}
	if !s.stage(staged) || !g.box.call(func() { s.offer(g, m, conf.Index) }) && s.unstage(staged) {
		staged.Discard()
		return fmt.Errorf("%w: %v takes no snapshot now", shard.ErrUnavailable, g.cfg.ID)
	}
	return nil
}

// stage keeps a snapshot for the worker, unless there is one.
func (s *snapshots) stage(st Staged) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.staged != nil {
		return false
	}
	s.mu.staged = st
	return true
}

// unstage takes it back, unless the end of the group has discarded it.
func (s *snapshots) unstage(st Staged) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.staged != st {
		return false
	}
	s.mu.staged = nil
	return true
}

func (s *snapshots) countReceiving(delta int) {
	s.mu.Lock()
	s.mu.receiving += delta
	s.mu.Unlock()
}

// receiving reports whether a snapshot is on its way here.
func (s *snapshots) receiving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.receiving > 0
}

// takeStaged returns what has been staged, nil where the end of the group has discarded it.
func (s *snapshots) takeStaged() Staged {
	s.mu.Lock()
	defer s.mu.Unlock()
	staged := s.mu.staged
	s.mu.staged = nil
	return staged
}

// discard is for a group that has stopped.
func (s *snapshots) discard() {
	if staged := s.takeStaged(); staged != nil {
		staged.Discard()
	}
}

// offer lets Raft decide whether it wants the staged snapshot: not if the log has come
// as far meanwhile. If the log agrees with it, it stays as it is, for what lies behind may have been acknowledged:
// the snapshot then says no more than that everything up to it is committed.
func (s *snapshots) offer(g *group, m *raftpb.Message, confIndex uint64) {
	staged := s.takeStaged()
	if staged == nil {
		return // the group has just been stopped
	}
	// There is no change between the configuration that came and the position. One that knows less than is known
	// here is of a sender that is behind: another one comes.
	confIndex = max(confIndex, m.GetSnapshot().GetMetadata().GetIndex())
	if s.installing || confIndex < g.members.index {
		staged.Discard()
		return
	}
	s.offered, s.offeredConf = staged, confIndex
	if at := m.GetSnapshot().GetMetadata().GetIndex(); mutate.On(mutate.SnapshotOverAgreed) && at > g.rn.BasicStatus().GetCommit() {
		g.store.state.Last = min(g.store.state.Last, at-1) // Raft finds nothing that agrees
	}
	_ = g.rn.Step(m) // an error says that it is not wanted
	g.drain()
	if s.offered != nil {
		s.offered.Discard()
		s.offered = nil
	}
}

// install carries out what Raft has accepted, in this order: the configuration is made
// durable, the state machine's state is replaced, the log is reset. After a crash before the last
// of these the log ends below the state, or has entries there that were never committed, and is
// reset at the start.
func (s *snapshots) install(g *group, snap *raftpb.Snapshot, up *Update, task appendTask) {
	meta := snap.GetMetadata()
	at := Position{meta.GetIndex(), meta.GetTerm()}
	staged := s.offered
	s.offered = nil
	if staged == nil {
		panic(raftPanic("a snapshot that nobody has offered"))
	}
	conf := Conf{State: meta.GetConfState(), Index: s.offeredConf}
	up.Reset, up.Conf = &at, &conf
	task.update = up
	if g.store.state.Replica.State != ReplicaPresent {
		g.store.state.Replica.State = ReplicaPresent
		up.Replica = new(g.store.state.Replica)
	}
	s.installing = true
	g.setConf(conf, nil)
	if len(up.Entries) == 0 {
		g.appends.last = at.Index
	}
	g.truncation.sizes.reset(at.Index)
	g.appends.pushNow(g, appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &conf}, then: func() {
		g.lane.push(g, applyTask{install: func() error { return s.replace(g, staged, at, task) }})
	}})
}

// replace runs on the apply lane.
func (s *snapshots) replace(g *group, staged Staged, at Position, task appendTask) error {
	if err := staged.Install(); err != nil {
		return err
	}
	places := g.cfg.places()
	g.log.Info("saved snapshot", "index", at.Index, "term", at.Term)
	g.pub.applied.Store(at.Index)
	g.pub.durable.Store(g.cfg.SM.Durable())
	g.box.call(func() {
		s.installing = false
		g.members.place(g, places)
		g.appends.push(g, task)
		g.appends.release(g)
	})
	return nil
}
