package watchfanout

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// feedTable holds the feeds of a hub, one for each range that has published or that somebody watches, under
// the range map that the dispatchers were told last.
type feedTable struct {
	h        *Hub
	rangeMap atomic.Pointer[shard.Map]
	rings    ringTable
	waiting  atomic.Int64 // how many ranges of it wait for their feeds: of mu.waits

	mu struct {
		sync.RWMutex
		byID   map[shard.RangeID]*feed
		lost   map[shard.RangeID]*feed // of byID, those whose ranges are not in the map
		parked map[*feed]struct{}      // those that may have something parked
		waits  []shard.RangeID
	}
}

func (t *feedTable) init(h *Hub, m *shard.Map) {
	t.h = h
	t.rings.init(&h.cfg)
	t.mu.byID = make(map[shard.RangeID]*feed)
	t.mu.lost = make(map[shard.RangeID]*feed)
	t.mu.parked = make(map[*feed]struct{})
	t.rangeMap.Store(m)
}

// get returns a range's feed, which is made if there is none.
func (t *feedTable) get(id shard.RangeID) *feed {
	t.mu.RLock()
	f := t.mu.byID[id]
	t.mu.RUnlock()
	if f == nil {
		t.mu.Lock()
		f = t.getLocked(id)
		t.mu.Unlock()
	}
	return f
}

func (t *feedTable) getLocked(id shard.RangeID) *feed {
	f := t.mu.byID[id]
	if f == nil {
		f = newFeed(id, &t.rings)
		if d := descriptorIn(t.rangeMap.Load(), id); d != nil {
			f.mu.since = d.Generation
		} else {
			t.mu.lost[id] = f
		}
		t.mu.byID[id] = f
	}
	return f
}

// notePark remembers that something is parked.
func (t *feedTable) notePark(f *feed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.parked[f] = struct{}{}
}

// allParked returns the feeds in which something may be parked, by their ids.
func (t *feedTable) allParked() []*feed {
	t.mu.RLock()
	defer t.mu.RUnlock()
	feeds := slices.Collect(maps.Keys(t.mu.parked))
	slices.SortFunc(feeds, func(a, b *feed) int { return cmp.Compare(a.id, b.id) })
	return feeds
}

// acquire returns the feed of a range for one more listener, who wants keys of a span; nil: that is to be told.
func (t *feedTable) acquire(id shard.RangeID, s *shard.Span) *feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.getLocked(id)
	if s != nil {
		f.want(*s) // before it is asked for
	}
	if f.users++; f.users == 1 && t.h.cfg.Subscribe != nil {
		if f.linger.on {
			f.linger.on = false
			return f
		}
		f.detach()
		t.h.clerk.add(always(func() {
			f.detach() // once more: after an Unsubscribe that was still to run
			t.h.cfg.Subscribe(id)
		}))
	}
	return f
}

// release is the opposite.
func (t *feedTable) release(f *feed, d *dispatcher) {
	f.leave(d)
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if t.h.cfg.FeedLinger > 0 && t.mu.lost[f.id] != f {
		t.lingerLocked(f)
		return
	}
	t.endLocked(f)
}

// lingerLocked lets a feed to which nobody listens any more go on for a while: whoever comes back finds that nothing is missing.
func (t *feedTable) lingerLocked(f *feed) {
	f.linger.on = true
	f.linger.time++
	time := f.linger.time
	t.h.cfg.AfterFunc(t.h.cfg.FeedLinger, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if f.linger.on && f.linger.time == time {
			t.endLocked(f)
		}
	})
}

// endLocked ends a feed to which nobody listens.
func (t *feedTable) endLocked(f *feed) {
	f.linger.on = false
	if t.h.cfg.Unsubscribe != nil {
		t.h.clerk.add(always(func() { t.h.cfg.Unsubscribe(f.id) }))
		t.rings.restart(&f.ring) // it begins anew when somebody listens again
		f.unwant()
	}
	t.forgetLocked(f)
}

// find returns the feed of a range; nil: there is none.
func (t *feedTable) find(id shard.RangeID) *feed {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.mu.byID[id]
}

// forgetLocked drops what is kept of a range that is not in the map and has no listeners.
func (t *feedTable) forgetLocked(f *feed) {
	if f.users == 0 && t.mu.lost[f.id] == f {
		if f.linger.on {
			t.endLocked(f) // which comes here again
			return
		}
		t.rings.restart(&f.ring)
		delete(t.mu.byID, f.id)
		delete(t.mu.lost, f.id)
		delete(t.mu.parked, f)
	}
}

// adopt brings the map that the dispatchers know into line with the newest one that the hub was told of, as far as that
// does not wait for feeds, and reports whether it has changed. No feed is made meanwhile, and the dispatchers hear of
// it before any item that has waited for it.
func (t *feedTable) adopt(base *shard.Map) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.rangeMap.Load()
	next, waiting := combine(known, base, t.waitsLocked)
	t.mu.waits = waiting
	t.waiting.Store(int64(len(waiting)))
	changed, removed := changes(known, next)
	if len(changed)+len(removed) > 0 {
		t.tellLocked(known, next, changed, removed)
		return true
	}
	t.rangeMap.Store(next) // another version of the same
	return false
}

func changes(old, m *shard.Map) (changed []shard.Descriptor, removed []shard.RangeID) {
	if old == nil {
		return slices.Collect(m.All()), nil
	}
	return m.Changes(old)
}

// waitsLocked tells whether a range that is another one now is to stay as it was until its feed tells of that.
func (t *feedTable) waitsLocked(o, now shard.Descriptor) bool {
	f := t.mu.byID[o.ID]
	return f != nil && f.users > 0 && f.awaits(o, now)
}

// tellLocked makes next the map that the dispatchers know.
func (t *feedTable) tellLocked(known, next *shard.Map, changed []shard.Descriptor, removed []shard.RangeID) {
	mc := mapChange{rangeMap: next, changed: make(map[shard.RangeID]bool)}
	for _, d := range changed {
		was, f := descriptorIn(known, d.ID), t.mu.byID[d.ID]
		delete(t.mu.lost, d.ID)
		if anew := f != nil && f.adopt(was, d); anew || was != nil && !was.Span.Equal(d.Span) {
			mc.changed[d.ID] = anew
		}
	}
	for _, id := range removed {
		mc.changed[id] = false
		if f := t.mu.byID[id]; f != nil {
			t.mu.lost[id] = f
		}
	}
	for _, f := range t.mu.lost { // of those that came late, and have no listeners to leave them
		t.forgetLocked(f)
	}
	for _, d := range t.h.dispatchers {
		d.in.post(message{kind: msgMap, more: mc})
	}
	t.rangeMap.Store(next)
}

func descriptorIn(m *shard.Map, id shard.RangeID) *shard.Descriptor {
	if m == nil {
		return nil
	}
	d, ok := m.Get(id)
	if !ok {
		return nil
	}
	return &d
}
