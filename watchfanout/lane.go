package watchfanout

import (
	"slices"
	"sync/atomic"
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
	watches map[*watch]struct{}
	waiting []*watch // behind, with nothing to do until the lane moves
	want    int64    // somebody waits for this to be released; 0: nobody
	dirty   bool     // in d.dirty

	released atomic.Int64 // as the merger's, stored once queues hold what it names

	touched []*node  // scratch of deliver
	matched []*node  // scratch of deliver
	several []*watch // scratch of deliver: watches of several spans
	fallen  []*watch // scratch of deliver: watches whose queue was full
}

func (l *lane) view() view {
	return view{released: l.m.released, horizon: l.m.horizon, recent: l.recent.from}
}

// advance delivers all that the merger releases, and gives up what is too much to hold.
func (l *lane) advance() {
	for more := true; more; {
		var evs []*Event
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
		l.need(last)
	}
	if l.want <= l.m.released && l.want > 0 {
		l.want = 0
		delete(l.d.holding, l)
	}
	l.resume()
}

// need notes that the lane must be closed at rev for somebody to go on.
func (l *lane) need(rev int64) {
	if rev > l.m.released && rev > l.want {
		l.want = rev
		l.d.want = max(l.d.want, rev)
		l.d.holding[l] = struct{}{}
	}
}

// resume lets those that waited for the lane decide again.
func (l *lane) resume() {
	ws := l.waiting
	l.waiting = nil
	for _, w := range ws {
		if w.lane == l && w.mode == modeWaiting {
			l.d.decide(w)
		}
	}
}

// deliver hands released events to the live watches. Watches of the same span share one slice.
func (l *lane) deliver(evs []*Event) {
	if l.live.size == 0 {
		return
	}
	for _, e := range evs {
		weight := e.weight()
		l.matched = l.live.match(l.matched[:0], e.KV.Key)
		for _, n := range l.matched {
			if len(n.out) == 0 {
				n.out = e.alone[:1:1]
				l.touched = append(l.touched, n)
			} else {
				n.out = append(n.out, e)
			}
			n.weight += weight
		}
	}
	for _, n := range l.touched {
		l.deliverNode(n)
		n.out, n.weight = nil, 0
	}
	for _, w := range l.several {
		slices.SortFunc(w.out, compareEvents)
		l.offer(w, w.out, weigh(w.out))
		w.out = nil
	}
	for _, w := range l.fallen {
		l.demote(w)
	}
	clear(l.several)
	clear(l.fallen)
	clear(l.touched)
	l.touched, l.several, l.fallen = l.touched[:0], l.several[:0], l.fallen[:0]
}

func (l *lane) deliverNode(n *node) {
	for _, sub := range n.subs {
		w := sub.w
		evs, weight := n.out, n.weight
		if w.noPut || w.noDelete || evs[0].Rev() <= w.pos {
			evs = w.wanted(evs)
			weight = weigh(evs)
		}
		switch {
		case len(evs) == 0:
		case len(w.spans) == 1:
			l.offer(w, evs, weight)
		default:
			if len(w.out) == 0 {
				l.several = append(l.several, w)
			}
			w.out = append(w.out, evs...)
		}
	}
}

func (l *lane) offer(w *watch, evs []*Event, weight int) {
	if w.st.offer(w, evs, weight) {
		l.d.touch(w.st)
	} else {
		l.fallen = append(l.fallen, w)
	}
}

// demote takes a watch off the live path, at its own position: what the lane had delivered
// before the delivery that is going on. It decides again when the lane has advanced.
func (l *lane) demote(w *watch) {
	l.d.h.stats.demoted.Add(1)
	l.unlive(w)
	w.setMode(modeWaiting)
	l.waiting = append(l.waiting, w)
	l.d.mark(l)
}

// unlive takes w out of the index and fixes its position.
func (l *lane) unlive(w *watch) {
	w.live.Store(nil)
	l.live.remove(w)
	w.pos = max(w.pos, l.released.Load())
	w.handed.Store(w.pos)
}

// demoteAll takes every live watch off the live path, at its position.
func (l *lane) demoteAll() {
	for w := range l.watches {
		if w.mode == modeLive {
			l.demote(w)
		}
	}
}

// join puts a watch on the live path; what it lacks is remembered.
func (l *lane) join(w *watch) {
	if w.pos < l.m.released {
		if evs := w.wanted(l.recent.after(w.pos)); len(evs) > 0 {
			w.st.push(w, evs, weigh(evs))
			l.d.touch(w.st)
		}
		w.pos = l.m.released
	}
	w.fresh = false
	w.handed.Store(w.pos)
	w.setMode(modeLive)
	l.live.add(w)
	w.live.Store(l)
}

func compareEvents(a, b *Event) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	default:
		return 0
	}
}

func weigh(evs []*Event) int {
	n := 0
	for _, e := range evs {
		n += e.weight()
	}
	return n
}
