package gossip

import (
	"github.com/hashicorp/memberlist"

	"pontoon/shard"
)

// delegate is what memberlist calls back. Some of it runs under memberlist's lock: all of it
// copies and returns.
type delegate struct{ g *Gossip }

var _ memberlist.Delegate = delegate{}
var _ memberlist.EventDelegate = delegate{}

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(limit int) []byte {
	b := d.g.meta.encode()
	return b[:min(len(b), limit)]
}

// NotifyMsg implements memberlist.Delegate.
func (d delegate) NotifyMsg(b []byte) { d.g.post(b) }

// MergeRemoteState implements memberlist.Delegate.
func (d delegate) MergeRemoteState(b []byte, _ bool) { d.g.post(b) }

// GetBroadcasts implements memberlist.Delegate.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(bool) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.mu.view.whole(hintsPerSync).encode()
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.g.noteMember(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.g.noteMember(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) { d.g.noteMember(n, false) }

// post keeps a copy of a message for run, if there is room.
func (g *Gossip) post(b []byte) {
	if len(b) == 0 {
		return
	}
	if g.queued.Add(int64(len(b))) > inboxBytesMax {
		g.queued.Add(-int64(len(b)))
		return
	}
	select {
	case g.inbox <- append([]byte(nil), b...):
	default:
		g.queued.Add(-int64(len(b)))
	}
}

// taken makes room for further messages.
func (g *Gossip) taken(msg []byte) { g.queued.Add(-int64(len(msg))) }

// noteMember keeps the latest that memberlist says of a node for run.
func (g *Gossip) noteMember(n *memberlist.Node, alive bool) {
	m, err := decodeMeta(n.Meta)
	if err != nil || nameOf(m.node) != n.Name {
		return // not one of ours
	}
	g.box.Lock()
	g.box.members[m.node] = sighting{m, alive}
	g.box.Unlock()
	g.poke()
}

// noteLink keeps whether the link to a node is up for run.
func (g *Gossip) noteLink(node shard.NodeID, up bool) {
	g.box.Lock()
	g.box.links[node] = up
	g.box.Unlock()
	g.poke()
}

func (g *Gossip) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// broadcast is a message on its way to the others. One with a name replaces an older one of
// that name.
type broadcast struct {
	name string
	msg  []byte
}

var _ memberlist.NamedBroadcast = broadcast{}

// Name implements memberlist.NamedBroadcast.
func (b broadcast) Name() string { return b.name }

// Invalidates implements memberlist.Broadcast.
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(broadcast)
	return ok && b.name != "" && o.name == b.name
}

// Message implements memberlist.Broadcast.
func (b broadcast) Message() []byte { return b.msg }

// Finished implements memberlist.Broadcast.
func (b broadcast) Finished() {}
