package shard

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// Map says which range holds which key. It is immutable: every change makes a new Map, so that
// readers need no lock. Its ranges tile the key space, without a gap and without an overlap.
type Map struct {
	version uint64
	ranges  []Descriptor // by span
	byID    map[RangeID]int
}

// NewMap builds a map of ds, given in any order. It refuses descriptors that do not tile the key
// space or that share an id.
func NewMap(version uint64, ds []Descriptor) (*Map, error) {
	m := &Map{version: version, ranges: append([]Descriptor(nil), ds...), byID: make(map[RangeID]int, len(ds))}
	sort.Slice(m.ranges, func(i, j int) bool { return bytes.Compare(m.ranges[i].Span.Start, m.ranges[j].Span.Start) < 0 })
	if len(m.ranges) == 0 {
		return nil, errors.New("range map: no ranges")
	}
	if first := m.ranges[0]; len(first.Span.Start) != 0 {
		return nil, fmt.Errorf("range map: no range holds the keys below %q", first.Span.Start)
	}
	for i, d := range m.ranges {
		if _, twice := m.byID[d.ID]; twice || d.ID == 0 {
			return nil, fmt.Errorf("range map: id %v is used twice or is zero", d.ID)
		}
		m.byID[d.ID] = i
		if d.Span.Empty() {
			return nil, fmt.Errorf("range map: %v holds no key", d.ID)
		}
		last := i == len(m.ranges)-1
		switch {
		case last && !d.Span.Unbounded():
			return nil, fmt.Errorf("range map: no range holds the keys from %q on", d.Span.End)
		case !last && (d.Span.Unbounded() || !bytes.Equal(d.Span.End, m.ranges[i+1].Span.Start)):
			return nil, fmt.Errorf("range map: gap or overlap between %v %v and %v %v", d.ID, d.Span, m.ranges[i+1].ID, m.ranges[i+1].Span)
		}
	}
	return m, nil
}

// Version counts the changes that the meta group has made to the map.
func (m *Map) Version() uint64 { return m.version }

// Len returns the number of ranges, at least one.
func (m *Map) Len() int { return len(m.ranges) }

// position returns the place of the range that holds key.
func (m *Map) position(key []byte) int {
	return sort.Search(len(m.ranges), func(i int) bool { return bytes.Compare(m.ranges[i].Span.Start, key) > 0 }) - 1
}

// Lookup returns the range that holds key.
func (m *Map) Lookup(key []byte) Descriptor { return m.ranges[m.position(key)] }

// Overlapping returns the ranges that hold keys of s, in key order. The slice is shared and
// never written.
func (m *Map) Overlapping(s Span) []Descriptor {
	if s.Empty() {
		return nil
	}
	from, to := m.position(s.Start), len(m.ranges)
	if !s.Unbounded() {
		to = sort.Search(to, func(i int) bool { return bytes.Compare(m.ranges[i].Span.Start, s.End) >= 0 })
	}
	return m.ranges[from:to:to]
}

// Get returns the range with that id.
func (m *Map) Get(id RangeID) (Descriptor, bool) {
	i, ok := m.byID[id]
	if !ok {
		return Descriptor{}, false
	}
	return m.ranges[i], true
}

// All returns every range in key order. The slice is shared and never written.
func (m *Map) All() []Descriptor { return m.ranges[:len(m.ranges):len(m.ranges)] }

// Split cuts range id at key at: the left part keeps the id, the right part becomes child with
// the given replicas. Both get the next generation, so that a request routed by the old
// descriptor is recognised by either. The new map has the next version.
func (m *Map) Split(id RangeID, at []byte, child RangeID, replicas []Replica) (*Map, error) {
	d, ok := m.Get(id)
	switch {
	case !ok:
		return nil, fmt.Errorf("split %v: no such range", id)
	case !d.Span.Contains(at) || bytes.Equal(at, d.Span.Start):
		return nil, fmt.Errorf("split %v at %q: the key is not inside %v", id, at, d.Span)
	}
	left, right := d, d
	left.Span.End = at
	left.Generation++
	right.ID, right.Span.Start, right.Generation = child, at, left.Generation
	right.Replicas = append([]Replica(nil), replicas...)
	return m.replace(m.byID[id], 1, left, right)
}

