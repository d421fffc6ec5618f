package watchfanout

import (
	"sync/atomic"

	"pontoon/shard"
)

// releaseEventsMax is how many events one delivery takes together, whole revisions aside.
const releaseEventsMax = 1024

// lane is a set of ranges that some watches have in common: their merger, the index of
// those that are live, and what was delivered lately. One dispatcher owns it.
type lane struct {
	d     *dispatcher
	key   string
	ports []*port // one per feed of the merger, same order

	m       *merger
	live    index
	recent  recent
	watches int             // that lie in these ranges
	wanted  wanted          // what its feeds were told of these
	waiting waiters[*watch] // behind, with nothing to do until the lane moves

	required  int64 // as in d.closing: to be closed for somebody to go on; 0: nothing is
	fresh     bool  // in d.closing.fresh
	scheduled bool  // in d.lanes.scheduled

	released atomic.Int64 // as the merger's, stored once queues hold what it names

	collected []collected // scratch of deliver
	matched   []*watch    // scratch of deliver
	fallen    []*watch    // scratch of deliver: watches whose queue was full
}

// collected is what a delivery has for the watches of one span.
type collected struct {
	first  *watch
	evs    []*shard.Event
	weight int
}

// state is what the lane looks like to who watches a span.
func (l *lane) state(s shard.Span) laneState {
	return laneState{released: l.m.released, horizon: max(l.m.horizon, l.covered(s)), recent: l.recent.from}
}

// advance delivers all that the merger releases, and gives up what is too much to hold.
func (l *lane) advance() {
	for more := true; more; {
		var evs []*shard.Event
		evs, more = l.m.release(releaseEventsMax)
		if len(evs) > 0 {
			l.deliver(evs)
			l.recent.add(evs)
		}
		l.released.Store(l.m.released)
	}
	l.m.shrink()
	events, bytes, last := l.m.held()
	switch {
	case events > l.d.h.cfg.PendingEvents || bytes > l.d.h.cfg.PendingBytes:
		l.m.drop()
		l.demoteAll()
	case events > 0:
		l.d.closing.require(l, last)
	}
	l.d.closing.released(l)
	l.resume()
}

// resume lets those that waited for the lane decide again.
func (l *lane) resume() {
	for _, w := range l.waiting.take() {
		if w.lane.Load() == l && w.mode == modeWaiting {
			l.d.catchup.decide(w)
		}
	}
}

// deliver hands released events to the live watches. Watches of the same span share one slice.
func (l *lane) deliver(evs []*shard.Event) {
	if l.live.size == 0 {
		return
	}
	for _, e := range evs {
		l.collect(e)
	}
	for i := range l.collected {
		c := &l.collected[i]
		c.first.at = 0
		for w := c.first; w != nil; {
			w = l.offer(w, c)
		}
	}
	for _, w := range l.fallen {
		l.demote(w)
	}
	clear(l.collected)
	clear(l.fallen)
	l.collected, l.fallen = l.collected[:0], l.fallen[:0]
}

func (l *lane) collect(e *shard.Event) {
	weight := eventBytes(e)
	l.matched = l.live.match(l.matched[:0], e.KV.Key)
	for _, w := range l.matched {
		if w.at == 0 {
			l.collected = append(l.collected, collected{first: w, evs: e.Alone(), weight: weight})
			w.at = uint32(len(l.collected))
			continue
		}
		c := &l.collected[w.at-1]
		c.evs = append(c.evs, e)
		c.weight += weight
	}
}

// offer hands what was collected to w and to those behind it that are of the same stream. It
// returns the first of another.
func (l *lane) offer(w *watch, c *collected) *watch {
	st := w.st
	queued, shared := 0, 0
	st.mu.Lock()
	for ; w != nil && w.st == st; w = w.after {
		evs, weight, own := c.evs, c.weight, false
		if !w.allChanges() || evs[0].Rev() <= w.pos.Load() {
			if evs = w.missing(evs); len(evs) == 0 {
				continue
			}
			weight, own = weigh(evs), true
		}
		switch {
		case w.reader == readerGone:
		case st.mu.load.full(&st.opts, &w.backlog):
			l.fallen = append(l.fallen, w)
		default:
			st.pushLocked(w, evs, weight)
			queued++
			if own {
				l.d.shedding.pushedLocked(st, evs, 1)
			} else {
				shared++
			}
		}
	}
	l.d.shedding.pushedLocked(st, c.evs, shared)
	st.mu.Unlock()
	if queued > 0 {
		l.d.ready.add(st)
	}
	return w
}

// demote takes a watch off the live path, at its own position: what the lane had delivered
// before the delivery that is going on. It decides again when the lane has advanced.
func (l *lane) demote(w *watch) {
	l.d.h.stats.demoted.Add(1)
	l.unlive(w)
	w.setMode(modeWaiting)
	l.waiting.add(w)
	l.d.lanes.schedule(l)
}

// unlive takes w out of the index and fixes its position.
func (l *lane) unlive(w *watch) {
	w.live.Store(false)
	l.live.remove(w)
	p := w.position()
	p.rest(l.released.Load())
	w.move(p)
}

// demoteAll takes every live watch off the live path, at its position.
func (l *lane) demoteAll() {
	if l.live.size == 0 {
		return
	}
	for w := range l.d.roster.all {
		if w.mode == modeLive && w.lane.Load() == l {
			l.demote(w)
		}
	}
}

// join puts a watch on the live path; what it lacks is remembered.
func (l *lane) join(w *watch) {
	p := w.position()
	if p.pos < l.m.released {
		if evs := w.missing(l.recent.after(p.pos)); len(evs) > 0 {
			w.st.push(w, evs, weigh(evs))
			l.d.ready.add(w.st)
		}
	}
	p.rest(l.m.released)
	w.move(p)
	w.setMode(modeLive)
	l.live.add(w)
	w.live.Store(true)
}

func weigh(evs []*shard.Event) int {
	n := 0
	for _, e := range evs {
		n += eventBytes(e)
	}
	return n
}
