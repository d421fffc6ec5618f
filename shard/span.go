package shard

import (
	"bytes"
	"fmt"
)

// Span is the half-open key interval [Start, End). An empty End means that there is no
// upper bound; an empty Start is the smallest key. Slices are shared, never written.
type Span struct {
	Start, End []byte
}

// All is the whole key space.
var All = Span{}

// Point is the span that holds exactly key.
func Point(key []byte) Span {
	end := make([]byte, len(key)+1)
	copy(end, key)
	return Span{Start: key, End: end}
}

// FromEtcd translates etcd's key and range_end: an empty end is one key, "\x00" is
// everything from key on, and otherwise [key, end). An end at or below key is an empty span.
func FromEtcd(key, end []byte) Span {
	switch {
	case len(end) == 0:
		return Point(key)
	case len(end) == 1 && end[0] == 0:
		return Span{Start: key}
	default:
		return Span{Start: key, End: end}
	}
}

// Unbounded reports whether the span has no upper bound.
func (s Span) Unbounded() bool { return len(s.End) == 0 }

// Empty reports whether no key lies in the span.
func (s Span) Empty() bool { return !s.Unbounded() && bytes.Compare(s.Start, s.End) >= 0 }

// IsPoint reports whether the span holds exactly one key.
func (s Span) IsPoint() bool {
	n := len(s.Start)
	return len(s.End) == n+1 && s.End[n] == 0 && bytes.Equal(s.End[:n], s.Start)
}

// Contains reports whether key lies in the span.
func (s Span) Contains(key []byte) bool {
	return bytes.Compare(key, s.Start) >= 0 && (s.Unbounded() || bytes.Compare(key, s.End) < 0)
}

// PartedBy reports whether key parts the span in two: it lies in it, and is not its first.
func (s Span) PartedBy(key []byte) bool { return s.Contains(key) && !bytes.Equal(key, s.Start) }

// ContainsSpan reports whether every key of o lies in s. An empty o lies in every span.
func (s Span) ContainsSpan(o Span) bool {
	if o.Empty() {
		return true
	}
	return bytes.Compare(o.Start, s.Start) >= 0 && CompareEnd(o.End, s.End) <= 0
}

// Overlaps reports whether some key lies in both spans.
func (s Span) Overlaps(o Span) bool {
	if s.Empty() || o.Empty() {
		return false
	}
	return (o.Unbounded() || bytes.Compare(s.Start, o.End) < 0) &&
		(s.Unbounded() || bytes.Compare(o.Start, s.End) < 0)
}

// Intersect returns the keys that lie in both; the result may be Empty.
func (s Span) Intersect(o Span) Span {
	r := s
	if bytes.Compare(o.Start, r.Start) > 0 {
		r.Start = o.Start
	}
	if CompareEnd(o.End, r.End) < 0 {
		r.End = o.End
	}
	return r
}

// Hull is the smallest span that holds both, neither of which is empty.
func (s Span) Hull(o Span) Span {
	if bytes.Compare(o.Start, s.Start) < 0 {
		s.Start = o.Start
	}
	if CompareEnd(o.End, s.End) > 0 {
		s.End = o.End
	}
	return s
}

// Equal reports whether both bounds are the same.
func (s Span) Equal(o Span) bool {
	return bytes.Equal(s.Start, o.Start) && bytes.Equal(s.End, o.End)
}

// String renders [start,end) with quoted keys; an open end is "+inf".
func (s Span) String() string {
	if s.Unbounded() {
		return fmt.Sprintf("[%q,+inf)", s.Start)
	}
	return fmt.Sprintf("[%q,%q)", s.Start, s.End)
}

// CompareEnd orders two upper bounds, where an empty one is above every other.
func CompareEnd(a, b []byte) int {
	switch {
	case len(a) == 0 && len(b) == 0:
		return 0
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	default:
		return bytes.Compare(a, b)
	}
}
