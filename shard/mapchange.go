package shard

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

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
	if _, taken := m.ids.get(child); taken || child == 0 {
		return nil, badID(child)
	}
	left, right := d, d
	left.Span.End = at
	left.Generation++
	right.ID, right.Span.Start, right.Generation = child, at, left.Generation
	right.Replicas = append([]Replica(nil), replicas...)
	return m.edit(m.version+1, []Descriptor{d}, []Descriptor{left, right}), nil
}

// Merge gives the keys of right to its left neighbour. Both must have replicas on the same nodes.
// The result has a generation above both. The new map has the next version.
func (m *Map) Merge(left, right RangeID) (*Map, error) {
	l, lok := m.Get(left)
	r, rok := m.Get(right)
	switch {
	case !lok || !rok:
		return nil, fmt.Errorf("merge %v and %v: no such range", left, right)
	case !follows(l, r):
		return nil, fmt.Errorf("merge %v and %v: not neighbours in this order", left, right)
	case !SameNodes(l.Replicas, r.Replicas):
		return nil, fmt.Errorf("merge %v and %v: replicas are on different nodes", left, right)
	}
	both := l
	both.Span.End = r.Span.End
	both.Generation = max(l.Generation, r.Generation) + 1
	return m.edit(m.version+1, []Descriptor{l, r}, []Descriptor{both}), nil
}

// Apply takes in what somebody else says of some ranges, such as a replica that refused a
// request. A descriptor counts where its generation is above those of all ranges that it
// overlaps, which it then displaces; an older one is ignored. The version stays: only the meta
// group counts it. It returns m itself if nothing was news, and an error if what remains would
// not tile the key space: then the caller fetches the whole map.
func (m *Map) Apply(ds ...Descriptor) (*Map, error) {
	out := make(map[RangeID]Descriptor)
	var in []Descriptor
	for _, d := range ds {
		if d.ID == 0 || d.Span.Empty() || !m.displace(d, out, in) {
			continue
		}
		in = slices.DeleteFunc(in, func(o Descriptor) bool { return displaces(d, o) })
		in = append(in, d)
	}
	if len(in) == 0 {
		return m, nil
	}
	return m.change(m.version, out, in)
}

// displaces reports whether a map that holds d cannot hold o.
func displaces(d, o Descriptor) bool { return o.ID == d.ID || o.Span.Overlaps(d.Span) }

// displace adds to out the ranges of m that d displaces, where m is without out already and has in. It
// reports false, and has added nothing, if one of them all is as new as d.
func (m *Map) displace(d Descriptor, out map[RangeID]Descriptor, in []Descriptor) bool {
	var displaced []Descriptor
	newer := func(o Descriptor) bool {
		if _, over := out[o.ID]; over {
			return true
		}
		displaced = append(displaced, o)
		return o.Generation < d.Generation
	}
	if o, ok := m.Get(d.ID); ok && !newer(o) {
		return false
	}
	for _, o := range in {
		if displaces(d, o) && o.Generation >= d.Generation {
			return false
		}
	}
	for o := range m.Overlapping(d.Span) {
		if !newer(o) {
			return false
		}
	}
	for _, o := range displaced {
		out[o.ID] = o
	}
	return true
}

// Update returns the map of another version, given what it has otherwise than m: descriptors in any order, and
// the ids of ranges that are no more, of which m may never have heard. An error says that the result would not
// tile the key space: these are not the differences to m.
func (m *Map) Update(version uint64, changed []Descriptor, removed []RangeID) (*Map, error) {
	out := make(map[RangeID]Descriptor, len(changed)+len(removed))
	add := func(id RangeID) {
		if d, ok := m.Get(id); ok {
			out[id] = d
		}
	}
	for _, id := range removed {
		add(id)
	}
	for _, d := range changed {
		add(d.ID)
	}
	return m.change(version, out, slices.Clone(changed))
}

// Changes returns what m has otherwise than old, in key order, and the ids of ranges that old has and m has not:
// old.Update makes m of it. Where m was made from old by changes it costs what these have changed.
func (m *Map) Changes(old *Map) (changed []Descriptor, removed []RangeID) {
	now, was := unshared(m.root, old.root)
	for _, leaf := range now {
		for _, e := range leaf.entries {
			d, _ := m.Get(e.id)
			if o, ok := old.Get(e.id); !ok || !d.Equal(&o) {
				changed = append(changed, d)
			}
		}
	}
	for _, leaf := range was {
		for _, e := range leaf.entries {
			if _, ok := m.ids.get(e.id); !ok {
				removed = append(removed, e.id)
			}
		}
	}
	return changed, removed
}

