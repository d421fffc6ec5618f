package shard

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Map says which range holds which key. It is immutable: every change makes a new Map, so that
// readers need no lock. Its ranges tile the key space, without a gap and without an overlap.
// A change costs the same at ten ranges and at a million: the new map shares with the old one
// all but the way to what has changed.
type Map struct {
	version uint64
	count   int
	root    *node   // the ranges by start
	ids     idIndex // their starts by id
}

// NewMap builds a map of ds, given in any order. It refuses descriptors that do not tile the key
// space or that share an id.
func NewMap(version uint64, ds []Descriptor) (*Map, error) {
	if len(ds) == 0 {
		return nil, errors.New("range map: no ranges")
	}
	ds = append([]Descriptor(nil), ds...)
	byStart(ds)
	if first := ds[0]; len(first.Span.Start) != 0 {
		return nil, keysBelow(first)
	}
	starts, entries := make([][]byte, len(ds)), make([]entry, len(ds))
	ids := make(map[RangeID]bool, len(ds))
	for i, d := range ds {
		if ids[d.ID] || d.ID == 0 {
			return nil, badID(d.ID)
		}
		ids[d.ID] = true
		if d.Span.Empty() {
			return nil, noKey(d)
		}
		last := i == len(ds)-1
		switch {
		case last && !d.Span.Unbounded():
			return nil, keysFrom(d)
		case !last && !follows(d, ds[i+1]):
			return nil, gap(d, ds[i+1])
		}
		starts[i], entries[i] = d.Span.Start, entryOf(d)
	}
	return &Map{version: version, count: len(ds), root: treeOf(starts, entries), ids: idIndexOf(ds)}, nil
}

func byStart(ds []Descriptor) {
	slices.SortFunc(ds, compareStart)
}

// follows reports whether b begins where a ends.
func follows(a, b Descriptor) bool {
	return !a.Span.Unbounded() && bytes.Equal(a.Span.End, b.Span.Start)
}

func badID(id RangeID) error { return fmt.Errorf("range map: id %v is used twice or is zero", id) }

func noKey(d Descriptor) error { return fmt.Errorf("range map: %v holds no key", d.ID) }

func keysBelow(first Descriptor) error {
	return fmt.Errorf("range map: no range holds the keys below %q", first.Span.Start)
}

func keysFrom(last Descriptor) error {
	return fmt.Errorf("range map: no range holds the keys from %q on", last.Span.End)
}

func gap(a, b Descriptor) error {
	return fmt.Errorf("range map: gap or overlap between %v %v and %v %v", a.ID, a.Span, b.ID, b.Span)
}

// Version counts the changes that the meta group has made to the map.
func (m *Map) Version() uint64 { return m.version }

// WithVersion is the same map under another version: something beside the ranges has changed.
func (m *Map) WithVersion(version uint64) *Map {
	next := *m
	next.version = version
	return &next
}

// Len returns the number of ranges, at least one.
func (m *Map) Len() int { return m.count }

// Lookup returns the range that holds key.
func (m *Map) Lookup(key []byte) Descriptor { return m.root.lookup(key) }

// Before returns the range that ends where one begins at key, or lies before the one that holds it; false: there is none.
func (m *Map) Before(key []byte) (Descriptor, bool) { return m.root.before(key) }

// Overlapping visits the ranges that hold keys of s, in key order. It costs what it visits.
func (m *Map) Overlapping(s Span) iter.Seq[Descriptor] {
	return func(yield func(Descriptor) bool) { m.overlapping(s, yield) }
}

func (m *Map) overlapping(s Span, visit func(Descriptor) bool) {
	if s.Empty() {
		return
	}
	if d := m.Lookup(s.Start); CompareEnd(s.End, d.Span.End) <= 0 { // as for most
		visit(d)
		return
	}
	m.root.ascend(s.Start, nil, func(d Descriptor) bool {
		return (s.Unbounded() || bytes.Compare(d.Span.Start, s.End) < 0) && visit(d)
	})
}

// Get returns the range with that id.
func (m *Map) Get(id RangeID) (Descriptor, bool) {
	start, ok := m.ids.get(id)
	if !ok {
		return Descriptor{}, false
	}
	return m.root.lookup(start), true
}

// Displaced reports whether a range is no more: the map does not have it, and another one has its keys since. Generations over a key only rise, so a
// range that the map has not heard of yet is newer than whatever that has in its place. A range is as old as its descriptor says, however it came to be so.
func (m *Map) Displaced(d Descriptor) bool {
	_, known := m.Get(d.ID)
	return !known && m.Lookup(d.Span.Start).Generation > d.Generation
}

// All visits every range in key order.
func (m *Map) All() iter.Seq[Descriptor] {
	return func(yield func(Descriptor) bool) { m.root.ascend(nil, nil, yield) }
}

// String lists the ranges in key order.
func (m *Map) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", m.version)
	for d := range m.All() {
		fmt.Fprintf(&b, "%v %v generation %d on", d.ID, d.Span, d.Generation)
		for _, r := range d.Replicas {
			fmt.Fprintf(&b, " %d@%v", uint64(r.ID), r.Node)
			if r.Role != Voter {
				fmt.Fprintf(&b, "(%v)", r.Role)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// SameNodes reports whether two ranges have their replicas on the same nodes.
func SameNodes(a, b []Replica) bool {
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
