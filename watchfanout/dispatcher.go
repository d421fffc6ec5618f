package watchfanout

import (
	"context"
	"encoding/binary"
	"errors"

	"pontoon/shard"
)

// dispatcher owns some streams with their watches, and the lanes and ports that these need.
// It does one round at a time: hear everything in the inbox, let the lanes that have moved
// deliver, answer progress requests, ask for what somebody waits for, wake the readers.
type dispatcher struct {
	h  *Hub
	in inbox

	rangeMap *shard.Map
	ports    map[shard.RangeID]*port
	lanes    map[string]*lane
	streams  []*Stream // with watches
	laneKey  []byte    // scratch of laneOf

	dirty   []*lane            // to advance in this round
	touched []*Stream          // to wake at the end of this round
	queued  int64              // events queued in this round
	spare   []message          // memory of the last round's messages
	holding map[*lane]struct{} // lanes that may wait for a close
	want    int64              // highest revision that one of them has asked for
	asked   int64              // highest revision that the closer was asked for
	ticking bool               // a msgTick is on its way

	wantWatches []*watch  // with wants
	wantStreams []*Stream // with wants
	held        []*Stream // that hold something back
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

func newDispatcher(h *Hub, m *shard.Map) *dispatcher {
	d := &dispatcher{
		h: h, rangeMap: m,
		ports:   make(map[shard.RangeID]*port),
		lanes:   make(map[string]*lane),
		holding: make(map[*lane]struct{}),
	}
	d.in.init(h.cfg.InboxEvents, h.cfg.InboxBytes)
	return d
}

func (d *dispatcher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.in.wake:
			d.round()
		}
	}
}

// round reports whether there was anything to do.
func (d *dispatcher) round() bool {
	msgs := d.in.take(d.spare)
	for i := range msgs {
		d.hear(&msgs[i])
	}
	clear(msgs)
	d.spare = msgs
	for len(d.dirty) > 0 {
		l := d.dirty[len(d.dirty)-1]
		d.dirty = d.dirty[:len(d.dirty)-1]
		l.dirty = false
		l.advance()
	}
	d.answer()
	d.ask()
	d.wake()
	return len(msgs) > 0
}

func (d *dispatcher) hear(m *message) {
	switch m.kind {
	case msgItem:
		d.onItem(m)
	case msgLost:
		d.onLost(m)
	case msgWhole:
		d.onWhole(m)
	case msgWatch:
		d.own(m.w)
		d.assign(m.w)
	case msgUnwatch:
		d.onUnwatch(m)
	case msgChecked:
		d.onChecked(m)
	case msgRead:
		d.onRead(m)
	case msgAgain:
		if m.w.mode == modeReading && m.w.token == m.token {
			d.decide(m.w)
		}
	case msgRoom:
		if m.w.mode == modeParked {
			d.decide(m.w)
		}
	case msgWant:
		d.onWant(m)
	case msgMap:
		d.onMap(m)
	case msgTick:
		d.onTick()
	}
}

// mark has the lane advance in this round.
func (d *dispatcher) mark(l *lane) {
	if !l.dirty {
		l.dirty = true
		d.dirty = append(d.dirty, l)
	}
}

// touch has the stream's reader woken at the end of this round.
func (d *dispatcher) touch(s *Stream) {
	if !s.touched {
		s.touched = true
		d.touched = append(d.touched, s)
	}
}

func (d *dispatcher) onItem(m *message) {
	p := d.ports[m.feed.id]
	if stale(p, m) {
		return
	}
	if m.gap {
		d.onGap(p, m.turn)
	}
	if n := len(m.events); n > 0 {
		p.state.seen = max(p.state.seen, m.events[n-1].Rev())
	}
	p.state.closed = max(p.state.closed, m.closed)
	for _, s := range p.lanes {
		s.l.m.add(s.i, m.events)
		s.l.m.advance(s.i, m.closed)
		if len(m.events) > 0 || s.l.m.front > s.l.m.released {
			d.mark(s.l)
		}
	}
}

// stale reports whether a message is from before the dispatcher began to listen, or of a feed
// that it does not listen to: what it says is in the port's state already.
func stale(p *port, m *message) bool {
	return p == nil || p.feed != m.feed || m.turn < p.state.turn
}

