package watchfanout

import (
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
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
	id   shard.RangeID
	ring ring // of rings

	rings *ringTable

	mu struct {
		sync.Mutex
		closed   int64 // highest closed revision published
		seen     int64 // highest revision published
		again    int64 // up to here events may come again: they were published before the last gap
		whole    int64 // the feed lacks nothing above it; unknown until asked for
		attached bool  // an item has come
		feedKeys
		turn      uint64
		since     shard.Generation // the range's generation in the hub's map
		also      shard.Generation // an older one whose items hold for the range as it is now; 0: none
		parked    []shard.FeedItem // of a generation above the hub's map, or borders
		bytes     int              // of their events
		lost      bool             // some were dropped, for which the last one stands
		waited    bool             // a border of them could not be passed on at once
		impatient bool             // nothing that the map says of the range waits for the feed any more
		listeners []*dispatcher
	}

	usage // guarded by feedTable.mu
}

// usage is who listens to a feed.
type usage struct {
	users  int // lanes
	linger linger
}

// feedKeys are the keys that a feed brings, and those that are watched.
type feedKeys struct {
	cover  *coverage
	wanted wanted
}

// linger is of a feed to which nobody listens, and that goes on for a while.
type linger struct {
	on   bool
	time uint64 // tells one such while from another
}

func newFeed(id shard.RangeID, rings *ringTable) *feed {
	f := &feed{id: id, rings: rings, ring: ring{whole: unknown}}
	f.mu.whole = unknown
	return f
}

// feedState is what a new listener starts from.
type feedState struct {
	closed, seen, whole int64
	cover               *coverage
	turn                uint64
	generation          shard.Generation // in the hub's map
	early               bool             // the listener is still to hear of that map
}

// join makes d a listener, in whose map the range has that generation: every item after the returned state goes to its
// inbox. If the hub's map is newer already, what is closed does not speak for the keys that d takes the range to have.
func (f *feed) join(d *dispatcher, generation shard.Generation) feedState {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.listeners = append(f.mu.listeners, d)
	st := f.stateLocked()
	if st.early = f.mu.since != generation && !mutate.On(mutate.BorderEarly); st.early {
		st.closed, st.whole = 0, unknown
	}
	return st
}

func (f *feed) stateLocked() feedState {
	return feedState{closed: f.mu.closed, seen: f.mu.seen, whole: f.mu.whole, cover: f.mu.cover, turn: f.mu.turn, generation: f.mu.since}
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
	parked bool // something waits
	border bool // and it may be passed on at once
	short  bool // it does not bring all that is watched
	late   int  // events dropped
}

// publish passes an item on, or parks it.
func (f *feed) publish(item shard.FeedItem, m *atomic.Pointer[shard.Map]) forwarded {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The map is loaded under the lock: what is parked is looked at after it has changed.
	if len(f.mu.parked) > 0 || item.Border != nil || newerThan(item, f.id, m.Load()) {
		f.parkLocked(item)
		return forwarded{parked: true, border: item.Border != nil}
	}
	return f.forwardLocked(item)
}

// popLocked takes the first item that is parked.
func (f *feed) popLocked() shard.FeedItem {
	item := f.mu.parked[0]
	f.mu.parked[0] = shard.FeedItem{}
	f.mu.bytes -= weigh(item.Events)
	if f.mu.parked = f.mu.parked[1:]; len(f.mu.parked) == 0 {
		f.mu.parked, f.mu.lost, f.mu.waited = nil, false, false
	}
	return item
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
	closed := item.Closed
	if last.Generation == item.Generation {
		closed = max(closed, last.Closed) // what another generation has closed may speak for fewer keys
	}
	if item.Cover == nil && !item.Gap {
		item.Cover = last.Cover
	}
	*last = item
	last.Events, last.Closed, last.Gap = nil, closed, true
}

