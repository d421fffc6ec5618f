package watchfanout

import (
	"context"

	"pontoon/shard"
)

// dispatcher owns some streams with their watches, and the lanes and ports that these need.
// It does one round at a time: hear everything in the inbox, let the scheduled lanes
// deliver, answer progress requests, ask for what somebody waits for, wake the readers.
// Its parts below are each about one of these; none has a lock, for all run in the round.
type dispatcher struct {
	h     *Hub
	in    inbox
	spare []message // memory of the last round's messages

	roster   roster
	lanes    laneTable
	catchup  catchup
	progress progress
	closing  closing
	shedding shedding
	ready    readyList
}

func newDispatcher(h *Hub, m *shard.Map) *dispatcher {
	d := &dispatcher{h: h}
	d.in.init(h.cfg.InboxEvents, h.cfg.InboxBytes)
	d.lanes.init(d, m)
	d.catchup.d, d.shedding.d = d, d
	d.progress.closing, d.progress.ready = &d.closing, &d.ready
	d.closing.init(&h.cfg, &d.in)
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
	d.shedding.now = d.h.budget.queued.Load()
	for i := range msgs {
		d.hear(&msgs[i])
	}
	clear(msgs)
	d.spare = msgs
	d.lanes.advance()
	d.progress.answer()
	d.closing.ask(len(d.progress.held) > 0)
	d.shedding.settle()
	d.ready.wake(&d.h.stats.queued)
	return len(msgs) > 0
}

func (d *dispatcher) hear(m *message) {
	switch m.kind {
	case msgItem:
		d.lanes.onItem(m)
	case msgLost:
		d.lanes.onLost(m)
	case msgWhole:
		d.lanes.onWhole(m)
	case msgWatch:
		m.w.st.heard++
		d.roster.add(m.w)
		d.assign(m.w)
	case msgUnwatch:
		d.onUnwatch(m)
	case msgChecked:
		d.catchup.onChecked(m)
	case msgRead:
		d.catchup.onRead(m)
	case msgAgain:
		if m.w.mode == modeReading && m.w.token == m.token {
			d.catchup.decide(m.w)
		}
	case msgRoom:
		if m.w.mode == modeParked {
			d.catchup.decide(m.w)
		}
	case msgProgress:
		d.progress.onRequest(m)
	case msgMap:
		d.replace(d.lanes.adopt(m.more.(mapChange)))
	case msgBorder:
		d.onBorder(m.feed, m.more.(border))
	case msgShed:
		d.shedding.onShed(m)
	case msgTick:
		d.closing.onTick()
		d.progress.release(true)
	}
}

func (d *dispatcher) onUnwatch(m *message) {
	if m.w != nil {
		d.remove(m.w)
		return
	}
	for w := m.stream.newest; w != nil; w = m.stream.newest {
		d.remove(w)
	}
	m.stream.requests = nil
}

// onBorder cuts the lanes of the parent in place.
func (d *dispatcher) onBorder(parent *feed, b border) {
	d.lanes.rangeMap = b.rangeMap
	p := d.lanes.ports[parent.id]
	if p == nil || p.feed != parent || p.state.generation >= b.generation {
		if b.joined {
			d.h.feeds.release(b.child, d) // for a port that is no more
		}
		if p != nil {
			touched := make(map[*lane]bool)
			p.touch(touched, true) // it has been opened behind the border, by the map before it
			d.replace(touched)
		}
		return
	}
	d.lanes.cut(p, b)
}

// replace gives watches of some lanes new ones, at their own positions, if these are of other ranges now or all are to move.
func (d *dispatcher) replace(touched map[*lane]bool) {
	if len(touched) == 0 {
		return
	}
	var moving []*watch
	for w := range d.roster.all { // in an order that a replay repeats
		l := w.lane.Load()
		if anew, ok := touched[l]; ok && (anew || !l.isOf(d.lanes.rangeMap, w.span())) {
			moving = append(moving, w)
		}
	}
	for _, w := range moving {
		d.unassign(w) // all of them, so that no lane of a range that begins anew is left over
	}
	for _, w := range moving {
		d.assign(w)
	}
}

// assign puts a watch into the lane of its ranges.
func (d *dispatcher) assign(w *watch) {
	l := d.lanes.of(w.span())
	l.watches++
	w.lane.Store(l)
	l.want(w.span())
	d.catchup.decide(w)
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
		d.closing.forget(l)
		d.lanes.close(l)
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
	d.roster.remove(w)
	if w.st.blocker == w {
		w.st.blocker = nil
	}
}