// onGap: events of the feed are missing, up to a revision that msgWhole will name.
func (d *dispatcher) onGap(p *port, turn uint64) {
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
func (d *dispatcher) onLost(m *message) {
	p := d.ports[m.feed.id]
	if stale(p, m) {
		return
	}
	if m.gap {
		d.onGap(p, m.turn)
	}
	p.state.seen = max(p.state.seen, m.rev)
	p.state.closed = max(p.state.closed, m.closed)
	for _, s := range p.lanes {
		if m.rev > 0 {
			s.l.m.lose(m.rev)
			s.l.demoteAll()
		}
		s.l.m.advance(s.i, m.closed)
		d.mark(s.l)
	}
}

func (d *dispatcher) onWhole(m *message) {
	p := d.ports[m.feed.id]
	if p == nil || p.feed != m.feed || p.state.turn != m.turn {
		return
	}
	p.state.whole = m.rev
	for _, s := range p.lanes {
		s.l.m.setWhole(s.i, m.rev)
		d.mark(s.l)
	}
}

func (d *dispatcher) onUnwatch(m *message) {
	if m.w != nil {
		d.remove(m.w)
		return
	}
	for w := m.stream.owned; w != nil; w = m.stream.owned {
		d.remove(w)
	}
	m.stream.wants = nil
}

// own takes a new watch into its stream's list.
func (d *dispatcher) own(w *watch) {
	s := w.st
	s.heard++
	if s.owned == nil {
		s.place = len(d.streams)
		d.streams = append(d.streams, s)
	} else {
		s.owned.next, w.prev = w, s.owned
	}
	s.owned = w
}

// disown takes a watch out of the list.
func (d *dispatcher) disown(w *watch) {
	s := w.st
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		s.owned = w.prev
	}
	if w.prev != nil {
		w.prev.next = w.next
	}
	w.prev, w.next = nil, nil
	if s.owned == nil {
		last := d.streams[len(d.streams)-1]
		d.streams[s.place], last.place = last, s.place
		d.streams[len(d.streams)-1] = nil
		d.streams = d.streams[:len(d.streams)-1]
	}
}

// watches visits all of them.
func (d *dispatcher) watches(visit func(*watch) bool) {
	for _, s := range d.streams {
		for w := s.owned; w != nil; w = w.prev {
			if !visit(w) {
				return
			}
		}
	}
}

// onMap gives watches whose ranges have changed new lanes, at their own positions.
func (d *dispatcher) onMap(m *message) {
	change := m.more.(mapChange)
	d.rangeMap = change.rangeMap
	grown := make(map[*lane]bool)
	for _, l := range d.lanes {
		for _, p := range l.ports {
			grown[l] = grown[l] || change.grown[p.feed.id]
		}
	}
	var moving []*watch
	for w := range d.watches { // in an order that a replay repeats
		if l := w.lane.Load(); grown[l] || !l.covers(d.rangeMap, w.span()) {
			moving = append(moving, w)
		}
	}
	for _, w := range moving {
		d.unassign(w) // all of them, so that no lane of a grown range is left over
	}
	for _, w := range moving {
		d.assign(w)
	}
}

// assign puts a watch into the lane of its ranges.
func (d *dispatcher) assign(w *watch) {
	l := d.laneOf(d.rangeMap.Overlapping(w.span()))
	l.watches++
	w.lane.Store(l)
	d.decide(w)
}

// unassign takes a watch out of its lane and closes a lane that nobody needs.
func (d *dispatcher) unassign(w *watch) {
	l := w.lane.Load()
	if l == nil {
		return
	}
	if w.mode == modeLive {
		l.unlive(w)
	}
	w.token++
	w.setMode(modeNew)
	w.lane.Store(nil)
	if l.watches--; l.watches == 0 {
		d.closeLane(l)
	}
}

// remove ends a watch.
func (d *dispatcher) remove(w *watch) {
	if w.lane.Load() == nil {
		return // it has ended before, or never begun
	}
	d.unassign(w)
	w.setMode(modeEnded)
	w.more = nil
	d.disown(w)
	if w.st.blocker == w {
		w.st.blocker = nil
	}
}

func (d *dispatcher) laneOf(ranges []shard.Descriptor) *lane {
	d.laneKey = d.laneKey[:0]
	for i := range ranges {
		d.laneKey = binary.BigEndian.AppendUint64(d.laneKey, uint64(ranges[i].ID))
	}
	if l := d.lanes[string(d.laneKey)]; l != nil {
		return l
	}
	l := &lane{d: d, key: string(d.laneKey)}
	l.recent.eventsMax, l.recent.bytesMax = d.h.cfg.RecentEvents, d.h.cfg.RecentBytes
	feeds := make([]mergerFeed, len(ranges))
	var seen int64
	for i := range ranges {
		p := d.portOf(ranges[i].ID)
		p.lanes = append(p.lanes, slot{l: l, i: i})
		l.ports = append(l.ports, p)
		feeds[i] = mergerFeed{closed: p.state.closed, whole: p.state.whole}
		seen = max(seen, p.state.seen)
	}
	l.m = newMerger(feeds, seen)
	l.released.Store(l.m.released)
	d.lanes[l.key] = l
	d.h.stats.lanes.Add(1)
	return l
}

