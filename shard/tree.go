package shard

import (
	"bytes"
	"slices"
)

// node is a node of the tree that holds the ranges of a Map by start key: a leaf, with entries, or one with kids. Its
// keys are the start of each entry, or the first in each kid. All leaves are at one depth.
//
// The tree is persistent: a change copies the nodes on the way to what changes, and shares all others with the tree
// before it. Nobody writes a node that somebody else can see, so readers need no lock. The end of a range is the start
// of the next one, so that only starts are kept.
type node struct {
	keys
	entries []entry
	kids    []*node
}

// entry is a Descriptor without its span.
type entry struct {
	id         RangeID
	generation Generation
	replicas   []Replica
}

// A change copies up to nodeMax entries a level; a lookup compares with as many keys whatever nodeMax is. A node that
// falls below nodeMin is joined with a neighbour. A new map puts nodeFill into one, so that the first changes cut none.
const (
	nodeMax  = 64
	nodeMin  = nodeMax / 4
	nodeFill = nodeMax * 3 / 4
)

func entryOf(d Descriptor) entry { return entry{d.ID, d.Generation, d.Replicas} }

func (n *node) leaf() bool { return n.kids == nil }

// descriptor is the range at place i of a leaf, where end is the start behind the leaf.
func (n *node) descriptor(i int, end []byte) Descriptor {
	e := &n.entries[i]
	return Descriptor{ID: e.id, Span: Span{Start: n.starts[i], End: n.next(i, end)}, Generation: e.generation, Replicas: e.replicas}
}

// lookup returns the range that holds key. The tree has one that starts at or below it.
func (n *node) lookup(key []byte) (d Descriptor) {
	for {
		i := n.upTo(key)
		if i+1 < len(n.starts) {
			d.Span.End = n.starts[i+1]
		}
		if n.leaf() {
			e := &n.entries[i]
			d.ID, d.Span.Start, d.Generation, d.Replicas = e.id, n.starts[i], e.generation, e.replicas
			return d
		}
		n = n.kids[i]
	}
}

// before returns the last range that starts below key, of which end is the upper bound where no other follows.
func (n *node) before(key []byte) (d Descriptor, ok bool) {
	var end []byte
	for {
		i := n.keys.below(key)
		switch {
		case i < 0:
			return Descriptor{}, false
		case n.leaf():
			return n.descriptor(i, end), true
		}
		end = n.next(i, end)
		n = n.kids[i]
	}
}

// last returns the last range.
func (n *node) last() Descriptor {
	for !n.leaf() {
		n = n.kids[len(n.kids)-1]
	}
	return n.descriptor(len(n.starts)-1, nil)
}

// ascend visits the ranges in key order, from the one that holds from on, until visit returns false. end is the
// start behind the node.
func (n *node) ascend(from, end []byte, visit func(Descriptor) bool) bool {
	for i := max(n.seek(from), 0); i < len(n.starts); i++ {
		if n.leaf() {
			if !visit(n.descriptor(i, end)) {
				return false
			}
		} else if !n.kids[i].ascend(from, n.next(i, end), visit) {
			return false
		}
	}
	return true
}

// set returns the node with an entry put in, in place of one with the same start. What has become too large for
// one node comes back as two.
func (n *node) set(start []byte, e entry) (a, b *node) {
	i := n.seek(start)
	if !n.leaf() {
		i = max(i, 0)
		return n.splice(i, 1, pair(n.kids[i].set(start, e))...).halve()
	}
	if i >= 0 && bytes.Equal(n.starts[i], start) {
		a = &node{keys: n.keys, entries: slices.Clone(n.entries)}
		a.entries[i] = e
		return a, nil
	}
	return (&node{keys: n.keys.replaced(i+1, 0, start), entries: replaced(n.entries, i+1, 0, e)}).halve()
}

// remove returns the node without the entry that starts there, which it has. The result may be too small.
func (n *node) remove(start []byte) *node {
	i := n.seek(start)
	if n.leaf() {
		return &node{keys: n.keys.replaced(i, 1), entries: replaced(n.entries, i, 1)}
	}
	kid := n.kids[i].remove(start)
	if len(kid.starts) >= nodeMin || len(n.kids) == 1 {
		return n.splice(i, 1, kid)
	}
	if i == 0 {
		return n.splice(0, 2, pair(kid.join(n.kids[1]))...)
	}
	return n.splice(i-1, 2, pair(n.kids[i-1].join(kid))...)
}

