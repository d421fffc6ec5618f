package lease

import (
	"slices"

	"pontoon/shard"
)

// MaxTTL is the largest TTL that a grant may name, in seconds.
const MaxTTL int64 = 9_000_000_000

// Lease is one lease as the log has it: everything but its remaining time. A copy stays what it is:
// Spans are replaced, never written in place.
type Lease struct {
	ID         int64
	TTL        int64  // seconds
	GrantIndex uint64 // log index of the grant: tells a re-granted id apart
	Revoking   bool
	Spans      []shard.Span // where keys with this lease may be; ascending, disjoint
}

// Covers reports whether every key of span is attached.
func (l *Lease) Covers(span shard.Span) bool {
	return slices.ContainsFunc(l.Spans, func(s shard.Span) bool { return s.ContainsSpan(span) })
}

// Attach adds a span in which keys with this lease may be.
func (l *Lease) Attach(span shard.Span) { l.Spans = unite(l.Spans, span) }

// unite adds one span to ascending disjoint spans and joins what touches.
func unite(spans []shard.Span, add shard.Span) []shard.Span {
	if add.Empty() {
		return spans
	}
	out := make([]shard.Span, 0, len(spans)+1)
	placed := false
	for _, s := range spans {
		switch {
		case !s.Unbounded() && string(s.End) < string(add.Start): // below, with a gap
			out = append(out, s)
		case !add.Unbounded() && string(add.End) < string(s.Start): // above, with a gap
			if !placed {
				out, placed = append(out, add), true
			}
			out = append(out, s)
		default:
			if string(s.Start) < string(add.Start) {
				add.Start = s.Start
			}
			if shard.CompareEnd(s.End, add.End) > 0 {
				add.End = s.End
			}
		}
	}
	if !placed {
		out = append(out, add)
	}
	return out
}