// Merge gives the keys of right to its left neighbour. Both must have replicas on the same nodes.
// The result has a generation above both. The new map has the next version.
func (m *Map) Merge(left, right RangeID) (*Map, error) {
	l, lok := m.Get(left)
	r, rok := m.Get(right)
	switch {
	case !lok || !rok:
		return nil, fmt.Errorf("merge %v and %v: no such range", left, right)
	case m.byID[right] != m.byID[left]+1:
		return nil, fmt.Errorf("merge %v and %v: not neighbours in this order", left, right)
	case !sameNodes(l.Replicas, r.Replicas):
		return nil, fmt.Errorf("merge %v and %v: replicas are on different nodes", left, right)
	}
	l.Span.End = r.Span.End
	l.Generation = max(l.Generation, r.Generation) + 1
	return m.replace(m.byID[left], 2, l)
}

// replace builds the next version, with n ranges from place i on replaced by ds.
func (m *Map) replace(i, n int, ds ...Descriptor) (*Map, error) {
	next := make([]Descriptor, 0, len(m.ranges)+len(ds))
	next = append(next, m.ranges[:i]...)
	next = append(next, ds...)
	next = append(next, m.ranges[i+n:]...)
	return NewMap(m.version+1, next)
}

// Apply takes in what somebody else says of some ranges, such as a replica that refused a
// request. A descriptor counts where its generation is above those of all ranges that it
// overlaps, which it then displaces; an older one is ignored. The version stays: only the meta
// group counts it. It returns m itself if nothing was news, and an error if what remains would
// not tile the key space: then the caller fetches the whole map.
func (m *Map) Apply(ds ...Descriptor) (*Map, error) {
	cur := m.ranges
	changed := false
	for _, d := range ds {
		if d.ID == 0 || d.Span.Empty() {
			continue
		}
		next := make([]Descriptor, 0, len(cur)+1)
		stale := false
		for _, old := range cur {
			displaced := old.ID == d.ID || old.Span.Overlaps(d.Span)
			if displaced && old.Generation >= d.Generation {
				stale = true
				break
			}
			if !displaced {
				next = append(next, old)
			}
		}
		if stale {
			continue
		}
		cur, changed = append(next, d), true
	}
	if !changed {
		return m, nil
	}
	return NewMap(m.version, cur)
}

// String lists the ranges in key order.
func (m *Map) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", m.version)
	for _, d := range m.ranges {
		fmt.Fprintf(&b, "%v %v generation %d on", d.ID, d.Span, d.Generation)
		for _, r := range d.Replicas {
			fmt.Fprintf(&b, " %d@%v", uint64(r.ID), r.Node)
			if r.Learner {
				b.WriteString("(learner)")
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func sameNodes(a, b []Replica) bool {
	if len(a) != len(b) {
		return false
	}
	on := make(map[NodeID]bool, len(a))
	for _, r := range a {
		on[r.Node] = true
	}
	for _, r := range b {
		if !on[r.Node] {
			return false
		}
	}
	return true
}

// splitKeyBytes bounds the length of what SplitKeys returns.
const splitKeyBytes = 4

// SplitKeys returns the n-1 keys, ascending, that cut the key space evenly by leading bytes into
// n ranges: what a new cluster starts with when it is told only how many ranges it should have.
// Callers that know their keys choose their own.
func SplitKeys(n int) [][]byte {
	var keys [][]byte
	for i := 1; i < n; i++ {
		at := (uint64(i) << (8 * splitKeyBytes)) / uint64(n)
		key := make([]byte, splitKeyBytes)
		for b := range key {
			key[b] = byte(at >> (8 * (splitKeyBytes - 1 - b)))
		}
		for len(key) > 1 && key[len(key)-1] == 0 {
			key = key[:len(key)-1]
		}
		keys = append(keys, key)
	}
	return keys
}
