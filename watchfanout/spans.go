package watchfanout

import (
	"bytes"
	"encoding/binary"
	"slices"

	"pontoon/shard"
)

// part is what a watcher watches in one range.
type part struct {
	id    shard.RangeID
	spans []shard.Span
}

// normalize sorts the spans and joins those that touch, so that a key lies in at most one.
func normalize(spans []shard.Span) []shard.Span {
	var in []shard.Span
	for _, s := range spans {
		if !s.Empty() {
			in = append(in, s)
		}
	}
	slices.SortFunc(in, compareSpan)
	var out []shard.Span
	for _, s := range in {
		last := len(out) - 1
		switch {
		case last < 0, !out[last].Unbounded() && bytes.Compare(s.Start, out[last].End) > 0:
			out = append(out, s)
		case shard.CompareEnd(s.End, out[last].End) > 0:
			out[last].End = s.End
		}
	}
	return out
}

// partsOf cuts normalized spans at the borders of ranges, in key order.
func partsOf(m *shard.Map, spans []shard.Span) []part {
	var out []part
	for _, s := range spans {
		for _, d := range m.Overlapping(s) {
			cut := s.Intersect(d.Span)
			if n := len(out); n > 0 && out[n-1].id == d.ID {
				out[n-1].spans = append(out[n-1].spans, cut)
				continue
			}
			out = append(out, part{id: d.ID, spans: []shard.Span{cut}})
		}
	}
	return out
}

// laneKey names the set of ranges.
func laneKey(parts []part) string {
	b := make([]byte, 0, 8*len(parts))
	for i := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(parts[i].id))
	}
	return string(b)
}

// sameParts reports whether both lie in the same ranges.
func sameParts(a, b []part) bool {
	return slices.EqualFunc(a, b, func(x, y part) bool { return x.id == y.id })
}
