package router

import (
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// Limits of what ranges have said of themselves and the view of the cluster has not heard yet. Beyond them the older half
// goes, which costs a refusal more.
const (
	hintsMax      = 256
	hintBytesMax  = 1 << 20
	hintRangesMax = 16 // that are told together
)

// rangeMaps is the newest that a router knows of where ranges are: the view's map, and what ranges have said of
// themselves since, as answers and refusals tell it. That is kept apart from the view's map, because the view
// learns what is otherwise than in its own map, and is dropped as soon as the view knows it too.
type rangeMaps struct {
	view    func() *shard.Map
	changed func(old, now *shard.Map) // called under mu, when now is known already; nil: nobody wants to know

	cur atomic.Pointer[mapped]
	mu  sync.Mutex // held by who replaces cur
}

// mapped is a map of the view, and the same with the hints.
type mapped struct {
	view, now *shard.Map
	hints     []hint // oldest first
	bytes     int    // of the hints
}

// hint is what was told together: a range that was cut, say, and its other part. One alone would leave a hole.
type hint []shard.Descriptor

func (h hint) bytes() (n int) {
	for i := range h {
		n += len(h[i].Span.Start) + len(h[i].Span.End) + 24*len(h[i].Replicas) + 96
	}
	return n
}

// newest is the newest map; nil before the first one arrived.
func (r *rangeMaps) newest() *shard.Map {
	view := r.view()
	if c := r.cur.Load(); view == nil || c != nil && c.view == view {
		if c == nil {
			return view
		}
		return c.now
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.caughtUpLocked().now
}

// caughtUpLocked follows the view, which must have a map.
func (r *rangeMaps) caughtUpLocked() *mapped {
	view, c := r.view(), r.cur.Load()
	switch {
	case c == nil:
		r.setLocked(mappedOf(view, nil))
	case c.view != view:
		r.setLocked(mappedOf(view, c.hints))
	}
	return r.cur.Load()
}

// setLocked makes next current.
func (r *rangeMaps) setLocked(next *mapped) {
	old := r.cur.Load()
	r.cur.Store(next)
	if old != nil && old.now != next.now && r.changed != nil {
		r.changed(old.now, next.now)
	}
}

// learn takes what a range has said of itself and of others. What does not fit into the map, as something between is
// not known, is left to the view.
func (r *rangeMaps) learn(told []shard.Descriptor) {
	if len(told) == 0 || len(told) > hintRangesMax || r.view() == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.caughtUpLocked()
	switch next := c.with(told); {
	case next == c:
	case len(next.hints) > hintsMax || next.bytes > hintBytesMax:
		r.setLocked(mappedOf(c.view, next.hints[(len(next.hints)+1)/2:]))
	default:
		r.setLocked(next)
	}
}

// mappedOf adds hints to a map of the view, as far as they are news to it.
func mappedOf(view *shard.Map, hints []hint) *mapped {
	m := &mapped{view: view, now: view}
	for _, h := range hints {
		m = m.with(h)
	}
	return m
}

// with adds a hint. It is m itself if that is no news, or does not fit.
func (m *mapped) with(h hint) *mapped {
	next, err := m.now.Apply(h...)
	if err != nil || next == m.now {
		return m
	}
	return &mapped{view: m.view, now: next, hints: append(slices.Clip(m.hints), h), bytes: m.bytes + h.bytes()}
}
