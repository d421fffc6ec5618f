package watchfanout

import (
	"math"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// unknown stands for "from a revision on that nobody knows yet".
const unknown int64 = math.MaxInt64

// merger puts the feeds of several ranges into one revision order. It holds events back
// until every range is closed at or above their revision. Pure.
//
// What it hands out is complete only above its horizon: events at or below may have
// passed before the merger existed, or were dropped because too much was held back.
type merger struct {
	feeds    []mergerFeed
	front    int64 // lowest closed revision of the feeds
	atFront  int   // how many feeds stand there
	released int64 // everything at or below it has been handed out
	dropped  int64 // events at or below it may have been dropped on this side
	horizon  int64 // what is handed out above it lacks nothing

	pending []*shard.Event // by revision and number; from head on
	head    int
	bytes   int // weight of what is pending
}

type mergerFeed struct {
	closed int64
	whole  int64 // the feed may lack events at or below it; unknown: no lower bound yet
}

// newMerger starts from what is known of each feed; whatever was published so far is at or
// below seen.
func newMerger(feeds []mergerFeed, seen int64) *merger {
	m := &merger{feeds: feeds, dropped: seen}
	m.refront()
	m.released = m.front
	m.rehorizon()
	return m
}

// fork returns a merger of other feeds that stands where m stands: what m has of these is as it was handed to m. What is
// pending of keys that it does not keep is left out.
func (m *merger) fork(feeds []mergerFeed, keeps func(key []byte) bool) *merger {
	f := &merger{feeds: feeds, released: m.released, dropped: m.dropped}
	for _, e := range m.pending[m.head:] {
		if keeps(e.KV.Key) {
			f.pending = append(f.pending, e)
			f.bytes += eventBytes(e)
		}
	}
	f.refront()
	f.rehorizon()
	return f
}

// refront finds the lowest closed revision again.
func (m *merger) refront() {
	m.front, m.atFront = math.MaxInt64, 0
	for i := range m.feeds {
		switch c := m.feeds[i].closed; {
		case c < m.front:
			m.front, m.atFront = c, 1
		case c == m.front:
			m.atFront++
		}
	}
	if mutate.On(mutate.MergerNoWait) {
		for i := range m.feeds {
			m.front, m.atFront = max(m.front, m.feeds[i].closed), 1
		}
	}
}

// advance says that feed i is closed at rev.
func (m *merger) advance(i int, rev int64) {
	old := m.feeds[i].closed
	if rev <= old {
		return
	}
	m.feeds[i].closed = rev
	if old == m.front {
		if m.atFront--; m.atFront == 0 {
			m.refront()
		}
	}
}

// add takes events of feed i, ascending. What is at or below the feed's closed revision has
// been here before.
func (m *merger) add(i int, evs []*shard.Event) {
	skip := max(m.feeds[i].closed, m.dropped)
	for len(evs) > 0 && evs[0].Rev() <= skip {
		evs = evs[1:]
	}
	if len(evs) == 0 {
		return
	}
	for _, e := range evs {
		m.bytes += eventBytes(e)
	}
	m.insert(evs)
}

// insert merges from the end, where new events nearly always belong.
func (m *merger) insert(evs []*shard.Event) {
	a := len(m.pending) - 1
	m.pending = append(m.pending, evs...)
	for b, w := len(evs)-1, len(m.pending)-1; b >= 0; w-- {
		if a >= m.head && evs[b].Compare(m.pending[a]) < 0 {
			m.pending[w] = m.pending[a]
			a--
		} else {
			m.pending[w] = evs[b]
			b--
		}
	}
}

// release returns about limit events that may be handed out now, never part of a revision,
// and moves released. The slice is valid until the next call on the merger.
func (m *merger) release(limit int) (evs []*shard.Event, more bool) {
	ps := m.pending[m.head:]
	n := 0
	for n < len(ps) && ps[n].Rev() <= m.front && (n < limit || ps[n].Rev() == ps[n-1].Rev()) {
		m.bytes -= eventBytes(ps[n])
		n++
	}
	evs = ps[:n:n]
	m.head += n
	if n < len(ps) && ps[n].Rev() <= m.front {
		m.released = evs[n-1].Rev()
		return evs, true
	}
	m.released = max(m.released, m.front)
	return evs, false
}

// shrink forgets what was released; the slice that release returned is invalid after it.
func (m *merger) shrink() {
	if m.head*2 < len(m.pending) {
		return // not worth moving the rest
	}
	m.pending = slices.Delete(m.pending, 0, m.head)
	m.head = 0
}

// held returns how much is pending and the revision that must be closed to release it all.
func (m *merger) held() (events, bytes int, last int64) {
	n := len(m.pending) - m.head
	if n == 0 {
		return 0, 0, 0
	}
	return n, m.bytes, m.pending[len(m.pending)-1].Rev()
}

// drop forgets everything that is pending.
func (m *merger) drop() {
	if n := len(m.pending); n > m.head {
		m.lose(m.pending[n-1].Rev())
	}
	clear(m.pending)
	m.pending, m.head, m.bytes = m.pending[:0], 0, 0
}

// lose says that events at or below rev may have been dropped before they came here.
func (m *merger) lose(rev int64) {
	m.dropped = max(m.dropped, rev)
	m.rehorizon()
}

// setWhole says that feed i lacks nothing above rev.
func (m *merger) setWhole(i int, rev int64) {
	m.feeds[i].whole = rev
	m.rehorizon()
}

func (m *merger) rehorizon() {
	m.horizon = m.dropped
	for i := range m.feeds {
		m.horizon = max(m.horizon, m.feeds[i].whole)
	}
}
