package gossip

import (
	"cmp"
	"slices"
	"time"

	"pontoon/shard"
)

// State is what is thought of a node.
type State uint8

// The states of a member.
const (
	StateUnknown State = iota
	StateAlive
	StateSuspect // alive as far as the others say, but this node cannot reach it just now
	StateDead    // found dead, or it has left
)

// String renders alive, suspect, dead or unknown.
func (s State) String() string {
	switch s {
	case StateAlive:
		return "alive"
	case StateSuspect:
		return "suspect"
	case StateDead:
		return "dead"
	}
	return "unknown"
}

// Member is what is known of a node. A value, not followed up.
type Member struct {
	Node     shard.NodeID
	Name     string
	Addr     string // of its peer port
	Locality string
	Boot     uint64 // of its process: a higher one means that it has restarted
	State    State
	Since    time.Time // when it came to be in State
	Load     Load
	HasLoad  bool
}

// Event says that a member came, went, restarted or changed its state; Member is how it is now.
type Event struct {
	Member   Member
	Previous State
}

// Limits of what is kept of what others say.
const (
	hintsMax   = 1 << 16 // beyond it hints for further ranges are not kept
	loadsMax   = 1 << 12
	membersMax = 1 << 12 // beyond it the node that has been dead for longest is forgotten
)

// view is the pure core: what was heard, without clock, lock or I/O.
type view struct {
	self    shard.NodeID
	members map[shard.NodeID]*member
	loads   map[shard.NodeID]loadOf
	hints   map[shard.RangeID]Hint
}

type member struct {
	meta
	alive bool // as memberlist has it
	cut   bool // the link to it is down
	since time.Time
}

func (m *member) state() State {
	switch {
	case !m.alive:
		return StateDead
	case m.cut:
		return StateSuspect
	}
	return StateAlive
}

func newView(self shard.NodeID) *view {
	return &view{
		self:    self,
		members: make(map[shard.NodeID]*member),
		loads:   make(map[shard.NodeID]loadOf),
		hints:   make(map[shard.RangeID]Hint),
	}
}

// setMember records what memberlist says of a node.
func (v *view) setMember(m meta, alive bool, now time.Time) (Event, bool) {
	old := v.members[m.node]
	if old == nil {
		v.makeRoom()
		old = &member{}
		v.members[m.node] = old
	}
	before, wasBoot, known := StateUnknown, old.boot, old.node != 0
	if known {
		before = old.state()
	}
	old.meta, old.alive = m, alive
	if !alive {
		old.cut = false
	}
	after := old.state()
	if before != after {
		old.since = now
	}
	return Event{v.member(old), before}, before != after || wasBoot != m.boot
}

// setLink records whether the link to a node is up.
func (v *view) setLink(node shard.NodeID, up bool, now time.Time) (Event, bool) {
	m := v.members[node]
	if m == nil || !m.alive || m.cut == !up {
		return Event{}, false
	}
	before := m.state()
	m.cut, m.since = !up, now
	return Event{v.member(m), before}, true
}

// makeRoom forgets a dead member where there are too many.
func (v *view) makeRoom() {
	if len(v.members) < membersMax {
		return
	}
	var oldest *member
	for _, m := range v.members {
		if !m.alive && (oldest == nil || m.since.Before(oldest.since)) {
			oldest = m
		}
	}
	if oldest != nil {
		delete(v.members, oldest.node)
		delete(v.loads, oldest.node)
	}
}

// merge keeps what is newer than what is known, and returns it.
func (v *view) merge(s state) (news state) {
	for _, l := range s.loads {
		old, ok := v.loads[l.node]
		if l.node == 0 || ok && !l.newer(old) || !ok && len(v.loads) >= loadsMax {
			continue
		}
		v.loads[l.node] = l
		news.loads = append(news.loads, l)
	}
	for _, h := range s.hints {
		old, ok := v.hints[h.Range]
		if h.Node == 0 || ok && h.Term <= old.Term || !ok && len(v.hints) >= hintsMax {
			continue
		}
		v.hints[h.Range] = h
		news.hints = append(news.hints, h)
	}
	return news
}

// whole is what a node that knows nothing should hear: everything, up to max hints of which
// those about this node come first.
func (v *view) whole(max int) state {
	var s state
	for _, l := range v.loads {
		s.loads = append(s.loads, l)
	}
	var others []Hint
	for _, h := range v.hints {
		if h.Node == v.self {
			s.hints = append(s.hints, h)
		} else if len(others) < max {
			others = append(others, h)
		}
	}
	s.hints = s.hints[:min(len(s.hints), max)]
	s.hints = append(s.hints, others[:min(len(others), max-len(s.hints))]...)
	return s
}

func (v *view) alive(node shard.NodeID) bool {
	m := v.members[node]
	return m != nil && m.alive
}

func (v *view) aliveCount() int {
	n := 0
	for _, m := range v.members {
		if m.alive {
			n++
		}
	}
	return n
}

// member renders a member with its load, if that is of the same process.
func (v *view) member(m *member) Member {
	out := Member{Node: m.node, Name: m.name, Addr: m.addr, Locality: m.locality, Boot: m.boot, State: m.state(), Since: m.since}
	if l, ok := v.loads[m.node]; ok && l.boot == m.boot {
		out.Load, out.HasLoad = l.load, true
	}
	return out
}

// all returns the members, ordered by id.
func (v *view) all() []Member {
	out := make([]Member, 0, len(v.members))
	for _, m := range v.members {
		out = append(out, v.member(m))
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
