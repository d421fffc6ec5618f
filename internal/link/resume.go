package link

import (
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Resume lets a feed of which everything came by go on, without a gap, that begins anew with an item that has one: its source has broken, or has lost something. It is a
// Move, in which history takes the place of that source: what is Missing is to be read there, published, and handed to Old. Where the range's log
// stands no further at the new source than it stood in what came, nothing is missing, and the Move is Done at once, unless the new source brings other keys as well. Where the range is in a later generation there, Keys have to be compared first. nil: what is missing cannot be
// told, because the new source is behind a change of the range, or nothing was final yet.
func (h *Head) Resume(begin shard.FeedItem) *Move {
	if !h.known || h.closed == 0 || begin.Border != nil || h.generation == 0 || begin.Generation < h.generation || begin.Generation > h.generation && h.keysOf == 0 {
		return nil
	}
	m := &Move{generation: begin.Generation, closed: h.closed, seen: h.seen, broken: true, keys: h.keys, was: h.cover, cover: begin.Cover}
	m.unsure = begin.Generation != h.generation && !mutate.On(mutate.ResumeOver)
	if begin.Index > 0 && begin.Index <= h.index && !m.unsure && !m.adds() || mutate.On(mutate.ResumeBlind) {
		m.Whole(max(h.closed, h.seen))
	}
	m.New(begin)
	return m
}

// Generation is that of the range, of which the attempt is.
func (m *Move) Generation() shard.Generation { return m.generation }

// Keys takes a descriptor of the range in that generation. false: it has other keys than it had, and what has come says nothing of them: the attempt is to be abandoned.
func (m *Move) Keys(d *shard.Descriptor) bool {
	if m.unsure {
		m.unsure = !d.Span.Equal(m.keys)
	}
	return !m.unsure
}

// Spans are those of the keys that the old source brought, of which history is to be read, within those of the range; they may be none.
func (m *Move) Spans(of shard.Span) (spans []shard.Span) {
	if m.was.Whole() {
		return []shard.Span{of}
	}
	for _, s := range m.was.Spans {
		if s = s.Intersect(of); !s.Empty() {
			spans = append(spans, s)
		}
	}
	return spans
}

// Missing are the revisions whose events are to be read in history. from > to: none, or it is not known yet up to where.
func (m *Move) Missing() (from, to int64) { return max(m.closed, m.seen) + 1, m.whole }

// Read is an item of what history has from a revision on that Missing named, up to the one before next. Nothing below next is missing then.
func (m *Move) Read(evs []*shard.Event, next int64) shard.FeedItem {
	return shard.FeedItem{Events: evs, Closed: max(m.closed, next-1), Epoch: m.last.Epoch, Generation: m.generation, Cover: m.was}
}

// Abandon gives up: it is the item with which the feed begins anew, with a gap. What comes behind it is as it comes.
func (m *Move) Abandon() shard.FeedItem {
	begin := m.last
	begin.Gap, begin.Closed, begin.Cover = true, m.marked, m.cover
	m.Fail()
	m.settled = true
	return begin
}

// Kept is how many bytes it keeps.
func (m *Move) Kept() int { return m.bytes }
