package mirror

import (
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// standing tells whether there is a mirror of all of a span now, of which ranges, and at which revision clients have been told of it.
func (t *table) standing(span shard.Span) (ids []shard.RangeID, told int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	over, whole := t.mu.parts.over(span)
	for _, p := range over {
		whole = whole && p.state != nil
		ids, told = append(ids, p.id), max(told, p.told)
	}
	return ids, told, whole
}

// begin settles a list, or has it wait; late are the ranges that are not closed enough.
func (t *table) begin(w *wait) (late []shard.RangeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleLocked(w)
	if w.on == nil {
		return nil
	}
	return t.lateLocked(w)
}

func (t *table) late(w *wait) []shard.RangeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lateLocked(w)
}

func (t *table) lateLocked(w *wait) (late []shard.RangeID) {
	over, _ := t.mu.parts.over(w.req.Span)
	for _, p := range over {
		if p.closed < w.rev {
			late = append(late, p.id)
		}
	}
	return late
}

// leave ends a wait, unless it is over.
func (t *table) leave(w *wait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.on != nil {
		w.on.waiting = slices.DeleteFunc(w.on.waiting, func(o *wait) bool { return o == w })
		w.on = nil
	}
}

// settleLocked takes the views of a list whose parts are closed, has it wait for one that is not, or sends it to the ranges.
func (t *table) settleLocked(w *wait) {
	w.on = nil
	over, whole := t.mu.parts.over(w.req.Span)
	whole = whole && !slices.ContainsFunc(over, func(p *part) bool { return p.state == nil })
	for _, p := range over {
		if whole && p.closed < w.rev && !mutate.On(mutate.MirrorUnclosed) {
			w.on = p
			p.waiting = append(p.waiting, w)
			return
		}
	}
	if whole {
		t.viewLocked(w, over)
	}
	close(w.done)
}

// viewLocked chooses one revision for all parts.
func (t *table) viewLocked(w *wait, over []*part) {
	at := w.req.Revision
	for i, p := range over {
		if w.req.Revision == 0 && (i == 0 || p.closed < at) {
			at = p.closed
		}
	}
	views := make([]partView, len(over))
	for i, p := range over {
		rev := at
		if mutate.On(mutate.MirrorTorn) && w.req.Revision == 0 {
			rev = p.closed
		}
		v, ok := p.state.At(rev)
		if !ok {
			return
		}
		views[i] = partView{span: p.span.Intersect(w.req.Span), view: v}
		if p.auto {
			views[i].auto = p.id
		}
	}
	for _, p := range over {
		p.told = max(p.told, at)
	}
	w.at, w.views = at, views
}

// advancedLocked looks at the lists that wait for a part again: more of it is closed, or it has got smaller.
func (t *table) advancedLocked(p *part) {
	waiting := p.waiting
	p.waiting = nil
	for _, w := range waiting {
		t.settleLocked(w)
	}
}
