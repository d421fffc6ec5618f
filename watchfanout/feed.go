package watchfanout

import (
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// parkedItemsMax and parkedBytesMax bound the items of one feed that wait for a newer range map; beyond
// either they are dropped and the feed has a gap. One of any size may wait.
const (
	parkedItemsMax = 1024
	parkedBytesMax = 32 << 20
)

// feed is the upstream of one range: what the hub knows of it, and which dispatchers listen.
// It passes items on in the order of Publish.
type feed struct {
	id shard.RangeID

	mu struct {
		sync.Mutex
		closed    int64 // highest closed revision published
		seen      int64 // highest revision published
		again     int64 // up to here events may come again: they were published before the last gap
		whole     int64 // the feed lacks nothing above it; unknown until asked for
		attached  bool  // an item has come
		turn      uint64
		since     shard.Generation // the range's generation in the hub's map
		also      shard.Generation // an older one whose items hold for the range as it is now; 0: none
		parked    []shard.FeedItem // of a generation above the hub's map
		bytes     int              // of their events
		lost      bool             // some were dropped, for which the last one stands
		listeners []*dispatcher
	}

	users int // lanes that listen; guarded by feedTable.mu
}

func newFeed(id shard.RangeID) *feed {
	f := &feed{id: id}
	f.mu.whole = unknown
	return f
}

// feedState is what a new listener starts from.
type feedState struct {
	closed, seen, whole int64
	turn                uint64
}

// join makes d a listener: every item after the returned state goes to its inbox.
func (f *feed) join(d *dispatcher) feedState {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.listeners = append(f.mu.listeners, d)
	return feedState{closed: f.mu.closed, seen: f.mu.seen, whole: f.mu.whole, turn: f.mu.turn}
}

// leave ends what join began.
func (f *feed) leave(d *dispatcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.mu.listeners, d); i >= 0 {
		f.mu.listeners = slices.Delete(f.mu.listeners, i, i+1)
	}
}

// forwarded is what came of items.
type forwarded struct {
	anew   bool // the feed has begun or had a gap: somebody has to find out from where on it is whole
	parked bool // something waits for a newer map
	late   int  // events dropped
}

// publish passes an item on, or parks it.
func (f *feed) publish(item shard.FeedItem, m *atomic.Pointer[shard.Map]) forwarded {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The map is loaded under the lock: unpark comes after it has changed.
	if len(f.mu.parked) > 0 || newerThan(item, f.id, m.Load()) {
		f.parkLocked(item)
		return forwarded{parked: true}
	}
	anew, late := f.forwardLocked(item)
	return forwarded{anew: anew, late: late}
}

// unpark passes on what the map now covers.
func (f *feed) unpark(m *shard.Map) (p forwarded) {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := f.mu.parked
	f.mu.parked, f.mu.bytes = nil, 0
	for i, item := range items {
		if newerThan(item, f.id, m) {
			f.mu.parked = items[i:]
			for _, left := range f.mu.parked {
				f.mu.bytes += weigh(left.Events)
			}
			p.parked = true
			break
		}
		anew, late := f.forwardLocked(item)
		p.anew, p.late = p.anew || anew, p.late+late
	}
	f.mu.lost = f.mu.lost && p.parked
	return p
}

func (f *feed) parkLocked(item shard.FeedItem) {
	weight := weigh(item.Events)
	n := len(f.mu.parked)
	if n == 0 || !f.mu.lost && n < parkedItemsMax && f.mu.bytes+weight <= parkedBytesMax {
		f.mu.parked = append(f.mu.parked, item)
		f.mu.bytes += weight
		return
	}
	last := &f.mu.parked[n-1]
	f.mu.lost = true
	f.mu.bytes -= weigh(last.Events)
	closed := max(last.Closed, item.Closed)
	*last = item
	last.Events, last.Closed, last.Gap = nil, closed, true
}

func (f *feed) forwardLocked(item shard.FeedItem) (anew bool, late int) {
	if item.Generation != 0 && item.Generation < f.mu.since && item.Generation != f.mu.also {
		f.mu.attached = false // its events are missing in the feed
		return false, 0
	}
	if item.Gap || !f.mu.attached {
		item.Gap, f.mu.attached, f.mu.whole = true, true, unknown
		f.mu.again = f.mu.closed
		f.mu.turn++
	}
	for len(item.Events) > 0 && item.Events[0].Rev() <= f.mu.closed {
		if item.Events[0].Rev() > f.mu.again {
			late++
		}
		item.Events = item.Events[1:]
	}
	if n := len(item.Events); n > 0 {
		f.mu.seen = max(f.mu.seen, item.Events[n-1].Rev())
	}
	item.Closed = max(item.Closed, f.mu.closed)
	f.mu.closed = item.Closed
	for _, d := range f.mu.listeners {
		d.in.offer(f, item, f.mu.turn)
	}
	return item.Gap, late
}

// detach says that items may have passed unheard: whatever comes next begins the feed anew.
func (f *feed) detach() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.attached, f.mu.whole = false, unknown
	f.mu.turn++
}

// turn numbers the beginnings of the feed.
func (f *feed) turn() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.turn
}

// setWhole says that the feed, as begun at that turn, lacks nothing above rev.
func (f *feed) setWhole(turn uint64, rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.turn != turn || f.mu.whole != unknown {
		return
	}
	f.mu.whole = rev
	for _, d := range f.mu.listeners {
		d.in.post(message{kind: msgWhole, feed: f, turn: turn, rev: rev})
	}
}

// adopt takes in what a new map says of the range; was is what the old one said, nil if nothing.
// Items of a generation that the hub never had a map of are void, because nobody knows for
// which keys their Closed speaks. Those of the old map's hold on if the range was not smaller
// then. If it was, the feed starts over, for what was closed does not speak for the whole.
func (f *feed) adopt(was *shard.Descriptor, now shard.Descriptor) (grown bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.since == now.Generation {
		return false
	}
	f.mu.since, f.mu.also = now.Generation, 0
	if was == nil {
		return false
	}
	if was.Span.ContainsSpan(now.Span) {
		f.mu.also = was.Generation
		return false
	}
	f.mu.closed, f.mu.attached, f.mu.whole = 0, false, unknown
	f.mu.turn++
	return true
}

func newerThan(item shard.FeedItem, id shard.RangeID, m *shard.Map) bool {
	if item.Generation == 0 || m == nil {
		return false
	}
	d, ok := m.Get(id)
	return !ok || item.Generation > d.Generation
}
