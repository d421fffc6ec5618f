package watchfanout

import (
	"bytes"

	"pontoon/shard"
)

// node is one watched span and the watches that have exactly this span, with what a delivery
// collects for them.
type node struct {
	span   shard.Span
	subs   []subscription
	out    []*Event // collected by the delivery that is going on
	weight int

	// span tree only
	left, right *node
	end         []byte // the highest End below this node
	prio        uint32
}

// subscription points back to the watch's list of places, so that removal needs no search.
type subscription struct {
	w     *watch
	place int // in w.places
}

// place is where one span of a watch stands in the index.
type place struct {
	n *node
	i int // in n.subs
}

// index finds the spans that hold a key: an exact map for single keys, a treap ordered by
// span and augmented with the highest end for the rest. The cost of a lookup goes with the
// matches, not with the watches. Pure.
type index struct {
	keys map[string]*node
	root *node
	rnd  uint32
	size int // subscriptions
}

// add puts every span of w into the index.
func (x *index) add(w *watch) {
	for i, s := range w.spans {
		n := x.node(s)
		w.places = append(w.places, place{n: n, i: len(n.subs)})
		n.subs = append(n.subs, subscription{w: w, place: i})
	}
	x.size += len(w.spans)
}

// remove takes w out.
func (x *index) remove(w *watch) {
	for _, p := range w.places {
		n, last := p.n, len(p.n.subs)-1
		moved := n.subs[last]
		n.subs[p.i] = moved
		moved.w.places[moved.place].i = p.i
		n.subs[last] = subscription{}
		if n.subs = n.subs[:last]; last == 0 {
			x.forget(n)
		}
	}
	x.size -= len(w.places)
	w.places = w.places[:0]
}

// node returns the node of exactly that span, made if need be.
func (x *index) node(s shard.Span) *node {
	if s.IsPoint() {
		n := x.keys[string(s.Start)]
		if n == nil {
			if x.keys == nil {
				x.keys = make(map[string]*node)
			}
			n = &node{span: s}
			x.keys[string(s.Start)] = n
		}
		return n
	}
	for n := x.root; n != nil; {
		switch c := compareSpan(s, n.span); {
		case c == 0:
			return n
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	x.rnd = x.rnd*1664525 + 1013904223
	n := &node{span: s, end: s.End, prio: x.rnd}
	x.root = treapInsert(x.root, n)
	return n
}

func (x *index) forget(n *node) {
	if n.span.IsPoint() {
		delete(x.keys, string(n.span.Start))
		return
	}
	x.root = treapDelete(x.root, n)
}

// match appends the nodes whose span holds key.
func (x *index) match(dst []*node, key []byte) []*node {
	if n := x.keys[string(key)]; n != nil {
		dst = append(dst, n)
	}
	return stab(dst, x.root, key)
}

func stab(dst []*node, n *node, key []byte) []*node {
	for n != nil && (len(n.end) == 0 || bytes.Compare(key, n.end) < 0) {
		dst = stab(dst, n.left, key)
		if bytes.Compare(key, n.span.Start) < 0 {
			break
		}
		if len(n.span.End) == 0 || bytes.Compare(key, n.span.End) < 0 {
			dst = append(dst, n)
		}
		n = n.right
	}
	return dst
}

func compareSpan(a, b shard.Span) int {
	if c := bytes.Compare(a.Start, b.Start); c != 0 {
		return c
	}
	return shard.CompareEnd(a.End, b.End)
}

// fix computes the highest end again.
func (n *node) fix() *node {
	n.end = n.span.End
	for _, c := range [...]*node{n.left, n.right} {
		if c != nil && shard.CompareEnd(c.end, n.end) > 0 {
			n.end = c.end
		}
	}
	return n
}

func treapInsert(t, n *node) *node {
	switch {
	case t == nil:
		return n
	case n.prio > t.prio:
		n.left, n.right = treapSplit(t, n.span)
		return n.fix()
	case compareSpan(n.span, t.span) < 0:
		t.left = treapInsert(t.left, n)
	default:
		t.right = treapInsert(t.right, n)
	}
	return t.fix()
}

// treapSplit cuts t into what is below s and what is above.
func treapSplit(t *node, s shard.Span) (below, above *node) {
	if t == nil {
		return nil, nil
	}
	if compareSpan(t.span, s) < 0 {
		t.right, above = treapSplit(t.right, s)
		return t.fix(), above
	}
	below, t.left = treapSplit(t.left, s)
	return below, t.fix()
}

func treapDelete(t, n *node) *node {
	switch {
	case t == nil:
		return nil
	case t == n:
		return treapJoin(t.left, t.right)
	case compareSpan(n.span, t.span) < 0:
		t.left = treapDelete(t.left, n)
	default:
		t.right = treapDelete(t.right, n)
	}
	return t.fix()
}

func treapJoin(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		a.right = treapJoin(a.right, b)
		return a.fix()
	default:
		b.left = treapJoin(a, b.left)
		return b.fix()
	}
}
