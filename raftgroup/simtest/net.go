package simtest

import (
	"bytes"
	"errors"
	"io"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Net carries frames and snapshots between hosts, in the order in which they were sent, when it
// is told to.
type Net struct {
	hosts map[shard.NodeID]*raftgroup.Host
	queue []parcel
	cut   map[[2]shard.NodeID]bool
	// Drop, when set, loses the frames for which it returns true.
	Drop func(from, to shard.NodeID, f *pb.RaftFrame) bool
	// HoldSnapshots keeps snapshots in the queue.
	HoldSnapshots bool
	// Held keeps what goes to these nodes in the queue.
	Held map[shard.NodeID]bool
}

type parcel struct {
	from, to shard.NodeID
	frame    []byte // marshalled, so that nobody shares memory
	header   *pb.SnapshotHeader
	write    func(io.Writer) error
	done     func(error)
}

// errCut is what the sender of a snapshot hears when the way is cut.
var errCut = errors.New("simtest: the way is cut")

// NewNet returns a network in which everybody reaches everybody.
func NewNet() *Net {
	return &Net{hosts: map[shard.NodeID]*raftgroup.Host{}, cut: map[[2]shard.NodeID]bool{}, Held: map[shard.NodeID]bool{}}
}

// Attach makes a node reachable; nil takes it off, with what was on its way from and to it.
func (n *Net) Attach(node shard.NodeID, h *raftgroup.Host) {
	n.hosts[node] = h
	if h != nil {
		return
	}
	var rest []parcel
	for _, p := range n.queue {
		switch {
		case p.from != node && p.to != node:
			rest = append(rest, p)
		case p.header != nil && p.to == node:
			p.done(errCut)
		}
	}
	n.queue = rest
}

// Cut stops what goes from one node to another, one way.
func (n *Net) Cut(from, to shard.NodeID) { n.cut[[2]shard.NodeID{from, to}] = true }

// Isolate cuts a node from all others, both ways.
func (n *Net) Isolate(node shard.NodeID) {
	for other := range n.hosts {
		if other != node {
			n.Cut(node, other)
			n.Cut(other, node)
		}
	}
}

// Heal ends all cuts.
func (n *Net) Heal() { clear(n.cut) }

// Sender returns the raftgroup.Sender of one node.
func (n *Net) Sender(node shard.NodeID) raftgroup.Sender { return &port{n: n, node: node} }

// Waiting is how many parcels are on their way.
func (n *Net) Waiting() int { return len(n.queue) }

// Deliver takes the oldest parcel that may move to where it goes. It reports whether there was
// one.
func (n *Net) Deliver() bool {
	for i, p := range n.queue {
		if p.header != nil && n.HoldSnapshots || n.Held[p.to] {
			continue
		}
		n.queue = append(n.queue[:i:i], n.queue[i+1:]...)
		n.deliver(p)
		return true
	}
	return false
}

// DeliverSome delivers the oldest parcel of one pair of nodes, which choose picks among the
// pairs that have one. It reports whether there was any.
func (n *Net) DeliverSome(choose func(n int) int) bool {
	var first []int // index of the oldest parcel of each stream
	type stream struct {
		from, to shard.NodeID
		snapshot bool
	}
	seen := map[stream]bool{}
	for i, p := range n.queue {
		k := stream{p.from, p.to, p.header != nil}
		if !seen[k] && !n.Held[p.to] {
			seen[k] = true
			first = append(first, i)
		}
	}
	if len(first) == 0 {
		return false
	}
	i := first[choose(len(first))]
	p := n.queue[i]
	n.queue = append(n.queue[:i:i], n.queue[i+1:]...)
	n.deliver(p)
	return true
}

func (n *Net) deliver(p parcel) {
	h := n.hosts[p.to]
	lost := h == nil || n.cut[[2]shard.NodeID{p.from, p.to}]
	if p.header != nil {
		if lost {
			p.done(errCut)
			return
		}
		var buf bytes.Buffer
		err := p.write(&buf)
		if err == nil {
			err = h.HandleSnapshot(p.from, p.header, &buf)
		}
		p.done(err)
		return
	}
	f := &pb.RaftFrame{}
	if err := f.UnmarshalVT(p.frame); err != nil {
		panic("simtest: a frame does not unmarshal: " + err.Error())
	}
	if !lost && (n.Drop == nil || !n.Drop(p.from, p.to, f)) {
		h.HandleFrame(p.from, f)
	}
}

// port is one node's end of the network.
type port struct {
	n    *Net
	node shard.NodeID
}

func (p *port) Send(to shard.NodeID, f *pb.RaftFrame) {
	data, err := f.MarshalVT()
	if err != nil {
		panic("simtest: a frame does not marshal: " + err.Error())
	}
	p.n.queue = append(p.n.queue, parcel{from: p.node, to: to, frame: data})
}

func (p *port) SendSnapshot(to shard.NodeID, h *pb.SnapshotHeader, write func(io.Writer) error, done func(error)) {
	p.n.queue = append(p.n.queue, parcel{from: p.node, to: to, header: h, write: write, done: done})
}
