package watchfanout

import (
	"slices"

	"pontoon/shard"
)

// part is what a watcher watches in one range.
type part struct {
	id   shard.RangeID
	span shard.Span
}

// partsOf cuts a span at the borders of ranges, in key order.
func partsOf(m *shard.Map, s shard.Span) []part {
	var out []part
	for _, d := range m.Overlapping(s) {
		out = append(out, part{id: d.ID, span: s.Intersect(d.Span)})
	}
	return out
}

// covers reports whether the lane is of the ranges in which a span lies.
func (l *lane) covers(m *shard.Map, s shard.Span) bool {
	return slices.EqualFunc(l.ports, m.Overlapping(s), func(p *port, d shard.Descriptor) bool { return p.feed.id == d.ID })
}
