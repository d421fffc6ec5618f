package link

import (
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// moveBytesMax bounds what a Move keeps of the new source until the old one has come as far.
const moveBytesMax = 4 << 20

// Move takes a feed from one source to another while both bring it: nothing is lost, nothing comes twice, and there is no gap. The new one lacks nothing above a
// revision that the oracle has named after it was attached; once the old one has closed that revision, what the new one has brought above goes on where the old one
// stops. A range that changes, or a source that loses something, ends the attempt: the feed stays where it is. It is not safe for concurrent use.
type Move struct {
	generation shard.Generation
	closed     int64 // by the old source
	seen       int64 // the newest event that it has brought since
	attached   bool  // to the new source
	whole      int64 // it lacks nothing above; 0: not known yet
	kept       []shard.FeedItem
	bytes      int
	failed     bool
	broken     bool // the old source brings nothing more: see Head.Resume
	unsure     bool // the range may have other keys than it had, which were these
	keys       shard.Span
	last       shard.FeedItem // of the new source, without events
	has        int64          // what the old source has brought, when the new one took over
	reached    int64          // the newest event that the new one has brought, or what it has closed
	marked     int64          // what it has closed
	settled    bool           // it has come as far
	was, cover *shard.Cover   // which keys the old source has brought, and the new one brings; nil: all
	turned     *shard.Cover   // which keys the feed has brought since Done, where others than before; nil: the same
}

// NewMove begins one, for a feed as it has come from the old source, which brings the keys of a cover.
func NewMove(generation shard.Generation, closed int64, was *shard.Cover) *Move {
	return &Move{generation: generation, closed: closed, was: was}
}

// Failed reports that the feed stays where it is.
func (m *Move) Failed() bool { return m.failed }

// Fail ends it.
func (m *Move) Fail() { m.failed, m.kept, m.bytes = true, nil, 0 }

// Attached reports whether the new source has begun to bring the feed.
func (m *Move) Attached() bool { return m.attached && !m.failed }

// Whole says that every revision above rev is one that the new source brings: the oracle named it after Attached.
func (m *Move) Whole(rev int64) { m.whole = max(rev, 1) }

// Old takes an item that the old source has brought, and that was published.
func (m *Move) Old(item *shard.FeedItem) {
	if (item.Gap || item.Border != nil || item.Generation != m.generation) && !mutate.On(mutate.MoveOver) {
		m.Fail()
		return
	}
	if n := len(item.Events); n > 0 {
		m.seen = max(m.seen, item.Events[n-1].Rev())
	}
	m.closed = max(m.closed, item.Closed)
}

// New takes an item that the new source has brought, and keeps it.
func (m *Move) New(item shard.FeedItem) {
	switch {
	case m.failed:
		return
	case item.Border != nil || item.Generation != m.generation || item.Gap && m.attached:
		m.Fail()
		return
	}
	if !m.attached {
		m.cover = item.Cover
	}
	m.attached = true
	item.Gap = false // the old source has brought what was before
	m.last = shard.FeedItem{Epoch: item.Epoch, Index: item.Index, Generation: item.Generation}
	m.reach(&item)
	m.bytes += itemBytes
	for _, e := range item.Events {
		m.bytes += eventBytes + e.DataBytes()
	}
	if m.kept = append(m.kept, item); m.bytes > moveBytesMax {
		m.Fail()
	}
}

func (m *Move) reach(item *shard.FeedItem) {
	if n := len(item.Events); n > 0 {
		m.reached = max(m.reached, item.Events[n-1].Rev())
	}
	m.marked = max(m.marked, item.Closed)
	m.reached = max(m.reached, m.marked)
}

// Done reports whether the new source goes on from here, with what it has brought that the old one has not. What it brings later goes by After.
func (m *Move) Done() (items []shard.FeedItem, done bool) {
	if m.failed || !m.attached || m.whole == 0 || m.lacks() && !mutate.On(mutate.MoveEarly) {
		return nil, false
	}
	m.has = max(m.seen, m.closed)
	for i := range m.kept {
		if item, says := m.trim(m.kept[i]); says {
			items = append(items, item)
		}
	}
	m.kept, m.bytes, m.settled = nil, 0, m.level()
	return m.cut(items), true
}

// cut has what the new source brings say which keys these are, if they are others than have come: those that are new count from where it has taken over, which lies above what it may
// lack.
func (m *Move) cut(items []shard.FeedItem) []shard.FeedItem {
	if m.was.Same(m.cover) {
		return items
	}
	m.turned = &shard.Cover{Spans: []shard.Span{shard.All}, From: m.has}
	if !m.cover.Whole() {
		m.turned.Spans = m.cover.Spans
	}
	if mutate.On(mutate.NarrowEarly) {
		m.turned.From = 0
	}
	if len(items) == 0 {
		items = []shard.FeedItem{m.last}
		items[0].Closed = m.closed
	}
	for i := range items {
		items[i].Cover = m.turned
	}
	return items
}

// adds reports whether the new source brings keys that the old one has not.
func (m *Move) adds() bool { return !m.was.Covers(m.cover) && !mutate.On(mutate.NarrowBlind) }

// lacks reports whether the old source may still bring something that the new one does not. Of a source that has broken, all has come up to the newest event.
func (m *Move) lacks() bool {
	return m.unsure || m.closed < m.whole && !(m.broken && m.seen >= m.whole)
}

// level reports whether the new source has come as far as the old one, with events and with marks.
func (m *Move) level() bool { return m.reached >= m.has && m.marked >= m.closed }

// trim takes out of an item what the old source has brought; false: nothing is left.
func (m *Move) trim(item shard.FeedItem) (shard.FeedItem, bool) {
	for len(item.Events) > 0 && item.Events[0].Rev() <= m.has && !mutate.On(mutate.MoveTwice) {
		item.Events = item.Events[1:]
	}
	item.Closed = max(item.Closed, m.closed)
	return item, len(item.Events) > 0 || item.Border != nil || item.Closed > m.closed
}

// After is an item that the new source has brought since Done, as it goes on; false: it does not, because the old one has brought all of it.
func (m *Move) After(item shard.FeedItem) (shard.FeedItem, bool) {
	if m.settled || item.Gap || item.Generation != m.generation {
		m.settled = true
		return item, true
	}
	m.reach(&item)
	if m.turned != nil {
		item.Cover = m.turned
	}
	item, says := m.trim(item)
	m.settled = m.level()
	return item, says
}

// Settled reports whether the new source has come as far as the old one had, and its items need not come by any more.
func (m *Move) Settled() bool { return m.settled }
