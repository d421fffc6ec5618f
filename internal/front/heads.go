package front

import (
	"sync"

	"pontoon/internal/link"
	"pontoon/shard"
)

// heads are how far the feeds have come that are subscribed to, from wherever: from a replica here, or by links.
type heads struct {
	find func(shard.RangeID) (shard.Descriptor, bool) // in the newest map

	mu   sync.RWMutex
	byID map[shard.RangeID]*head
}

// head is one of them. Items of a feed come one after the other, and not always from the same goroutine.
type head struct {
	mu sync.Mutex
	link.Head
}

// begin follows a feed, of which nothing has come yet.
func (h *heads) begin(id shard.RangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byID[id] = &head{}
}

// end follows it no more.
func (h *heads) end(id shard.RangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, id)
}

func (h *heads) get(id shard.RangeID) *head {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.byID[id]
}

// take notes what is about to be published, which says then which keys the feed brings, if that is not all.
func (h *heads) take(id shard.RangeID, item *shard.FeedItem) {
	if e := h.get(id); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.Take(item)
		if e.LacksKeys() {
			if d, ok := h.find(id); ok {
				e.Learn(&d)
			}
		}
		if !e.Cover().Whole() { // whoever hears the first time of the feed by this item is to know
			item.Cover = e.Cover()
		}
	}
}

// resume is link.Head.Resume; nil also of a feed that is not followed.
func (h *heads) resume(id shard.RangeID, begin shard.FeedItem) *link.Move {
	e := h.get(id)
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.Resume(begin)
}
