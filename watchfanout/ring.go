package watchfanout

import (
	"sort"

	"pontoon/internal/fifo"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// ring remembers what the feed of one range has brought lately, so that watches which come back need no read of history. It knows from where on it lacks
// nothing: it begins anew where the feed does. Pure.
type ring struct {
	items   fifo.Queue[ringItem]
	bytes   int
	closed  int64 // everything of the range at or below it is here, as far as it lies above floor
	whole   int64 // the feed lacks nothing above it; unknown: nobody knows yet from where on
	dropped int64 // what is at or below it may have been forgotten
	cover   *coverage
	at      int // in a ringTable
}

// ringItem is the events of an item of the feed, which are shared.
type ringItem struct {
	evs   []*shard.Event
	bytes int
	seq   uint64 // in which order it was remembered, among all rings
	era   uint64
}

func (i *ringItem) last() int64 { return i.evs[len(i.evs)-1].Rev() }

// floor is the revision above which nothing is missing.
func (r *ring) floor() int64 { return max(r.whole, r.dropped) }

// restart forgets everything: events may be missing from now on, up to a revision that nobody knows yet.
func (r *ring) restart() {
	if mutate.On(mutate.RingOverHole) {
		return
	}
	*r = ring{whole: unknown, at: r.at, cover: r.cover}
}

// setWhole says that the feed lacks nothing above rev.
func (r *ring) setWhole(rev int64) {
	if mutate.On(mutate.RingOverHole) {
		rev = min(rev, r.whole)
	}
	r.whole = rev
}

// add remembers an item, and that everything at or below closed is there.
func (r *ring) add(item ringItem, closed int64) {
	r.closed = closed
	if len(item.evs) > 0 {
		r.items.Push(item)
		r.bytes += item.bytes
	}
}

// forget drops the oldest item.
func (r *ring) forget() {
	item, _ := r.items.Pop()
	r.bytes -= item.bytes
	if !mutate.On(mutate.RingForgets) {
		r.dropped = max(r.dropped, item.last())
	}
}

// covers reports whether nothing of some spans is missing from a revision to another.
func (r *ring) covers(spans []shard.Span, from, to int64) bool {
	if from <= r.floor() || to > r.closed {
		return false
	}
	for _, s := range spans {
		if from <= r.cover.from(s) && !mutate.On(mutate.CoverRing) {
			return false
		}
	}
	return true
}

// between returns the items that may have events from a revision to another. They are the caller's, but not their events.
func (r *ring) between(from, to int64) []ringItem {
	items := r.items.Items()
	i := sort.Search(len(items), func(i int) bool { return items[i].last() >= from })
	j := i + sort.Search(len(items)-i, func(j int) bool { return items[i+j].evs[0].Rev() > to })
	return append([]ringItem(nil), items[i:j]...)
}

// ringPick is a read of history out of items: about maxBytes of the changes of some spans, from a revision to another. Everything below next is in
// the answer.
func ringPick(items []ringItem, spans []shard.Span, from, to int64, maxBytes int) (evs []*shard.Event, next int64) {
	bytes := 0
	for _, item := range items {
		for _, e := range item.evs {
			rev := e.Rev()
			switch {
			case rev < from || !coveredBy(spans, e.KV.Key):
				continue
			case rev > to:
				return evs, to + 1
			case bytes >= maxBytes && rev != evs[len(evs)-1].Rev():
				return evs, rev
			}
			evs = append(evs, e)
			bytes += eventBytes(e)
		}
	}
	return evs, to + 1
}

func coveredBy(spans []shard.Span, key []byte) bool {
	for i := range spans {
		if spans[i].Contains(key) {
			return true
		}
	}
	return false
}
