package shard

import (
	"bytes"
	"errors"
	"sort"
)

// A feed that does not bring every key of its range brings those of at most CoverSpansMax spans, whose bounds take at most CoverBytesMax together.
const (
	CoverSpansMax = 64
	CoverBytesMax = 16 << 10
)

// Cover is which keys a feed brings. nil: every key of the range. It is not written any more.
type Cover struct {
	// Spans are sorted, disjoint, and do not touch; they may reach beyond the range.
	Spans []Span
	// From: above it the feed lacks nothing of Spans. It counts for what the feed has not brought before: see FeedItem.
	From int64
}

// Whole reports whether every key is brought.
func (c *Cover) Whole() bool {
	return c == nil || len(c.Spans) == 1 && c.Spans[0].Equal(All)
}

// Same reports whether both are of the same keys.
func (c *Cover) Same(o *Cover) bool {
	if c == o || c.Whole() || o.Whole() {
		return c.Whole() == o.Whole()
	}
	if len(c.Spans) != len(o.Spans) {
		return false
	}
	for i := range c.Spans {
		if !c.Spans[i].Equal(o.Spans[i]) {
			return false
		}
	}
	return true
}

// Covers reports whether everything is brought that another one brings.
func (c *Cover) Covers(o *Cover) bool {
	if c.Whole() || o.Whole() {
		return c.Whole()
	}
	for i := range o.Spans {
		if !SpansCover(c.Spans, o.Spans[i]) {
			return false
		}
	}
	return true
}

// spanAt is the last of sorted spans that begins at or before key; false: none does.
func spanAt(spans []Span, key []byte) (Span, bool) {
	i := sort.Search(len(spans), func(i int) bool { return bytes.Compare(spans[i].Start, key) > 0 })
	if i == 0 {
		return Span{}, false
	}
	return spans[i-1], true
}

// SpansContain reports whether key lies in one of spans, which are sorted and disjoint.
func SpansContain(spans []Span, key []byte) bool {
	s, ok := spanAt(spans, key)
	return ok && s.Contains(key)
}

// SpansCover reports whether every key of s lies in one of spans, which are sorted, disjoint, and do not touch.
func SpansCover(spans []Span, s Span) bool {
	in, ok := spanAt(spans, s.Start)
	return s.Empty() || ok && in.ContainsSpan(s)
}

// JoinSpans returns spans, which are sorted, disjoint, and do not touch, with one more, which is not empty; they are so then, too.
func JoinSpans(spans []Span, s Span) []Span {
	out := make([]Span, 0, len(spans)+1)
	i := 0
	for ; i < len(spans) && !spans[i].Unbounded() && bytes.Compare(spans[i].End, s.Start) < 0; i++ {
		out = append(out, spans[i])
	}
	for ; i < len(spans) && (s.Unbounded() || bytes.Compare(spans[i].Start, s.End) <= 0); i++ {
		s = s.Hull(spans[i])
	}
	return append(append(out, s), spans[i:]...)
}

// SpanBytes is what the bounds of spans take.
func SpanBytes(spans []Span) (n int) {
	for i := range spans {
		n += len(spans[i].Start) + len(spans[i].End)
	}
	return n
}

var (
	errCoverMany  = errors.New("more than 64 spans, or 16 KiB of their bounds, are named for one feed")
	errCoverOrder = errors.New("the spans that are named for a feed are not sorted, touch, or are empty")
)

// CheckSpans says why spans are none of a Cover; nil: they are.
func CheckSpans(spans []Span) error {
	if len(spans) > CoverSpansMax || SpanBytes(spans) > CoverBytesMax {
		return errCoverMany
	}
	for i := range spans {
		if spans[i].Empty() || i > 0 && (spans[i-1].Unbounded() || bytes.Compare(spans[i-1].End, spans[i].Start) >= 0) {
			return errCoverOrder
		}
	}
	return nil
}
