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
	// Guarded by nodes.mu.
	refs  int // groups that have a replica there
	boot  uint64
	heard time.Time // when a frame came last
	alive bool
	// leaving says that it hands its leaderships over, and takes none.
	leaving bool
}

// nodes are the other nodes that share a group with this one.
type nodes struct {
	cfg *Config
	set atomic.Pointer[peerSet]
	// leaving says of this node that it takes no leadership any more.
	leaving atomic.Bool
	mu      struct {
		sync.Mutex
		byNode map[shard.NodeID]*peer
	}
}

func newNodes(cfg *Config) *nodes {
	n := &nodes{cfg: cfg}
	n.mu.byNode = map[shard.NodeID]*peer{}
	n.set.Store(&peerSet{})
	return n
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

// flushTo hands a node's frame over. The lock is held meanwhile, which keeps the order of frames;
// Send does not block.
func (n *nodes) flushTo(p *peer) {
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
	f.FromNode, f.Boot, f.Leaving = uint64(n.cfg.Node), n.cfg.Boot, n.leaving.Load()
	n.cfg.Sender.Send(p.node, f)
}

// flush sends what has been gathered for every node.
func (n *nodes) flush() {
	for _, p := range n.set.Load().list {
		n.flushTo(p)
	}
}

// sayAlive puts into every node's frame that this one lives.
func (n *nodes) sayAlive() {
	for _, p := range n.set.Load().list {
		p.add(8, func(f *pb.RaftFrame) { f.Alive = true })
	}
}

// post gathers fill's message for a node.
func (n *nodes) post(to shard.NodeID, bytes int, fill func(*pb.RaftFrame)) {
	if p := n.set.Load().byNode[to]; p != nil && p.add(bytes, fill) {
		n.flushTo(p)
	}
}

// postMessage gathers a Raft message for the node of its addressee. Plain heartbeats are the
// bulk of an active but idle group's traffic and have a small form of their own.
func (g *group) postMessage(m *raftpb.Message) {
	node := g.members.nodeOf(shard.ReplicaID(m.GetTo()))
	if node == 0 {
		return
	}
	t := m.GetType()
	if (t == raftpb.MsgHeartbeat || t == raftpb.MsgHeartbeatResp) && len(m.GetContext()) == 0 {
		hb := &pb.Heartbeat{
			Group: uint64(g.cfg.ID), From: m.GetFrom(), To: m.GetTo(), Term: m.GetTerm(),
			Commit: m.GetCommit(), Response: t == raftpb.MsgHeartbeatResp,
		}
		g.h.nodes.post(node, 32, func(f *pb.RaftFrame) { f.Heartbeats = append(f.Heartbeats, hb) })
		return
	}
	gm := pb.NewGroupMessage()
	gm.Group = uint64(g.cfg.ID)
	var err error
	if gm.Message, err = encodeMessage(gm.Message, m); err != nil {
		panic(raftPanic("marshal a message: " + err.Error()))
	}
	g.h.nodes.post(node, len(gm.Message), func(f *pb.RaftFrame) { f.Messages = append(f.Messages, gm) })
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

// count counts a group's nodes in, delta 1, or out, -1.
func (n *nodes) count(places map[shard.ReplicaID]shard.NodeID, delta int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range places {
		if node == n.cfg.Node {
			continue
		}
		p := n.mu.byNode[node]
		if p == nil {
			p = &peer{node: node, heard: n.cfg.Now(), alive: true}
			n.mu.byNode[node] = p
		}
		if p.refs += delta; p.refs == 0 {
			delete(n.mu.byNode, node)
		}
	}
	set := &peerSet{byNode: maps.Clone(n.mu.byNode)}
	for _, p := range n.mu.byNode {
		set.list = append(set.list, p)
	}
	slices.SortFunc(set.list, func(a, b *peer) int { return cmp.Compare(a.node, b.node) })
	n.set.Store(set)
}

// saw notes that a frame came from a node. It reports that the node had been silent for an
// election timeout or has been started anew.
func (n *nodes) saw(node shard.NodeID, boot uint64, leaving bool) (returned, restarted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.mu.byNode[node]
	if p == nil {
		return false, false
	}
	returned = !p.alive
	restarted = p.boot != 0 && p.boot != boot
	p.heard, p.alive, p.boot, p.leaving = n.cfg.Now(), true, boot, leaving
	return returned, restarted
}

// dead returns the nodes that have now been silent for an election timeout. slept is how
// long this process itself did not run, which is held against nobody.
func (n *nodes) dead(now time.Time, slept time.Duration) []shard.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var silent []shard.NodeID
	for _, p := range n.set.Load().list {
		p.heard = p.heard.Add(slept)
		if p.alive && now.Sub(p.heard) >= n.cfg.electionTimeout() {
			p.alive = false
			silent = append(silent, p.node)
		}
	}
	return silent
}

// lastHeard returns when a frame came from the node, and whether it counts as alive.
func (n *nodes) lastHeard(node shard.NodeID) (time.Time, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.mu.byNode[node]; p != nil {
		return p.heard, p.alive
	}
	return time.Time{}, false
}

// alive reports whether a node counts as alive. This one does.
func (n *nodes) alive(node shard.NodeID) bool {
	_, alive := n.lastHeard(node)
	return alive || node == n.cfg.Node
}

// takesOver reports whether another node may be handed a leadership.
func (n *nodes) takesOver(node shard.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.mu.byNode[node]
	return p != nil && p.alive && !p.leaving
}

// gone notes that a node does not live. It reports whether that is news.
func (n *nodes) gone(node shard.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.mu.byNode[node]
	if p == nil || !p.alive {
		return false
	}
	p.alive = false
	return true
}
