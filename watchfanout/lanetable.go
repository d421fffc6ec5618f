package watchfanout

import (
	"encoding/binary"
	"slices"

	"pontoon/shard"
)

// laneTable holds a dispatcher's lanes, and the ports by which the feeds of their ranges come in.
type laneTable struct {
	d         *dispatcher
	rangeMap  *shard.Map
	ports     map[shard.RangeID]*port
	byRanges  map[string]*lane
	key       []byte  // scratch of of
	scheduled []*lane // to advance in this round
}

// port is where a range's feed enters the dispatcher: what was heard of it so far.
type port struct {
	feed  *feed
	state feedState
	lanes []slot
}

// slot is one lane's interest in a port.
type slot struct {
	l *lane
	i int // in l.m.feeds
}

func (t *laneTable) init(d *dispatcher, m *shard.Map) {
	t.d, t.rangeMap = d, m
	t.ports = make(map[shard.RangeID]*port)
	t.byRanges = make(map[string]*lane)
}

// of returns the lane of the ranges in which a span lies, which is opened if there is none.
func (t *laneTable) of(s shard.Span) *lane {
	t.key = t.key[:0]
	for d := range t.rangeMap.Overlapping(s) {
		t.key = binary.BigEndian.AppendUint64(t.key, uint64(d.ID))
	}
	if l := t.byRanges[string(t.key)]; l != nil {
		return l
	}
	return t.open(slices.Collect(t.rangeMap.Overlapping(s)), s)
}

func (t *laneTable) open(ranges []shard.Descriptor, s shard.Span) *lane {
	l := &lane{d: t.d}
	l.recent.eventsMax, l.recent.bytesMax = t.d.h.cfg.RecentEvents, t.d.h.cfg.RecentBytes
	ports, feeds := make([]*port, len(ranges)), make([]mergerFeed, len(ranges))
	var seen int64
	for i := range ranges {
		p := t.port(&ranges[i], &s)
		ports[i], feeds[i] = p, mergerFeed{closed: p.state.closed, whole: p.state.whole}
		seen = max(seen, p.state.seen)
	}
	t.lay(l, ports, newMerger(feeds, seen))
	l.released.Store(l.m.released)
	t.d.h.stats.lanes.Add(1)
	return l
}

// port is that of a range, of whose feed somebody wants keys of a span; nil: that is to be told.
func (t *laneTable) port(r *shard.Descriptor, s *shard.Span) *port {
	if p := t.ports[r.ID]; p != nil {
		return p
	}
	f := t.d.h.feeds.acquire(r.ID, s)
	p := &port{feed: f, state: f.join(t.d, r.Generation)}
	t.ports[r.ID] = p
	return p
}

// close drops a lane, and the ports that no other lane listens to.
func (t *laneTable) close(l *lane) {
	delete(t.byRanges, l.key)
	t.d.h.stats.lanes.Add(-1)
	t.unplug(l)
	for _, p := range l.ports {
		if len(p.lanes) == 0 {
			t.drop(p)
		}
	}
}

// drop ends a port that no lane listens to.
func (t *laneTable) drop(p *port) {
	delete(t.ports, p.feed.id)
	t.d.h.feeds.release(p.feed, t.d)
}

// unplug takes a lane off its ports, which stay.
func (t *laneTable) unplug(l *lane) {
	for _, p := range l.ports {
		for i := range p.lanes {
			if p.lanes[i].l == l {
				p.lanes[i] = p.lanes[len(p.lanes)-1]
				p.lanes = p.lanes[:len(p.lanes)-1]
				break
			}
		}
	}
}

// adopt takes over a new map. It returns the lanes of ranges that have other keys in it; true: all their watches are to
// find their places anew.
func (t *laneTable) adopt(c mapChange) (touched map[*lane]bool) {
	t.rangeMap = c.rangeMap
	touched = make(map[*lane]bool)
	for id, anew := range c.changed {
		if p := t.ports[id]; p != nil {
			p.touch(touched, anew)
		}
	}
	for _, p := range t.ports {
		if p.state.early {
			p.touch(touched, true)
		}
	}
	return touched
}

func (p *port) touch(touched map[*lane]bool, anew bool) {
	for _, s := range p.lanes {
		touched[s.l] = touched[s.l] || anew
	}
}

// isOf reports whether the lane is of the ranges in which a span lies.
func (l *lane) isOf(m *shard.Map, s shard.Span) bool {
	i := 0
	for d := range m.Overlapping(s) {
		if i == len(l.ports) || l.ports[i].feed.id != d.ID {
			return false
		}
		i++
	}
	return i == len(l.ports)
}

// schedule has the lane advance in this round.
func (t *laneTable) schedule(l *lane) {
	if !l.scheduled {
		l.scheduled = true
		t.scheduled = append(t.scheduled, l)
	}
}

// advance lets the scheduled lanes deliver, and those that become so meanwhile.
func (t *laneTable) advance() {
	for len(t.scheduled) > 0 {
		l := t.scheduled[len(t.scheduled)-1]
		t.scheduled = t.scheduled[:len(t.scheduled)-1]
		l.scheduled = false
		l.advance()
	}
}

// stale reports whether a message is from before the dispatcher began to listen, or of a feed
// that it does not listen to: what it says is in the port's state already.
func stale(p *port, m *message) bool {
	return p == nil || p.feed != m.feed || m.turn < p.state.turn
}

func (t *laneTable) onItem(m *message) {
	p := t.ports[m.feed.id]
	if stale(p, m) {
		return
	}
	if m.gap {
		p.onGap(m.turn)
	}
	t.recover(p, m)
	if n := len(m.events); n > 0 {
		p.state.seen = max(p.state.seen, m.events[n-1].Rev())
	}
	p.state.closed = max(p.state.closed, m.closed)
	for _, s := range p.lanes {
		s.l.m.add(s.i, m.events)
		s.l.m.advance(s.i, m.closed)
		if len(m.events) > 0 || s.l.m.front > s.l.m.released {
			t.schedule(s.l)
		}
	}
}

// onGap: events of the feed are missing, up to a revision that msgWhole will name.
func (p *port) onGap(turn uint64) {
	if turn <= p.state.turn {
		return // heard when the port was opened
	}
	p.state.turn, p.state.whole = turn, unknown
	for _, s := range p.lanes {
		s.l.m.setWhole(s.i, unknown)
		s.l.demoteAll()
	}
}

// onLost: the inbox was full; events at or below m.rev are missing.
func (t *laneTable) onLost(m *message) {
	p := t.ports[m.feed.id]
	if stale(p, m) {
		return
	}
	if m.gap {
		p.onGap(m.turn)
	}
	t.recover(p, m)
	p.state.seen = max(p.state.seen, m.rev)
	p.state.closed = max(p.state.closed, m.closed)
	for _, s := range p.lanes {
		if m.rev > 0 {
			s.l.m.lose(m.rev)
			s.l.demoteAll()
		}
		s.l.m.advance(s.i, m.closed)
		t.schedule(s.l)
	}
}

func (t *laneTable) onWhole(m *message) {
	p := t.ports[m.feed.id]
	if p == nil || p.feed != m.feed || p.state.turn != m.turn {
		return
	}
	p.state.whole = m.rev
	for _, s := range p.lanes {
		s.l.m.setWhole(s.i, m.rev)
		t.schedule(s.l)
	}
}
