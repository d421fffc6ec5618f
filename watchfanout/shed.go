package watchfanout

import (
	"math"
	"slices"

	"pontoon/internal/fifo"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// shedding is a dispatcher's part in bounding what waits for readers. Where that is too much, the readers furthest behind are taken what waits for them: their
// watches are parked at the positions up to which they were read, and go on by the ring or history once the reader has come again.
type shedding struct {
	d       *dispatcher
	now     int64    // of the budget's clock, as of the round's beginning
	entries int64    // queued since
	events  int64    // bytes of what is held since
	groups  []*Group // that hold too much
}

// pushedLocked counts events that have been pushed for n watches of a stream.
func (x *shedding) pushedLocked(s *Stream, evs []*shard.Event, n int) {
	x.retain(evs, n)
	if s.mu.load.tell(&s.opts) {
		x.note(s.opts.Group)
	}
}

// retain counts events for n watches more.
func (x *shedding) retain(evs []*shard.Event, n int) {
	if n == 0 {
		return
	}
	for _, e := range evs {
		if e.Retain(int32(n)) || mutate.On(mutate.CountsEachTime) {
			x.events += heldBytes(e)
		}
	}
}

// settle counts what the round has queued, and begins to give up queues if it is too much.
func (x *shedding) settle() {
	b := &x.d.h.budget
	if x.entries > 0 {
		b.add(x.entries*entryBytes + x.events)
		x.entries, x.events = 0, 0
	}
	for i, g := range x.groups {
		g.shed()
		x.groups[i] = nil
	}
	x.groups = x.groups[:0]
	if b.begin() {
		x.d.h.shedStep()
	}
}

// note has a group looked at when the round ends.
func (x *shedding) note(g *Group) {
	if !slices.Contains(x.groups, g) {
		x.groups = append(x.groups, g)
	}
}

// shedStep has every dispatcher take the step.
func (h *Hub) shedStep() {
	h.budget.waits.Store(int32(len(h.dispatchers)))
	cutoff := h.budget.cutoff()
	for _, d := range h.dispatchers {
		d.in.post(message{kind: msgShed, rev: cutoff})
	}
}

// onShed takes a step, or the queue of the one stream.
func (x *shedding) onShed(m *message) {
	if m.stream != nil {
		m.stream.opts.Group.given(x.giveUp(m.stream, math.MaxInt64))
		return
	}
	b := &x.d.h.budget
	for _, s := range x.d.roster.streams {
		if b.held() > b.low {
			x.giveUp(s, m.rev)
		}
	}
	if b.waits.Add(-1) > 0 {
		return
	}
	if b.next() {
		x.d.h.shedStep()
	} else {
		b.end()
	}
}

// giveUp takes a stream what waits for its reader, if that has waited since cutoff or longer. It reports whether it has.
func (x *shedding) giveUp(s *Stream, cutoff int64) bool {
	cutoff = min(cutoff, x.d.h.budget.last.Load()-1)
	s.mu.Lock()
	if since, waits := s.mu.out.oldest(); !waits || since > cutoff {
		s.mu.Unlock()
		return false
	}
	var left int64
	markers := s.mu.out.giveUp(func(e *entry) {
		left += e.release()
		if e.w.reader != readerGone && e.w.queued > 0 {
			s.emptyLocked(e.w)
			x.parkLocked(e.w, e.evs[0].Rev()-1)
		}
	})
	x.d.h.budget.left(left)
	s.mu.load.tell(&s.opts)
	s.mu.load.shed = !mutate.On(mutate.ShedRefills)
	s.mu.Unlock()
	x.d.h.stats.shed.Add(1)
	for i := range markers {
		m := message{w: markers[i].w, rev: markers[i].rev}
		if m.w == nil {
			m.stream = s
		}
		x.d.progress.onRequest(&m)
	}
	x.d.ready.add(s) // a reader that waits comes, and has its watches go on
	return true
}

// parkLocked has a watch wait for its reader, at the position below the first event that was taken from it.
func (x *shedding) parkLocked(w *watch, pos int64) {
	if w.mode == modeEnded {
		return // compacted away: what it was still to get is, too
	}
	if w.mode == modeLive {
		w.lane.Load().unlive(w)
	}
	w.token++
	w.setMode(modeParked)
	p := w.position()
	if !mutate.On(mutate.ShedLoses) {
		p.pos = pos
	}
	w.move(p)
	if w.reader == readerTakes {
		w.reader = readerAskedRoom
		w.st.mu.parked = append(w.st.mu.parked, w)
	}
}

// oldest is since when the first events have waited; false: none do.
func (q *sendQueue) oldest() (since int64, waits bool) {
	for _, items := range [...][]entry{q.queue.Items(), q.held.Items()} {
		for i := range items {
			if len(items[i].evs) > 0 {
				return items[i].since, true
			}
		}
	}
	return 0, false
}

// giveUp drops all events, each entry after gone has seen it, and the markers behind the first of them, which it returns: they spoke for what is gone.
func (q *sendQueue) giveUp(gone func(*entry)) (markers []entry) {
	any := false
	for _, part := range [...]*fifo.Queue[entry]{&q.queue, &q.held} {
		var kept fifo.Queue[entry]
		items := part.Items()
		for i := range items {
			switch e := &items[i]; {
			case len(e.evs) > 0:
				any = true
				gone(e)
			case e.compact == 0 && any && !mutate.On(mutate.ShedMarkers):
				markers = append(markers, *e)
			default:
				kept.Push(*e)
			}
		}
		*part = kept
	}
	return markers
}

// releaseAll says that all entries leave the queue, and returns what they have counted for.
func (q *sendQueue) releaseAll() (n int64) {
	for _, items := range [...][]entry{q.queue.Items(), q.held.Items()} {
		for i := range items {
			n += items[i].release()
		}
	}
	return n
}
