package peer

import (
	"maps"
	"sync"

	"pontoon/shard"
)

// Health is how a member seems to be. It is no more than a hint.
type Health uint8

// How a member may seem to be. HealthCut: others say that it is alive, but this node does not reach it.
const (
	HealthUnknown Health = iota
	HealthDead
	HealthCut
	HealthAlive
)

// Directory is a node's address book: who is a member of the cluster, where its peer port is, and whether it seems to
// be alive. Whoever needs to know asks it anew each time, and keeps no list of its own: members come, go and
// move. It begins with the members that the node was told at its start, and is fed by what the meta group decides
// and by what gossip has heard. It is safe for concurrent use, and none of its methods blocks.
type Directory struct {
	self shard.NodeID
	mu   struct {
		sync.Mutex
		told    bool           // of members by the meta group
		version uint64         // of those
		members []shard.Member // those too that are leaving
		addrs   map[shard.NodeID]string
		health  map[shard.NodeID]Health // as was heard last
	}
}

// NewDirectory returns a directory of the node self that begins with the given members, which it keeps.
func NewDirectory(self shard.NodeID, initial []shard.Member) *Directory {
	d := &Directory{self: self}
	d.mu.health = make(map[shard.NodeID]Health)
	d.setLocked(initial)
	return d
}

// SetMembers replaces the members by those of a version of the cluster's state, unless it has newer ones. It keeps
// the slice, which must not change any more.
func (d *Directory) SetMembers(version uint64, members []shard.Member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.told && version <= d.mu.version || len(members) == 0 {
		return
	}
	d.mu.told, d.mu.version = true, version
	d.setLocked(members)
}

func (d *Directory) setLocked(members []shard.Member) {
	d.mu.members = members
	d.mu.addrs = make(map[shard.NodeID]string, len(members))
	for _, m := range members {
		if addr, ok := peerAddr(m); ok {
			d.mu.addrs[m.ID] = addr
		}
	}
	maps.DeleteFunc(d.mu.health, func(id shard.NodeID, h Health) bool { return h <= HealthDead && !d.isMemberLocked(id) })
}

// peerAddr is the address of a member's first peer URL.
func peerAddr(m shard.Member) (string, bool) {
	if len(m.PeerURLs) == 0 {
		return "", false
	}
	return URLAddr(m.PeerURLs[0])
}

func (d *Directory) isMemberLocked(node shard.NodeID) bool {
	return shard.FindMember(d.mu.members, node) >= 0
}

// SetHealth notes how a node seems to be, which may yet become a member. Of one that has left or never was one
// nothing is kept once it is dead.
func (d *Directory) SetHealth(node shard.NodeID, h Health) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.health[node] = h; h <= HealthDead && !d.isMemberLocked(node) {
		delete(d.mu.health, node)
	}
}

// Members are the members of the cluster, but those that were removed. The slice must not be changed.
func (d *Directory) Members() []shard.Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return shard.PresentMembers(d.mu.members)
}

// Member is one of the members, which may be leaving.
func (d *Directory) Member(node shard.NodeID) (shard.Member, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := shard.FindMember(d.mu.members, node); i >= 0 {
		return d.mu.members[i], true
	}
	return shard.Member{}, false
}

// Others are the members but this node, those too that are leaving: they may still hold replicas, and serve clients.
func (d *Directory) Others() []shard.NodeID {
	d.mu.Lock()
	defer d.mu.Unlock()
	others := make([]shard.NodeID, 0, len(d.mu.members))
	for _, m := range d.mu.members {
		if m.ID != d.self {
			others = append(others, m.ID)
		}
	}
	return others
}

// Resolve returns the address of a member's peer port, as DialerConfig wants it.
func (d *Directory) Resolve(node shard.NodeID) (addr string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr, ok = d.mu.addrs[node]
	return addr, ok
}

// Relays are the members that may reach one which this node cannot: where that one seems to be alive, the others
// that are, as far as this node sees. Those that are leaving come last: they may end at any moment, and yet be the only ones between two nodes, as
// where a range has its majority by one of them.
func (d *Directory) Relays(to shard.NodeID) []shard.NodeID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.health[to] < HealthCut {
		return nil
	}
	var stay, leave []shard.NodeID
	for _, m := range d.mu.members {
		switch {
		case m.ID == to || m.ID == d.self || d.mu.health[m.ID] != HealthAlive:
		case m.State == shard.MemberLeaving:
			leave = append(leave, m.ID)
		default:
			stay = append(stay, m.ID)
		}
	}
	return append(stay, leave...)
}
