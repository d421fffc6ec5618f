package watchfanout

import (
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// borderPatience is for how long a change of a range that the map tells of may wait for the range's feed to tell of it, too.
// The feed is one apply behind, or its replica is in trouble, and then the watches go on by history.
const borderPatience = 5 * time.Second

// border is what a dispatcher is told of a border: the map from there on, and the feed of the child, to which it has been
// joined if it listens to that of the parent.
type border struct {
	rangeMap   *shard.Map
	at         string
	generation shard.Generation
	child      *feed
	state      feedState // in which the child's feed begins
	joined     bool
}

// advanced is what came of items that were parked.
type advanced struct {
	forwarded
	children []*feed // which begin where it is not known from where on they are whole
	narrow   []*feed // children that do not bring all that is watched
}

// noteWait remembers that what is parked was not passed on at once.
func (f *feed) noteWait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.waited = len(f.mu.parked) > 0
}

// advance passes on what is parked in a feed as far as the map covers it, and changes the map where the feed says so. The
// caller holds Hub.mapMu.
func (t *feedTable) advance(f *feed, base *shard.Map) (p advanced, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.mu.parked) > 0 {
		if newerThan(f.mu.parked[0], f.id, t.rangeMap.Load()) {
			if !t.stepLocked(f, base) {
				p.parked = true
				return p, changed
			}
			changed = true
		}
		waited := f.mu.waited
		item := f.popLocked()
		b := item.Border
		item.Border = nil
		q := f.forwardLocked(item)
		p.anew, p.late, p.short = p.anew || q.anew, p.late+q.late, p.short || q.short
		if b != nil && t.cutLocked(f, item.Generation, b, waited, &p) {
			changed = true
		}
	}
	delete(t.mu.parked, f)
	return p, changed
}

// stepLocked takes the range of a feed to be of the next generation, if that is what its first parked item tells.
func (t *feedTable) stepLocked(f *feed, base *shard.Map) bool {
	m := t.rangeMap.Load()
	o, now := descriptorIn(m, f.id), descriptorIn(base, f.id)
	if o == nil || now == nil || !f.mu.attached || !isStep(&f.mu.parked[0], *o, *now) {
		return false
	}
	next := *o
	next.Generation++
	m, err := m.Apply(next)
	if err != nil {
		return false
	}
	f.mu.since, f.mu.also, f.mu.impatient = next.Generation, 0, false
	for _, d := range t.h.dispatchers {
		d.in.post(message{kind: msgMap, more: mapChange{rangeMap: m}})
	}
	t.rangeMap.Store(m)
	return true
}

// cutLocked cuts the range of a feed at a border that an item of some generation carried. Whoever listens to the feed
// listens to the child's from now on, before anything can come of it. It reports whether the map has changed. A border
// that the map has told of already is passed; one of a later cut than the next is a gap.
func (t *feedTable) cutLocked(f *feed, generation shard.Generation, b *shard.Border, waited bool, p *advanced) bool {
	m := t.rangeMap.Load()
	d := descriptorIn(m, f.id)
	if d == nil || generation != 0 && generation < d.Generation || b.Generation <= d.Generation {
		return false
	}
	left, right, ok := cutAt(*d, b)
	var next *shard.Map
	if ok {
		var err error
		next, err = m.Apply(left, right)
		ok = err == nil && next != m
	}
	if !ok {
		t.h.cfg.Logger.Warn("the border of a range is none of the range as it is known; its watchers go on by history", "range", d.ID, "generation", d.Generation, "child", b.Child, "next_generation", b.Generation)
		f.mu.attached = false
		return false
	}
	_, known := t.mu.byID[b.Child]
	child := t.getLocked(b.Child)
	delete(t.mu.lost, b.Child)
	f.mu.since, f.mu.also, f.mu.impatient = b.Generation, 0, false
	st, joined := t.inheritLocked(child, f, b.At, !known && !waited)
	if st.whole == unknown && f.mu.attached {
		p.children = append(p.children, child)
	}
	if child.isShort() {
		p.narrow = append(p.narrow, child)
	}
	for _, dp := range t.h.dispatchers {
		dp.in.post(message{kind: msgBorder, feed: f, more: border{
			rangeMap: next, at: string(b.At), generation: b.Generation, child: child, state: st, joined: joined && slices.Contains(f.mu.listeners, dp),
		}})
	}
	t.rangeMap.Store(next)
	return true
}

// inheritLocked lets the child's feed begin where f, its parent's, ends: closed and whole as that is. The listeners are the same. whole
// says that nothing can have come of the child before.
func (t *feedTable) inheritLocked(child, f *feed, at []byte, whole bool) (st feedState, joined bool) {
	child.mu.Lock()
	defer child.mu.Unlock()
	child.mu.since, child.mu.also = f.mu.since, 0
	child.mu.turn++
	child.mu.closed, child.mu.seen, child.mu.whole = f.mu.closed, f.mu.seen, unknown
	child.mu.cover, child.mu.wanted = f.mu.cover, f.mu.wanted
	t.rings.restart(&child.ring)
	t.rings.cover(&child.ring, child.mu.cover)
	if child.mu.attached = f.mu.attached && whole; child.mu.attached {
		child.mu.whole = f.mu.whole
		t.rings.inherit(&child.ring, &f.ring, at)
	}
	if mutate.On(mutate.BorderLateFeed) {
		return child.stateLocked(), false
	}
	child.mu.listeners = slices.Clone(f.mu.listeners)
	child.users = len(child.mu.listeners)
	if id := child.id; (child.users > 0 || f.linger.on) && t.h.cfg.Subscribe != nil {
		t.h.clerk.add(always(func() { t.h.cfg.Subscribe(id) }))
	}
	if child.users == 0 && f.linger.on {
		t.lingerLocked(child)
	}
	return child.stateLocked(), true
}

// boundWait sees that what waits for feeds does not do so for longer than borderPatience. The caller holds mapMu.
func (h *Hub) boundWait() {
	if h.waitBounded || h.feeds.waiting.Load() == 0 {
		return
	}
	h.waitBounded = true
	was := h.feeds.generations()
	h.cfg.AfterFunc(borderPatience, func() {
		h.clerk.add(always(func() {
			h.mapMu.Lock()
			defer h.mapMu.Unlock()
			h.waitBounded = false
			for f, since := range was {
				f.giveUp(since)
			}
			h.settle()
		}))
	})
}

// generations are those of the feeds for which ranges wait.
func (t *feedTable) generations() map[*feed]shard.Generation {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[*feed]shard.Generation, len(t.mu.waits))
	for _, id := range t.mu.waits {
		if f := t.mu.byID[id]; f != nil {
			f.mu.Lock()
			out[f] = f.mu.since
			f.mu.Unlock()
		}
	}
	return out
}

// giveUp lets nothing wait any more for a feed that has told of no change since.
func (f *feed) giveUp(since shard.Generation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.impatient = f.mu.since == since
}
