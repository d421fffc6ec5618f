package watchfanout

import (
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// feedTable holds the feeds of a hub, one for each range that has published or that somebody watches, under
// the range map that the dispatchers were told last.
type feedTable struct {
	h        *Hub
	rangeMap atomic.Pointer[shard.Map]

	mu struct {
		sync.RWMutex
		byID map[shard.RangeID]*feed
	}
}

func (t *feedTable) init(h *Hub, m *shard.Map) {
	t.h = h
	t.mu.byID = make(map[shard.RangeID]*feed)
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
		f = newFeed(id)
		if d := descriptorIn(t.rangeMap.Load(), id); d != nil {
			f.mu.since = d.Generation
		}
		t.mu.byID[id] = f
	}
	return f
}

func (t *feedTable) all() []*feed {
	t.mu.RLock()
	defer t.mu.RUnlock()
	feeds := make([]*feed, 0, len(t.mu.byID))
	for _, f := range t.mu.byID {
		feeds = append(feeds, f)
	}
	return feeds
}

// acquire returns the feed of a range for one more listener.
func (t *feedTable) acquire(id shard.RangeID) *feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.getLocked(id)
	if f.users++; f.users == 1 && t.h.cfg.Subscribe != nil {
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
	if f.users--; f.users == 0 && t.h.cfg.Unsubscribe != nil {
		t.h.clerk.add(always(func() { t.h.cfg.Unsubscribe(f.id) }))
	}
}

// adopt tells everybody of a new map. No feed is made meanwhile, and the dispatchers hear of it
// before any item that has waited for it.
func (t *feedTable) adopt(m *shard.Map) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.rangeMap.Load()
	grown := make(map[shard.RangeID]bool)
	for id, f := range t.mu.byID {
		if now, ok := m.Get(id); ok && f.adopt(descriptorIn(old, id), now) {
			grown[id] = true
		}
	}
	for _, d := range t.h.dispatchers {
		d.in.post(message{kind: msgMap, more: mapChange{rangeMap: m, grown: grown}})
	}
	t.rangeMap.Store(m)
}

// forget drops what is kept of a range that is not in the map any more.
func (t *feedTable) forget(f *feed, m *shard.Map) {
	if _, ok := m.Get(f.id); ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.users == 0 {
		delete(t.mu.byID, f.id)
	}
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
