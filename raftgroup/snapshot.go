package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Snapshots. Raft's own message carries no state: it only says that a follower needs a snapshot,
// and about where the leader is. The state is streamed past Raft, at whatever position the state
// machine writes; the receiver stages it and then hands Raft a message with exactly that
// position. The group's configuration comes behind the state, as it stands when the state has
// been written: at or after the position, which is harmless, since changes that it holds already
// are skipped.

// snapshotTokens bounds the snapshots under way, each way.
type snapshotTokens struct{ sending, receiving tokenCount }

// sendSnapshot starts the transfer that Raft's message asks for.
func (g *group) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	node, ok := g.cfg.Peers[shard.ReplicaID(to)]
	if !ok || !g.h.tokens.sending.take(g.h.cfg.MaxSnapshots) {
		g.rn.ReportSnapshot(to, raft.SnapshotFailure) // Raft asks again
		return
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(raftPanic("marshal a snapshot message: " + err.Error()))
	}
	g.h.cfg.Sender.SendSnapshot(node, g.snapshotHeader(data), g.writeSnapshot, func(err error) {
		g.h.tokens.sending.put()
		status := raft.SnapshotFinish
		if err != nil {
			status = raft.SnapshotFailure
			g.log.Warn("a snapshot was not delivered", "to", to, "error", err)
		} else {
			g.log.Info("sent snapshot", "to", to, "index", m.GetSnapshot().GetMetadata().GetIndex())
		}
		g.box.call(func() { g.rn.ReportSnapshot(to, status) })
	})
}

func (g *group) snapshotHeader(message []byte) *pb.SnapshotHeader {
	return &pb.SnapshotHeader{Group: uint64(g.cfg.ID), FromNode: uint64(g.h.cfg.Node), Message: message}
}

// writeSnapshot writes the state and the configuration behind it. It runs off the workers.
func (g *group) writeSnapshot(w io.Writer) error {
	cw := &chunkWriter{w: w}
	if err := g.cfg.SM.SnapshotTo(cw); err != nil {
		return err
	}
	conf := g.pub.conf.Load()
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
	return g.stageSnapshot(m, r)
}

func (g *group) stageSnapshot(m *raftpb.Message, r io.Reader) error {
	g.countReceiving(1)
	defer g.countReceiving(-1)
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
		if !g.box.call(func() { g.offerState(&rebuild{staged, Position{index, term}, conf}) }) {
			staged.Discard()
		}
		return nil
	}
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf.State, Index: &index, Term: &term}}
	if !g.stage(staged) || !g.box.call(func() { g.offerSnapshot(m, conf.Index) }) && g.unstage(staged) {
		staged.Discard()
		return fmt.Errorf("%w: %v takes no snapshot now", shard.ErrUnavailable, g.cfg.ID)
	}
	return nil
}

// stage keeps a snapshot for the worker, unless there is one.
func (g *group) stage(s Staged) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.staged != nil {
		return false
	}
	g.mu.staged = s
	return true
}

// unstage takes it back, unless the end of the group has discarded it.
func (g *group) unstage(s Staged) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.staged != s {
		return false
	}
	g.mu.staged = nil
	return true
}

func (g *group) countReceiving(delta int) {
	g.mu.Lock()
	g.mu.receiving += delta
	g.mu.Unlock()
}

// offerSnapshot lets Raft decide whether it wants the staged snapshot: not if the log has come
// as far meanwhile.
func (g *group) offerSnapshot(m *raftpb.Message, confIndex uint64) {
	g.mu.Lock()
	staged := g.mu.staged
	g.mu.staged = nil
	g.mu.Unlock()
	if staged == nil {
		return // the group has just been stopped
	}
	if g.installing {
		staged.Discard()
		return
	}
	g.offered, g.offeredConf = staged, confIndex
	_ = g.rn.Step(m) // an error says that it is not wanted
	g.drain()
	if g.offered != nil {
		g.offered.Discard()
		g.offered = nil
	}
}

