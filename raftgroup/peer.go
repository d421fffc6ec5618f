package raftgroup

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// frameBytesMax is when a frame leaves without waiting for the end of the worker's round.
const frameBytesMax = 256 << 10

// peer is another node that shares a group with this one: what is about to be sent to it, and
// whether it lives.
type peer struct {
	node shard.NodeID
	out  struct {
		sync.Mutex
		frame *pb.RaftFrame // nil: nothing to send
		bytes int
	}
	pending atomic.Bool // out.frame may be there
	// Guarded by Host.mu.
	refs  int // groups that have a replica there
	boot  uint64
	heard time.Time // when a frame came last
	alive bool
}

// peerSet is an immutable set of peers.
type peerSet struct {
	list   []*peer // sorted by node
	byNode map[shard.NodeID]*peer
}

// add gathers what fill puts into the frame, of about so many bytes. It reports whether the
// frame is big enough to leave at once.
func (p *peer) add(bytes int, fill func(*pb.RaftFrame)) bool {
	p.out.Lock()
	defer p.out.Unlock()
	if p.out.frame == nil {
		p.out.frame = &pb.RaftFrame{}
	}
	fill(p.out.frame)
	p.out.bytes += bytes
	p.pending.Store(true)
	return p.out.bytes >= frameBytesMax
}

// flush hands the frame over. The lock is held meanwhile, which keeps the order of frames;
// Send does not block.
func (p *peer) flush(h *Host) {
	if !p.pending.Load() {
		return
	}
	p.out.Lock()
	defer p.out.Unlock()
	f := p.out.frame
	if f == nil {
		return
	}
	p.out.frame, p.out.bytes = nil, 0
	p.pending.Store(false)
	f.FromNode, f.Boot = uint64(h.cfg.Node), h.cfg.Boot
	h.cfg.Sender.Send(p.node, f)
}

// flushFrames sends what has been gathered for every node.
func (h *Host) flushFrames() {
	for _, p := range h.peers.Load().list {
		p.flush(h)
	}
}

// post gathers fill's message for a node.
func (h *Host) post(to shard.NodeID, bytes int, fill func(*pb.RaftFrame)) {
	if p := h.peers.Load().byNode[to]; p != nil && p.add(bytes, fill) {
		p.flush(h)
	}
}

// postMessage gathers a Raft message for the node of its addressee. Plain heartbeats are the
// bulk of an active but idle group's traffic and have a small form of their own.
func (g *group) postMessage(m *raftpb.Message) {
	node, ok := g.cfg.Peers[shard.ReplicaID(m.GetTo())]
	if !ok {
		return
	}
	t := m.GetType()
	if (t == raftpb.MsgHeartbeat || t == raftpb.MsgHeartbeatResp) && len(m.GetContext()) == 0 {
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: m.GetFrom(), To: m.GetTo(), Term: m.GetTerm(),
			Commit: m.GetCommit(), Response: t == raftpb.MsgHeartbeatResp,
		}
		g.h.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
		return
	}
	gm := pb.NewGroupMessage()
	gm.Group = uint64(g.cfg.ID)
	var err error
	if gm.Message, err = encodeMessage(gm.Message, m); err != nil {
		panic(raftPanic("marshal a message: " + err.Error()))
	}
	g.h.post(node, len(gm.Message), func(f *pb.RaftFrame) { f.Messages = append(f.Messages, gm) })
}

// messageOf is the Raft message that a heartbeat stands for.
func messageOf(hb *pb.Heartbeat) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &hb.From, To: &hb.To, Term: &hb.Term}
	if hb.Response {
		m.Type = raftpb.MsgHeartbeatResp.Enum()
	} else {
		m.Commit = &hb.Commit
	}
	return m
}

// addPeers counts a group's nodes in, delta 1, or out, -1.
func (h *Host) addPeers(cfg *GroupConfig, delta int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, node := range cfg.Peers {
		if node == h.cfg.Node {
			continue
		}
		p := h.mu.peers[node]
		if p == nil {
			p = &peer{node: node, heard: h.cfg.Now(), alive: true}
			h.mu.peers[node] = p
		}
		if p.refs += delta; p.refs == 0 {
			delete(h.mu.peers, node)
		}
	}
	set := &peerSet{byNode: maps.Clone(h.mu.peers)}
	for _, p := range h.mu.peers {
		set.list = append(set.list, p)
	}
	slices.SortFunc(set.list, func(a, b *peer) int { return cmp.Compare(a.node, b.node) })
	h.peers.Store(set)
}

// sawNode notes that a frame came from a node. It reports that the node had been silent for an
// election timeout or has been started anew.
func (h *Host) sawNode(node shard.NodeID, boot uint64) (returned, restarted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.mu.peers[node]
	if p == nil {
		return false, false
	}
	returned = !p.alive
	restarted = p.boot != 0 && p.boot != boot
	p.heard, p.alive, p.boot = h.cfg.Now(), true, boot
	return returned, restarted
}

// deadNodes returns the nodes that have now been silent for an election timeout. slept is how
// long this process itself did not run, which is held against nobody.
func (h *Host) deadNodes(now time.Time, slept time.Duration) []shard.NodeID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var dead []shard.NodeID
	for _, p := range h.peers.Load().list {
		p.heard = p.heard.Add(slept)
		if p.alive && now.Sub(p.heard) >= h.cfg.electionTimeout() {
			p.alive = false
			dead = append(dead, p.node)
		}
	}
	return dead
}

// lastHeard returns when a frame came from the node, and whether it counts as alive.
func (h *Host) lastHeard(node shard.NodeID) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.mu.peers[node]; p != nil {
		return p.heard, p.alive
	}
	return time.Time{}, false
}
