package auth

import (
	"bytes"
	"slices"

	"pontoon/internal/mutate"
)

// interval is a half-open span of keys; no end means that it has none.
type interval struct{ start, end []byte }

// intervals are disjoint, ascending, and do not touch.
type intervals []interval

// spanned is the interval that a permission, or a request, states by etcd's convention.
func spanned(key, end []byte) interval {
	switch {
	case unbounded(end):
		return interval{start: key}
	case len(end) == 0:
		return interval{start: key, end: append(key[:len(key):len(key)], 0)}
	}
	return interval{start: key, end: end}
}

// ends compares upper bounds.
func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

// merged puts intervals in order, and makes one of those that overlap or touch. It writes in.
func merged(in []interval) intervals {
	slices.SortFunc(in, func(a, b interval) int { return bytes.Compare(a.start, b.start) })
	out := in[:0]
	for _, next := range in {
		if n := len(out); n > 0 && out[n-1].reaches(next.start) {
			if compareEnds(next.end, out[n-1].end) > 0 {
				out[n-1].end = next.end
			}
			continue
		}
		out = append(out, next)
	}
	return out
}

// reaches reports whether it overlaps or touches what begins at start, which is not before it.
func (i interval) reaches(start []byte) bool {
	if mutate.On(mutate.AuthApart) {
		return i.end == nil || bytes.Compare(i.end, start) > 0
	}
	return i.end == nil || bytes.Compare(i.end, start) >= 0
}

// cover reports whether one of them covers all of what is asked for, by etcd's convention. A span that holds no key is covered by none.
func (is intervals) cover(key, end []byte) bool {
	at, found := slices.BinarySearchFunc(is, key, func(i interval, key []byte) int { return bytes.Compare(i.start, key) })
	if !found {
		at-- // the last that begins before the key
	}
	if at < 0 {
		return false
	}
	if len(end) == 0 { // one key: no need to make its successor
		return is[at].end == nil || bytes.Compare(key, is[at].end) < 0
	}
	asked := spanned(key, end)
	if asked.end != nil && bytes.Compare(asked.start, asked.end) >= 0 {
		return false
	}
	return compareEnds(asked.end, is[at].end) <= 0
}
