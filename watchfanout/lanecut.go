package watchfanout

import (
	"encoding/binary"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// side is where a watch of a lane lies once a range of the lane has been cut.
type side uint8

const (
	sideLeft  side = iota // it has no key of the child
	sideRight             // it has no key of the parent
	sideBoth
	sides
)

// laneCut is how a lane is cut. Its watches part: those that need both ranges go on in one lane, those that need one of
// them in others.
type laneCut struct {
	i           int // of the parent's port
	first, last bool
	at          string
	sizes       [sides]int // watches
	pieces      [sides]*lane
}

func (c *laneCut) side(w *watch) side {
	switch {
	case c.first && w.start() >= c.at:
		return sideRight
	case c.last && w.kind != spanOpen && w.end() <= c.at:
		return sideLeft
	}
	return sideBoth
}

// cut replaces the parent's port in all lanes by both parts', which are closed and whole as the parent's was: every
// watch goes on as it stands, and what is live stays live. The child's is closed no further until its first item has come.
func (t *laneTable) cut(p *port, b border) {
	p.state.generation = b.generation
	child := &port{feed: b.child, state: b.state}
	if !b.joined {
		child = t.port(&shard.Descriptor{ID: b.child.id, Generation: b.generation}, nil)
	}
	t.ports[b.child.id] = child

	slots := slices.Clone(p.lanes)
	cuts := make(map[*lane]*laneCut, len(slots))
	for _, s := range slots {
		cuts[s.l] = &laneCut{i: s.i, first: s.i == 0, last: s.i == len(s.l.ports)-1, at: b.at}
	}
	for w := range t.d.roster.all {
		if c := cuts[w.lane.Load()]; c != nil {
			c.sizes[c.side(w)]++
		}
	}
	for _, s := range slots {
		t.cutLane(s.l, child, cuts[s.l])
	}
	for w := range t.d.roster.all {
		l := w.lane.Load()
		if c := cuts[l]; c != nil {
			l.hand(w, c.pieces[c.side(w)])
		}
	}
	for _, q := range []*port{p, child} {
		if len(q.lanes) == 0 {
			t.drop(q)
		}
	}
}

// cutLane makes the pieces of a lane that have watches. The largest is the lane itself, so that most of them stay.
func (t *laneTable) cutLane(l *lane, child *port, c *laneCut) {
	t.d.h.stats.cut.Add(1)
	t.unplug(l)
	delete(t.byRanges, l.key)
	stays := side(0)
	for s, n := range c.sizes {
		if n > c.sizes[stays] {
			stays = side(s)
		}
	}
	old, m := l.ports, l.m
	for s, n := range c.sizes {
		if n == 0 {
			continue
		}
		piece := l
		if side(s) != stays {
			piece = &lane{d: l.d, recent: l.recent.fork(), wanted: l.wanted}
			piece.released.Store(m.released)
			t.d.h.stats.lanes.Add(1)
		}
		c.pieces[s] = piece
		t.lay(piece, c.ports(side(s), old, child), c.fork(side(s), m, child))
		t.d.closing.require(piece, l.required)
		t.d.closing.renew(piece)
		t.schedule(piece)
	}
}

// ports are those of a piece.
func (c *laneCut) ports(s side, old []*port, child *port) []*port {
	switch s {
	case sideLeft:
		return slices.Clone(old)
	case sideRight:
		return append([]*port{child}, old[1:]...)
	}
	return slices.Insert(slices.Clone(old), c.i+1, child)
}

// fork is the merger of a piece.
func (c *laneCut) fork(s side, m *merger, child *port) *merger {
	of := mergerFeed{closed: child.state.closed, whole: child.state.whole}
	if mutate.On(mutate.BorderNoWait) {
		of.closed = unknown
	}
	feeds, keeps := slices.Clone(m.feeds), func([]byte) bool { return true }
	switch s {
	case sideLeft:
		keeps = func(key []byte) bool { return string(key) < c.at }
	case sideRight:
		feeds[0] = of
		keeps = func(key []byte) bool { return string(key) >= c.at }
	case sideBoth:
		feeds = slices.Insert(feeds, c.i+1, of)
	}
	return m.fork(feeds, keeps)
}

// lay puts a lane on ports.
func (t *laneTable) lay(l *lane, ports []*port, m *merger) {
	var key []byte
	for i, p := range ports {
		p.lanes = append(p.lanes, slot{l: l, i: i})
		key = binary.BigEndian.AppendUint64(key, uint64(p.feed.id))
	}
	l.key, l.ports, l.m = string(key), ports, m
	t.byRanges[l.key] = l
}

// hand gives a watch to another lane that has released the same, as it stands.
func (l *lane) hand(w *watch, to *lane) {
	if to == l {
		return
	}
	if w.mode == modeLive {
		l.live.remove(w)
	}
	l.watches--
	to.watches++
	w.lane.Store(to)
	switch w.mode {
	case modeLive:
		to.live.add(w)
	case modeWaiting:
		to.waiting.add(w)
	}
}
