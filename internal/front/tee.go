package front

import (
	"sync"

	"pontoon/internal/link"
	"pontoon/shard"
)

// share is who has a part in the feeds of ranges: several are a sum.
type share uint8

// The shares of a tee.
const (
	ofHub     share = 1 << iota
	ofMirrors       // lists from memory
	ofLinks         // gateways that have feeds from here
	shares    = iota
)

// tee hands the feeds of ranges to those who have a share in them, each of which subscribes for itself: a range is fed once for all.
type tee struct {
	to          [shares]func(id shard.RangeID, item shard.FeedItem) // in the order of the shares; nil where nobody subscribes
	open, close func(id shard.RangeID)                              // begin and end the feed of a range
	widen       func(id shard.RangeID)                              // has it bring every key, if it does not

	turn sync.Mutex // one change of subscriptions at a time; taken before all others

	mu     sync.Mutex
	ranges map[shard.RangeID]*teed // those that somebody has subscribed to
}

// teed is one range. Its lock keeps items in order.
type teed struct {
	mu     sync.Mutex
	shares share
	opened bool
	last   shard.FeedItem // that was published, without its events
	whole  link.Whole     // as it is for all but the hub
}

// publish takes the next item of a range's feed. A border comes to all before anything of its child comes to any.
func (t *tee) publish(id shard.RangeID, item shard.FeedItem) {
	e := t.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	cover := item.Cover
	if cover == nil && !item.Gap {
		cover = e.last.Cover
	}
	e.last = shard.FeedItem{Closed: item.Closed, Epoch: item.Epoch, Index: item.Index, Generation: item.Generation, Cover: cover}
	if b := item.Border; b != nil {
		e.last = shard.FeedItem{Generation: b.Generation, Cover: cover} // what was closed is of other keys than the feed has from here on
		if e.shares&ofHub != 0 {
			t.expect(b.Child, ofHub) // its items may come before it has subscribed
		}
	}
	all, says := e.whole.Take(item)
	for i, to := range t.to {
		switch {
		case e.shares&(1<<i) == 0:
		case ofHub == 1<<i:
			to(id, item)
		case says:
			to(id, all)
		}
	}
}

// onlyHub reports whether nobody else has a share in a range's feed, so that it need not bring every key.
func (t *tee) onlyHub(id shard.RangeID) bool {
	e := t.get(id, false)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shares == ofHub
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

// subscribe gives one every item from now on. Where another one has the feed already, its own share begins with a gap: for the hub always, in whatever state
// the feed is, for others unless they have expected it. Mirrors find out themselves from where on they lack nothing.
func (t *tee) subscribe(id shard.RangeID, who share) {
	t.turn.Lock()
	defer t.turn.Unlock()
	e := t.get(id, true)
	e.mu.Lock()
	flows := e.opened
	if flows && (who == ofHub || e.shares&who == 0 && !e.whole.Narrow()) {
		for i, to := range t.to {
			if who == 1<<i {
				to(id, e.joined())
			}
		}
	}
	e.shares |= who
	e.mu.Unlock()
	t.openFeed(id, e)
	if flows && who != ofHub && t.widen != nil {
		t.widen(id)
	}
}

// subscriber is subscribe for one, and its opposite.
func (t *tee) subscriber(who share) (begin, end func(id shard.RangeID)) {
	return func(id shard.RangeID) { t.subscribe(id, who) }, func(id shard.RangeID) { t.unsubscribe(id, who) }
}

// expect gives one every item of a range from now on: while its parent's border is published it is to have all. whole is false where the feed had
// begun before.
func (t *tee) expect(id shard.RangeID, who share) (whole bool) {
	e := t.get(id, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shares |= who
	return !e.opened
}

// inherit is expect for one that is to have nothing where that is not all: a feed that had begun before, it is to subscribe to.
func (t *tee) inherit(id shard.RangeID, who share) (whole bool) {
	e := t.get(id, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.opened {
		e.shares |= who
	}
	return !e.opened
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

// unsubscribe ends one's share of a feed, and the feed with the last.
func (t *tee) unsubscribe(id shard.RangeID, who share) {
	t.turn.Lock()
	defer t.turn.Unlock()
	e := t.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	e.shares &^= who
	last, opened := e.shares == 0, e.opened
	if last {
		e.opened, e.last, e.whole = false, shard.FeedItem{}, link.Whole{}
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
	if e.shares == 0 { // nor is it expected since
		delete(t.ranges, id)
	}
}