// installSnapshot carries out what Raft has accepted, in this order: the configuration is made
// durable, the state machine's state is replaced, the log is reset. After a crash before the last
// of these the log ends below the state, or has entries there that were never committed, and is
// reset at the start.
func (g *group) installSnapshot(snap *raftpb.Snapshot, up Update, task appendTask) {
	meta := snap.GetMetadata()
	at := Position{meta.GetIndex(), meta.GetTerm()}
	staged := g.offered
	g.offered = nil
	if staged == nil {
		panic(raftPanic("a snapshot that nobody has offered"))
	}
	hs := g.saved
	conf := Conf{State: meta.GetConfState(), Index: max(g.offeredConf, g.confIndex)}
	up.Reset, up.HardState, up.Conf = &at, &hs, &conf
	task.update = &up
	g.installing = true
	g.confIndex = conf.Index
	g.setConf(conf)
	if len(up.Entries) == 0 {
		g.last = at.Index
	}
	g.sizes.reset(at.Index)
	g.writing++
	g.h.writer.push(appendTask{g: g, update: &Update{Group: g.cfg.ID, Conf: &conf}, then: func() {
		g.lane.push(g, applyTask{install: func() error { return g.install(staged, at, task) }})
	}})
}

// install runs on the apply lane.
func (g *group) install(staged Staged, at Position, task appendTask) error {
	if err := staged.Install(); err != nil {
		return err
	}
	g.log.Info("saved snapshot", "index", at.Index, "term", at.Term)
	g.pub.applied.Store(at.Index)
	g.pub.durable.Store(g.cfg.SM.Durable())
	g.box.call(func() {
		g.installing = false
		held := g.held
		g.held = nil
		g.pushAppend(task)
		g.writing += len(held)
		for _, t := range held {
			g.h.writer.push(t) // it has been counted
		}
	})
	return nil
}

// A snapshot stream is a run of chunks, each led by its length in four bytes, a length of zero,
// and the trailer with its length.

const chunkBytesMax = 1 << 20

type chunkWriter struct{ w io.Writer }

func (c *chunkWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), chunkBytesMax)
		if err := c.chunk(p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

func (c *chunkWriter) chunk(p []byte) error {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(p)))
	if _, err := c.w.Write(size[:]); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	_, err := c.w.Write(p)
	return err
}

func (c *chunkWriter) finish(trailer []byte) error {
	if err := c.chunk(nil); err != nil {
		return err
	}
	return c.chunk(trailer)
}

// chunkReader is the other end; it reports io.EOF at the end of the state.
type chunkReader struct {
	r    io.Reader
	left int
	end  bool
}

var errChunk = errors.New("malformed snapshot stream")

func (c *chunkReader) size() (int, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.r, size[:]); err != nil {
		return 0, fmt.Errorf("snapshot stream: %w", noEOF(err))
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > chunkBytesMax {
		return 0, errChunk
	}
	return int(n), nil
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		n, err := c.size()
		if err != nil {
			return 0, err
		}
		if c.left, c.end = n, n == 0; c.end {
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, noEOF(err)
}

// conf reads what follows the state.
func (c *chunkReader) conf() (Conf, error) {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return Conf{}, err
	}
	n, err := c.size()
	if err != nil {
		return Conf{}, err
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(c.r, buf); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", noEOF(err))
	}
	var t pb.SnapshotTrailer
	if err := t.UnmarshalVT(buf); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", err)
	}
	cs := &raftpb.ConfState{}
	if err := proto.Unmarshal(t.ConfState, cs); err != nil {
		return Conf{}, fmt.Errorf("snapshot trailer: %w", err)
	}
	if len(cs.Voters) == 0 {
		return Conf{}, errChunk
	}
	return Conf{State: cs, Index: t.ConfIndex}, nil
}

// noEOF: an end in the middle is no end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