func (d *dispatcher) closeLane(l *lane) {
	delete(d.lanes, l.key)
	delete(d.holding, l)
	l.want = 0
	d.h.stats.lanes.Add(-1)
	for _, p := range l.ports {
		for i := range p.lanes {
			if p.lanes[i].l == l {
				p.lanes[i] = p.lanes[len(p.lanes)-1]
				p.lanes = p.lanes[:len(p.lanes)-1]
				break
			}
		}
		if len(p.lanes) == 0 {
			delete(d.ports, p.feed.id)
			d.h.release(p.feed, d)
		}
	}
}

func (d *dispatcher) portOf(id shard.RangeID) *port {
	if p := d.ports[id]; p != nil {
		return p
	}
	f := d.h.acquire(id)
	p := &port{feed: f, state: f.join(d)}
	d.ports[id] = p
	return p
}

// decide does the next step of a watch that is not on the live path. The watch's lane is not
// in the middle of a delivery.
func (d *dispatcher) decide(w *watch) {
	l, p := w.lane.Load(), w.position()
	room := w.st.room(w)
	for p.next(l.view(), room) == stepPark {
		w.setMode(modeParked)
		if w.st.askRoom(w) {
			return
		}
		room = true // there is, meanwhile
	}
	switch p.next(l.view(), room) {
	case stepCheck:
		w.setMode(modeChecking)
		d.h.checkStart(w)
	case stepJoin:
		l.join(w)
	case stepRead:
		d.read(w)
	case stepWait:
		w.setMode(modeWaiting)
		l.waiting = append(l.waiting, w)
		if l.m.horizon == unknown {
			l.need(1) // a feed that has said nothing: any item of it will do
		} else {
			l.need(l.m.horizon)
		}
	}
}

// onChecked goes on with a watch whose start has been asked for.
func (d *dispatcher) onChecked(m *message) {
	w := m.w
	if w.mode != modeChecking {
		return // cancelled, or checked before
	}
	p := w.position()
	if p.pos+1 < m.rev {
		d.end(w, m.rev)
		return
	}
	p.unchecked = false
	w.move(p)
	d.decide(w)
}

// onWant notes a request for progress, of a watch or a stream.
func (d *dispatcher) onWant(m *message) {
	if m.w != nil {
		if m.w.mode == modeEnded {
			return
		}
		wants := m.w.wants()
		if len(wants) == 0 {
			d.wantWatches = append(d.wantWatches, m.w)
		}
		m.w.setWants(addWant(wants, m.rev))
		return
	}
	if len(m.stream.wants) == 0 {
		d.wantStreams = append(d.wantStreams, m.stream)
	}
	m.stream.wants = addWant(m.stream.wants, m.rev)
}

// onTick asks again for what is still not closed.
func (d *dispatcher) onTick() {
	d.ticking, d.want, d.asked = false, 0, 0
	d.letGo(true)
	for l := range d.holding {
		if l.want == 0 {
			delete(d.holding, l)
		}
		d.want = max(d.want, l.want)
	}
}

// ask tells the closer what somebody waits for.
func (d *dispatcher) ask() {
	if len(d.holding) == 0 && len(d.held) == 0 {
		return
	}
	if d.want > d.asked {
		d.asked = d.want
		d.h.cfg.Closer.AskClose(d.want)
	}
	if !d.ticking {
		d.ticking = true
		d.h.cfg.AfterFunc(d.h.cfg.RetryDelay, func() { d.in.post(message{kind: msgTick}) })
	}
}

// wake tells the readers of the streams that got something.
func (d *dispatcher) wake() {
	for i, s := range d.touched {
		s.touched = false
		s.signal()
		d.touched[i] = nil
	}
	d.touched = d.touched[:0]
	d.h.stats.queued.Add(d.queued)
	d.queued = 0
}

// end tells a watch's reader that its next revision is compacted away, and forgets the watch.
func (d *dispatcher) end(w *watch, compacted int64) {
	w.st.finish(w, max(compacted, d.h.compacted.Load()))
	d.touch(w.st)
	d.remove(w)
}

// asCompacted finds a *shard.CompactedError in err.
func asCompacted(err error) *shard.CompactedError {
	var c *shard.CompactedError
	if errors.As(err, &c) {
		return c
	}
	return nil
}
