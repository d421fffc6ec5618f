package watchfanout

import (
	"bytes"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// coverageMax bounds the parts of a coverage. What is forgotten of older ones makes watches that come back read history.
const coverageMax = 4 * shard.CoverSpansMax

// coverage is which keys of its range a feed brings, and from where on: beside what holds for the feed as a whole. nil: every key. It is pure, and never changed.
type coverage struct {
	spans []shard.Span // that are brought: sorted, disjoint, and they do not touch
	parts []coveredPart
}

// coveredPart are keys of which a feed lacks nothing above from.
type coveredPart struct {
	span shard.Span
	from int64
}

// next is the coverage of a feed behind an item that says that it brings the keys of a cover.
func (c *coverage) next(item *shard.FeedItem) *coverage {
	now := item.Cover
	switch {
	case item.Gap && now.Whole():
		return nil
	case item.Gap:
		next := &coverage{spans: now.Spans}
		for _, s := range now.Spans {
			next.parts = append(next.parts, coveredPart{span: s})
		}
		return next
	case now == nil || now.Same(c.cover()):
		return c
	}
	old := []coveredPart{{span: shard.All}}
	if c != nil {
		old = c.parts
	}
	next := &coverage{spans: now.Spans}
	for _, s := range now.Spans {
		whole := false
		for _, p := range old {
			if both := p.span.Intersect(s); !both.Empty() {
				next.parts = append(next.parts, coveredPart{both, p.from})
				whole = whole || both.Equal(s)
			}
		}
		if !whole {
			next.parts = append([]coveredPart{{s, now.From}}, next.parts...)
		}
	}
	next.parts = next.parts[:min(len(next.parts), coverageMax)]
	return next
}

// cover is what is brought; nil: every key.
func (c *coverage) cover() *shard.Cover {
	if c == nil {
		return nil
	}
	return &shard.Cover{Spans: c.spans}
}

// from is the revision above which the feed lacks nothing of a span, as far as it lacks nothing at all; unknown: it does not bring all of it.
func (c *coverage) from(s shard.Span) int64 {
	if c == nil {
		return 0
	}
	from := unknown
	for i := range c.parts {
		if p := &c.parts[i]; p.span.ContainsSpan(s) {
			from = min(from, p.from)
		}
	}
	return from
}

// loses reports whether keys are brought no more that were.
func (c *coverage) loses(next *coverage) bool {
	return !next.cover().Covers(c.cover())
}

// wanted are the spans in which somebody watches keys, as long as they are few. It only grows.
type wanted struct {
	spans []shard.Span // sorted, disjoint, and they do not touch
	many  bool         // they are every key, or more than are told apart
}

// has reports whether somebody watches all of a span already, as far as is told.
func (w *wanted) has(s shard.Span) bool { return w.many || shard.SpansCover(w.spans, s) }

// add takes one in.
func (w *wanted) add(s shard.Span) {
	if w.has(s) {
		return
	}
	s = shard.Span{Start: bytes.Clone(s.Start), End: bytes.Clone(s.End)}
	if w.spans = shard.JoinSpans(w.spans, s); shard.CheckSpans(w.spans) != nil || w.spans[0].Equal(shard.All) {
		w.spans, w.many = nil, true
	}
}

// cover is what a feed has to bring; nil: every key.
func (w *wanted) cover() *shard.Cover {
	if w.many {
		return nil
	}
	return &shard.Cover{Spans: w.spans}
}

// want notes that somebody watches a span, and reports whether the feed does not bring all of it.
func (f *feed) want(s shard.Span) (short bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.wanted.add(s)
	return f.shortLocked()
}

// unwant forgets who watched what: the feed ends.
func (f *feed) unwant() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.wanted = wanted{}
}

// shortLocked reports whether keys are watched that the feed does not bring. Before it has begun that is not known.
func (f *feed) shortLocked() bool {
	return f.mu.attached && f.mu.cover != nil && !f.mu.cover.cover().Covers(f.mu.wanted.cover())
}

func (f *feed) isShort() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shortLocked()
}

// Wanted are the spans of the keys that are watched of a range's feed, as a shard.Cover has them; nil: they may be any. What nobody watches any more is among them until the feed
// ends.
func (h *Hub) Wanted(id shard.RangeID) []shard.Span {
	f := h.feeds.find(id)
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.wanted.spans
}

// widen says that a feed does not bring what is watched.
func (h *Hub) widen(f *feed) {
	if h.cfg.Widen != nil {
		h.clerk.add(always(func() { h.cfg.Widen(f.id) }))
	}
}

// want has the feeds of a lane bring a span.
func (l *lane) want(s shard.Span) {
	if l.wanted.has(s) || s.Empty() {
		return
	}
	l.wanted.add(s)
	for _, p := range l.ports {
		if p.feed.want(s) {
			l.d.h.widen(p.feed)
		}
	}
}

// covered is the revision above which the feeds of a lane lack nothing of a span, beside what they lack of all; unknown: they do not bring all of it.
func (l *lane) covered(s shard.Span) (from int64) {
	if mutate.On(mutate.CoverIgnored) {
		return 0
	}
	for _, p := range l.ports {
		if p.state.cover != nil {
			from = max(from, p.state.cover.from(s))
		}
	}
	return from
}

// recover takes over which keys the feed of a port brings from here on. Watches that have lost some go on by history, as all do at a gap, and those that have waited for some
// decide again.
func (t *laneTable) recover(p *port, m *message) {
	was, now := p.state.cover, m.cover
	if was == now {
		return
	}
	p.state.cover = now
	lanes := make(map[*lane]bool, len(p.lanes))
	for _, s := range p.lanes {
		lanes[s.l] = true
		t.schedule(s.l)
	}
	if m.gap || !was.loses(now) || mutate.On(mutate.CoverShrinks) {
		return
	}
	for w := range t.d.roster.all {
		if l := w.lane.Load(); w.mode == modeLive && lanes[l] && now.from(w.span()) == unknown {
			l.demote(w)
		}
	}
}
