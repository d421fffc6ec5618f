package front

import (
	"sync"

	"pontoon/shard"
)

// tee hands the feeds of ranges to the hub and to the mirrors, each of which subscribes for itself: a range is fed once for both.
type tee struct {
	hub, mirrors func(id shard.RangeID, item shard.FeedItem)
	open, close  func(id shard.RangeID) // begin and end the feed of a range

	turn sync.Mutex // one change of subscriptions at a time; taken before all others

	mu     sync.Mutex
	ranges map[shard.RangeID]*teed // those that somebody has subscribed to
}

// teed is one range. Its lock keeps items in order.
type teed struct {
	mu      sync.Mutex
	hub     bool
	mirrors bool
	opened  bool
	last    shard.FeedItem // that was published, without its events
}

// publish takes the next item of a range's feed. A border comes to both before anything of its child comes to either.
func (t *tee) publish(id shard.RangeID, item shard.FeedItem) {
	e := t.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = shard.FeedItem{Closed: item.Closed, Epoch: item.Epoch, Index: item.Index, Generation: item.Generation}
	if b := item.Border; b != nil {
		e.last = shard.FeedItem{Generation: b.Generation} // what was closed is of other keys than the feed has from here on
		if e.hub {
			t.expectHub(b.Child)
		}
	}
	if e.hub {
		t.hub(id, item)
	}
	if e.mirrors {
		t.mirrors(id, item)
	}
}

// joined is what who joins a feed that flows is told first: where it is, and that something has passed. A range that is closed already says nothing when it
// is asked to be.
func (e *teed) joined() shard.FeedItem {
	item := e.last
	item.Gap = true
	return item
}

func (t *tee) get(id shard.RangeID, create bool) *teed {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.ranges[id]
	if e == nil && create {
		e = &teed{}
		t.ranges[id] = e
	}
	return e
}

// subscribeHub is the hub's hook. Where the mirrors have the feed already, the hub's share of it begins with a gap: in whatever state the feed is.
func (t *tee) subscribeHub(id shard.RangeID) {
	t.turn.Lock()
	defer t.turn.Unlock()
	e := t.get(id, true)
	e.mu.Lock()
	e.hub = true
	if e.opened {
		t.hub(id, e.joined())
	}
	e.mu.Unlock()
	t.openFeed(id, e)
}

func (t *tee) unsubscribeHub(id shard.RangeID) { t.end(id, func(e *teed) { e.hub = false }) }

// subscribeMirrors gives the mirrors every item from now on. They find out themselves from where on they lack nothing.
func (t *tee) subscribeMirrors(id shard.RangeID) {
	t.turn.Lock()
	defer t.turn.Unlock()
	e := t.get(id, true)
	e.mu.Lock()
	if e.opened && !e.mirrors {
		t.mirrors(id, e.joined())
	}
	e.mirrors = true
	e.mu.Unlock()
	t.openFeed(id, e)
}

func (t *tee) unsubscribeMirrors(id shard.RangeID) { t.end(id, func(e *teed) { e.mirrors = false }) }

// expect gives the mirrors every item of a range from now on: while its parent's border is published they are to have all. whole is false where the feed had
// begun before.
func (t *tee) expect(id shard.RangeID) (whole bool) {
	e := t.get(id, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mirrors = true
	return !e.opened
}

// expectHub gives the hub every item of a child, behind the border of its parent: they may come before it has subscribed.
func (t *tee) expectHub(id shard.RangeID) {
	e := t.get(id, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hub = true
}

// openFeed begins a feed that has not begun. The caller holds turn.
func (t *tee) openFeed(id shard.RangeID, e *teed) {
	e.mu.Lock()
	opened := e.opened
	e.opened = true
	e.mu.Unlock()
	if !opened {
		t.open(id)
	}
}

// end ends one's share of a feed, and the feed with the last.
func (t *tee) end(id shard.RangeID, leave func(*teed)) {
	t.turn.Lock()
	defer t.turn.Unlock()
	e := t.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	leave(e)
	last, opened := !e.hub && !e.mirrors, e.opened
	if last {
		e.opened, e.last = false, shard.FeedItem{}
	}
	e.mu.Unlock()
	if !last {
		return
	}
	if opened {
		t.close(id)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.hub && !e.mirrors { // nor is it expected since
		delete(t.ranges, id)
	}
}
