package shard

import (
	"cmp"
	"math/bits"
	"slices"
)

// idIndex finds the start key of a range by its id: a trie of six bits a level, persistent as the tree is. Ids are
// given out in order, so few nodes are sparse, and a node has room for no more than it holds.
type idIndex struct {
	root   *idNode
	height uint // levels above the leaves
}

const idBits = 6

// idNode is a leaf, with starts, or has kids: one for every bit of used, in order.
type idNode struct {
	used   uint64
	starts [][]byte
	kids   []*idNode
}

// place returns the bit of an id at a height, and its place among those in use.
func (n *idNode) place(id RangeID, height uint) (bit uint64, at int) {
	bit = 1 << (uint64(id) >> (idBits * height) & (1<<idBits - 1))
	return bit, bits.OnesCount64(n.used & (bit - 1))
}

func (x idIndex) get(id RangeID) (start []byte, ok bool) {
	if x.root == nil || uint64(id)>>(idBits*(x.height+1)) != 0 {
		return nil, false
	}
	n := x.root
	for height := x.height; ; height-- {
		bit, at := n.place(id, height)
		switch {
		case n.used&bit == 0:
			return nil, false
		case height == 0:
			return n.starts[at], true
		}
		n = n.kids[at]
	}
}

// with returns the index with an id put in, or with another start for it.
func (x idIndex) with(id RangeID, start []byte) idIndex {
	if x.root == nil {
		x.root = &idNode{}
	}
	for ; uint64(id)>>(idBits*(x.height+1)) != 0; x.height++ {
		if x.root.used != 0 {
			x.root = &idNode{used: 1, kids: []*idNode{x.root}}
		}
	}
	x.root = x.root.set(id, x.height, start)
	return x
}

func (n *idNode) set(id RangeID, height uint, start []byte) *idNode {
	bit, at := n.place(id, height)
	next := &idNode{used: n.used | bit}
	out := 0
	if n.used&bit != 0 {
		out = 1
	}
	if height == 0 {
		next.starts = replaced(n.starts, at, out, start)
		return next
	}
	kid := &idNode{}
	if out == 1 {
		kid = n.kids[at]
	}
	next.kids = replaced(n.kids, at, out, kid.set(id, height-1, start))
	return next
}

// without returns the index without an id, which it has.
func (x idIndex) without(id RangeID) idIndex {
	x.root = x.root.remove(id, x.height)
	return x
}

// remove returns nil where nothing is left.
func (n *idNode) remove(id RangeID, height uint) *idNode {
	bit, at := n.place(id, height)
	next := &idNode{used: n.used}
	if height == 0 {
		next.used, next.starts = n.used&^bit, replaced(n.starts, at, 1)
	} else if kid := n.kids[at].remove(id, height-1); kid != nil {
		next.kids = replaced(n.kids, at, 1, kid)
	} else {
		next.used, next.kids = n.used&^bit, replaced(n.kids, at, 1)
	}
	if next.used == 0 {
		return nil
	}
	return next
}

// idIndexOf builds the index of ranges whose ids differ.
func idIndexOf(ds []Descriptor) (x idIndex) {
	type slot struct {
		prefix uint64
		start  []byte
		kid    *idNode
	}
	level := make([]slot, len(ds))
	for i, d := range ds {
		level[i] = slot{prefix: uint64(d.ID), start: d.Span.Start}
	}
	slices.SortFunc(level, func(a, b slot) int { return cmp.Compare(a.prefix, b.prefix) })
	for height := uint(0); height == 0 || len(level) > 1 || level[0].prefix != 0; height++ {
		var above []slot
		for len(level) > 0 {
			prefix := level[0].prefix >> idBits
			n := &idNode{}
			count := 0
			for ; count < len(level) && level[count].prefix>>idBits == prefix; count++ {
				n.used |= 1 << (level[count].prefix & (1<<idBits - 1))
			}
			for _, s := range level[:count] {
				if height == 0 {
					n.starts = append(n.starts, s.start)
				} else {
					n.kids = append(n.kids, s.kid)
				}
			}
			above, level = append(above, slot{prefix: prefix, kid: n}), level[count:]
		}
		level, x.height = above, height
	}
	x.root = level[0].kid
	return x
}