func (f *feed) forwardLocked(item shard.FeedItem) (p forwarded) {
	if item.Generation != 0 && item.Generation < f.mu.since && item.Generation != f.mu.also && !mutate.On(mutate.BorderOldMarks) {
		f.mu.attached = false // its events are missing in the feed
		return p
	}
	if item.Gap || !f.mu.attached {
		item.Gap, f.mu.attached, f.mu.whole = true, true, unknown
		f.mu.again = f.mu.closed
		f.mu.turn++
		f.rings.restart(&f.ring)
	}
	if now := f.mu.cover.next(&item); now != f.mu.cover {
		f.mu.cover = now
		f.rings.cover(&f.ring, now)
		p.short = f.shortLocked()
	}
	for len(item.Events) > 0 && item.Events[0].Rev() <= f.mu.closed {
		if item.Events[0].Rev() > f.mu.again {
			p.late++
		}
		item.Events = item.Events[1:]
	}
	if n := len(item.Events); n > 0 {
		f.mu.seen = max(f.mu.seen, item.Events[n-1].Rev())
	}
	item.Closed = max(item.Closed, f.mu.closed)
	f.mu.closed = item.Closed
	f.rings.add(&f.ring, item.Events, item.Closed)
	for _, d := range f.mu.listeners {
		d.in.offer(f, item, f.mu.turn, f.mu.cover)
	}
	p.anew = item.Gap
	return p
}

// detach says that items may have passed unheard: whatever comes next begins the feed anew.
func (f *feed) detach() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.attached, f.mu.whole = false, unknown
	f.mu.turn++
	f.rings.restart(&f.ring)
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
	f.rings.setWhole(&f.ring, rev)
	for _, d := range f.mu.listeners {
		d.in.post(message{kind: msgWhole, feed: f, turn: turn, rev: rev})
	}
}

// adopt takes in what a new map says of the range; was is what the old one said, nil if nothing.
// Items of a generation that the hub never had a map of are void, because nobody knows for
// which keys their Closed speaks. Those of the old map's hold on if the range was not smaller
// then. If it was, the feed starts over, for what was closed does not speak for the whole; and so it
// does if there was a generation between, in which it may have been smaller.
func (f *feed) adopt(was *shard.Descriptor, now shard.Descriptor) (anew bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.since == now.Generation {
		return false
	}
	f.mu.since, f.mu.also, f.mu.impatient = now.Generation, 0, false
	if was == nil {
		return false
	}
	jumped := now.Generation != was.Generation+1 && !mutate.On(mutate.MapJumps)
	if (was.Span.ContainsSpan(now.Span) || mutate.On(mutate.MergeKeepsClosed)) && !jumped {
		f.mu.also = was.Generation
		return false
	}
	f.mu.closed, f.mu.attached, f.mu.whole = 0, false, unknown
	f.mu.turn++
	f.rings.restart(&f.ring)
	return true
}

// awaits tells whether the feed is to tell of what has become of o, its range, which is now in a newer map. It does if it
// is whole so far, and what is parked is not something else.
func (f *feed) awaits(o, now shard.Descriptor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.mu.attached || f.mu.impatient {
		return false
	}
	return len(f.mu.parked) == 0 || f.mu.parked[0].Generation <= f.mu.since || isStep(&f.mu.parked[0], o, now)
}

// isStep reports whether an item begins the next generation of a range with the same keys: each change of them has an item
// of its own, which has a border if the range was cut, and a gap if it was merged. The newest map, in which the range
// is now, must know of it and not say otherwise.
func isStep(item *shard.FeedItem, o, now shard.Descriptor) bool {
	return item.Generation == o.Generation+1 && !item.Gap &&
		(now.Generation > item.Generation || now.Generation == item.Generation && now.Span.Equal(o.Span))
}

func newerThan(item shard.FeedItem, id shard.RangeID, m *shard.Map) bool {
	if item.Generation == 0 || m == nil {
		return false
	}
	d, ok := m.Get(id)
	return !ok || item.Generation > d.Generation
}