// splice returns the inner node with out kids from place i on replaced by others.
func (n *node) splice(i, out int, in ...*node) *node {
	var starts [2][]byte
	for k, kid := range in {
		starts[k] = kid.starts[0]
	}
	next := &node{keys: n.keys, kids: replaced(n.kids, i, out, in...)}
	if len(in) != out || !same(n.starts[i:i+out], starts[:len(in)]) {
		next.keys = n.keys.replaced(i, out, starts[:len(in)]...)
	}
	return next
}

func same(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// join makes one node of two neighbours, or two of about one size.
func (n *node) join(right *node) (a, b *node) {
	all := &node{keys: keysOf(slices.Concat(n.starts, right.starts))}
	if n.leaf() {
		all.entries = slices.Concat(n.entries, right.entries)
	} else {
		all.kids = slices.Concat(n.kids, right.kids)
	}
	return all.halve()
}

// halve cuts a node that is too large.
func (n *node) halve() (a, b *node) {
	if len(n.starts) <= nodeMax {
		return n, nil
	}
	mid := len(n.starts) / 2
	return n.part(0, mid), n.part(mid, len(n.starts))
}

// part returns a node of the places from i to k, with slices of its own: it would hold all of the node's otherwise.
func (n *node) part(i, k int) *node {
	p := &node{keys: keysOf(replaced(n.starts[i:k], 0, 0))}
	if n.leaf() {
		p.entries = replaced(n.entries[i:k], 0, 0)
	} else {
		p.kids = replaced(n.kids[i:k], 0, 0)
	}
	return p
}

// pair lists a node, or both of two.
func pair(a, b *node) []*node {
	if b == nil {
		return []*node{a}
	}
	return []*node{a, b}
}

// replaced returns a copy of s, no larger than needed, with out elements from place i on replaced by others.
func replaced[T any](s []T, i, out int, in ...T) []T {
	next := make([]T, len(s)-out+len(in))
	copy(next, s[:i])
	copy(next[i:], in)
	copy(next[i+len(in):], s[i+out:])
	return next
}

// with returns a whole tree with an entry put in.
func (n *node) with(start []byte, e entry) *node {
	a, b := n.set(start, e)
	if b == nil {
		return a
	}
	return &node{keys: keysOf([][]byte{a.starts[0], b.starts[0]}), kids: []*node{a, b}}
}

// without returns a whole tree without the entry that starts there, which it has.
func (n *node) without(start []byte) *node {
	n = n.remove(start)
	for len(n.kids) == 1 {
		n = n.kids[0]
	}
	return n
}

// treeOf builds a tree of at least one entry, in key order.
func treeOf(starts [][]byte, entries []entry) *node {
	level := (&node{keys: keys{starts: starts}, entries: entries}).cut()
	for len(level) > 1 {
		top := &node{kids: level}
		for _, kid := range level {
			top.starts = append(top.starts, kid.starts[0])
		}
		level = top.cut()
	}
	return level[0]
}

// cut makes nodes of about one size, nodeFill at most, out of a node of any size.
func (n *node) cut() (parts []*node) {
	count := len(n.starts)
	k := (count + nodeFill - 1) / nodeFill
	for i := range k {
		parts = append(parts, n.part(i*count/k, (i+1)*count/k))
	}
	return parts
}

// height is the number of levels above the leaves.
func (n *node) height() (h int) {
	for ; !n.leaf(); n = n.kids[0] {
		h++
	}
	return h
}

// unshared returns the leaves of either tree that are not in the other one.
func unshared(a, b *node) (onlyA, onlyB []*node) {
	onlyA, onlyB = []*node{a}, []*node{b}
	heightA, heightB := a.height(), b.height()
	for {
		// Shared nodes are at one height in both trees: only then are they looked for.
		if heightA == heightB {
			onlyA, onlyB = missing(onlyA, onlyB), missing(onlyB, onlyA)
			if heightA == 0 {
				return onlyA, onlyB
			}
		}
		top := max(heightA, heightB)
		if heightA == top {
			onlyA, heightA = kidsOf(onlyA), heightA-1
		}
		if heightB == top {
			onlyB, heightB = kidsOf(onlyB), heightB-1
		}
	}
}

// missing returns the nodes of a that are not in b.
func missing(a, b []*node) (only []*node) {
	in := make(map[*node]bool, len(b))
	for _, n := range b {
		in[n] = true
	}
	for _, n := range a {
		if !in[n] {
			only = append(only, n)
		}
	}
	return only
}

func kidsOf(nodes []*node) (kids []*node) {
	for _, n := range nodes {
		kids = append(kids, n.kids...)
	}
	return kids
}