// rebuildShare is the part of a map, one in so many, from which on a change builds a new one: that costs less by the range.
const rebuildShare = 4

// change replaces ranges of m by others, if the result tiles the key space.
func (m *Map) change(version uint64, out map[RangeID]Descriptor, in []Descriptor) (*Map, error) {
	if (len(out)+len(in))*rebuildShare > m.count {
		ds := make([]Descriptor, 0, max(m.count-len(out), 0)+len(in))
		for d := range m.All() {
			if _, over := out[d.ID]; !over {
				ds = append(ds, d)
			}
		}
		return NewMap(version, append(ds, in...))
	}
	byStart(in)
	if err := m.check(out, in); err != nil {
		return nil, err
	}
	over := slices.Collect(maps.Values(out))
	byStart(over)
	return m.edit(version, over, in), nil
}

// edit replaces ranges of m by others, both in key order, that hold the same keys and have ids that no other range has.
func (m *Map) edit(version uint64, out, in []Descriptor) *Map {
	next := &Map{version: version, count: m.count - len(out) + len(in), root: m.root, ids: m.ids}
	for _, d := range in {
		next.root = next.root.with(d.Span.Start, entryOf(d))
	}
	for _, d := range out {
		i, replaced := slices.BinarySearchFunc(in, d, compareStart)
		if !replaced {
			next.root = next.root.without(d.Span.Start)
		}
		if !replaced || in[i].ID != d.ID {
			next.ids = next.ids.without(d.ID)
		}
	}
	for _, d := range in {
		if _, stays := next.ids.get(d.ID); !stays {
			next.ids = next.ids.with(d.ID, next.Lookup(d.Span.Start).Span.Start) // the bytes that the tree holds
		}
	}
	return next
}

func compareStart(a, b Descriptor) int { return bytes.Compare(a.Span.Start, b.Span.Start) }

// check tells whether m tiles the key space with ranges out of it replaced by in, which is in key order. Whatever
// overlaps a range of in, or is at a border of what has changed, is looked at; all else tiles as before.
func (m *Map) check(out map[RangeID]Descriptor, in []Descriptor) error {
	near := make(map[RangeID]Descriptor)
	fresh := make(map[RangeID]bool, len(in))
	for _, d := range in {
		_, known := m.ids.get(d.ID)
		_, over := out[d.ID]
		if d.ID == 0 || fresh[d.ID] || known && !over {
			return badID(d.ID)
		}
		fresh[d.ID] = true
		if d.Span.Empty() {
			return noKey(d)
		}
		m.around(d.Span, near)
	}
	for _, d := range out {
		m.around(d.Span, near)
	}
	all := slices.Clone(in)
	for id, d := range near {
		if _, over := out[id]; !over {
			all = append(all, d)
		}
	}
	byStart(all)
	return m.checkTiles(all, func(id RangeID) bool { return fresh[id] }, out)
}

// around adds the ranges at both ends of a span, inside and outside.
func (m *Map) around(s Span, near map[RangeID]Descriptor) {
	add := func(d Descriptor, ok bool) {
		if ok {
			near[d.ID] = d
		}
	}
	add(m.Lookup(s.Start), true)
	add(m.root.before(s.Start))
	if s.Unbounded() {
		add(m.root.last(), true)
		return
	}
	add(m.Lookup(s.End), true)
	add(m.root.before(s.End))
}

// checkTiles looks for a gap or an overlap in ds, in key order: what has changed, and what is around it.
func (m *Map) checkTiles(ds []Descriptor, fresh func(RangeID) bool, out map[RangeID]Descriptor) error {
	was := func(key []byte) bool { _, over := out[m.Lookup(key).ID]; return over }
	for i, d := range ds {
		switch {
		case i == 0 && len(d.Span.Start) != 0 && (fresh(d.ID) || was(nil)):
			return keysBelow(d)
		case i == len(ds)-1 && !d.Span.Unbounded() && (fresh(d.ID) || was(d.Span.End)):
			return keysFrom(d)
		case i == len(ds)-1 || follows(d, ds[i+1]):
			continue
		}
		// Between two old ranges there may be others that are not looked at.
		if next := ds[i+1]; fresh(d.ID) || fresh(next.ID) || d.Span.Unbounded() || was(d.Span.End) {
			return gap(d, next)
		}
	}
	return nil
}
