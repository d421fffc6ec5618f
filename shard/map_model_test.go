package shard

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
)

// modelMap is a Map as plain as can be: a slice that every change copies and checks as a whole.
type modelMap struct {
	version uint64
	ranges  []Descriptor // by span
	byID    map[RangeID]int
}

func newModel(version uint64, ds []Descriptor) (*modelMap, error) {
	m := &modelMap{version: version, ranges: append([]Descriptor(nil), ds...), byID: make(map[RangeID]int, len(ds))}
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

func (m *modelMap) position(key []byte) int {
	return sort.Search(len(m.ranges), func(i int) bool { return bytes.Compare(m.ranges[i].Span.Start, key) > 0 }) - 1
}

func (m *modelMap) lookup(key []byte) Descriptor { return m.ranges[m.position(key)] }

func (m *modelMap) overlapping(s Span) []Descriptor {
	if s.Empty() {
		return nil
	}
	from, to := m.position(s.Start), len(m.ranges)
	if !s.Unbounded() {
		to = sort.Search(to, func(i int) bool { return bytes.Compare(m.ranges[i].Span.Start, s.End) >= 0 })
	}
	return m.ranges[from:to:to]
}

func (m *modelMap) get(id RangeID) (Descriptor, bool) {
	i, ok := m.byID[id]
	if !ok {
		return Descriptor{}, false
	}
	return m.ranges[i], true
}

func (m *modelMap) all() []Descriptor { return m.ranges[:len(m.ranges):len(m.ranges)] }

func (m *modelMap) split(id RangeID, at []byte, child RangeID, replicas []Replica) (*modelMap, error) {
	d, ok := m.get(id)
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

func (m *modelMap) merge(left, right RangeID) (*modelMap, error) {
	l, lok := m.get(left)
	r, rok := m.get(right)
	switch {
	case !lok || !rok:
		return nil, fmt.Errorf("merge %v and %v: no such range", left, right)
	case m.byID[right] != m.byID[left]+1:
		return nil, fmt.Errorf("merge %v and %v: not neighbours in this order", left, right)
	case !SameNodes(l.Replicas, r.Replicas):
		return nil, fmt.Errorf("merge %v and %v: replicas are on different nodes", left, right)
	}
	l.Span.End = r.Span.End
	l.Generation = max(l.Generation, r.Generation) + 1
	return m.replace(m.byID[left], 2, l)
}

func (m *modelMap) replace(i, n int, ds ...Descriptor) (*modelMap, error) {
	next := make([]Descriptor, 0, len(m.ranges)+len(ds))
	next = append(next, m.ranges[:i]...)
	next = append(next, ds...)
	next = append(next, m.ranges[i+n:]...)
	return newModel(m.version+1, next)
}

func (m *modelMap) apply(ds ...Descriptor) (*modelMap, error) {
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
	return newModel(m.version, cur)
}

// string lists the ranges as Map.String does.
func (m *modelMap) string() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version %d\n", m.version)
	for _, d := range m.ranges {
		fmt.Fprintf(&b, "%v %v generation %d on", d.ID, d.Span, d.Generation)
		for _, r := range d.Replicas {
			fmt.Fprintf(&b, " %d@%v", uint64(r.ID), r.Node)
			if r.Role == Learner {
				b.WriteString("(learner)")
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
