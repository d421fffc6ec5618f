package watchfanout

import "pontoon/shard"

// part is what a watcher watches in one range.
type part struct {
	id   shard.RangeID
	span shard.Span
}

// partsOf cuts a span at the borders of ranges, in key order.
func partsOf(m *shard.Map, s shard.Span) []part {
	var out []part
	for d := range m.Overlapping(s) {
		out = append(out, part{id: d.ID, span: s.Intersect(d.Span)})
	}
	return out
}
