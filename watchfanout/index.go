package watchfanout

import "hash/maphash"

// index finds the watches whose span holds a key. Those of the same span form a chain, of which
// only the first stands in the index: in an exact map if its span is a single key, else in a treap
// that is ordered by span and augmented with the span that ends last below each place. The cost of
// a lookup goes with the matches, not with the watches. Pure.
type index struct {
	keys map[string]*watch
	root *watch
	seed maphash.Seed // of the treap's priorities
	size int          // watches
}

// indexLinks are a watch's place in an index.
type indexLinks struct {
	left, right, top *watch // in the tree, as first of its span; top: the span that ends last from here down
	before, after    *watch // of the same span
}

// add puts w into the index, next to one of its stream if that was the one before it: what goes to
// one stream can then be handed over together.
func (x *index) add(w *watch) {
	x.size++
	first := x.find(w)
	switch p := w.prev; {
	case first == nil:
		x.enter(w)
	case p != nil && p.live.Load() && p.lane.Load() == w.lane.Load() && p.sameSpan(&w.filter):
		link(p, w)
	default:
		link(first, w)
	}
}

// remove takes w out.
func (x *index) remove(w *watch) {
	x.size--
	before, after := w.before, w.after
	w.before, w.after = nil, nil
	if after != nil {
		after.before = before
	}
	switch {
	case before != nil:
		before.after = after
	case w.kind == spanPoint:
		delete(x.keys, w.start()) // the map must not keep the bytes
		if after != nil {
			x.keys[after.start()] = after
		}
	case after != nil:
		x.root = treapReplace(x.root, w, after)
	default:
		x.root = x.treapDelete(x.root, w)
	}
	w.left, w.right, w.top = nil, nil, nil
}

// link puts w into a chain behind p.
func link(p, w *watch) {
	w.before, w.after = p, p.after
	if p.after != nil {
		p.after.before = w
	}
	p.after = w
}

// find returns the first of the watches of exactly w's span.
func (x *index) find(w *watch) *watch {
	if w.kind == spanPoint {
		return x.keys[w.start()]
	}
	n := x.root
	for n != nil {
		c := w.compareSpan(&n.filter)
		if c == 0 {
			break
		}
		if c < 0 {
			n = n.left
		} else {
			n = n.right
		}
	}
	return n
}

func (x *index) enter(w *watch) {
	if w.kind != spanPoint {
		x.root = x.treapInsert(x.root, w)
		return
	}
	if x.keys == nil {
		x.keys = make(map[string]*watch)
	}
	x.keys[w.start()] = w
}

// match appends the first watch of each span that holds key.
func (x *index) match(dst []*watch, key []byte) []*watch {
	if w := x.keys[string(key)]; w != nil {
		dst = append(dst, w)
	}
	return stab(dst, x.root, key)
}

func stab(dst []*watch, n *watch, key []byte) []*watch {
	for n != nil && n.top.endsBehind(key) {
		dst = stab(dst, n.left, key)
		if string(key) < n.start() {
			break
		}
		if n.endsBehind(key) {
			dst = append(dst, n)
		}
		n = n.right
	}
	return dst
}

// fix finds again what ends last.
func (n *watch) fix() *watch {
	n.top = n
	for _, c := range [...]*watch{n.left, n.right} {
		if c != nil && c.top.compareEnd(&n.top.filter) > 0 {
			n.top = c.top
		}
	}
	return n
}

// above reports whether a stands above b in the treap: by a hash, so that no place is needed to keep it.
func (x *index) above(a, b *watch) bool {
	if x.seed == (maphash.Seed{}) {
		x.seed = maphash.MakeSeed()
	}
	return maphash.String(x.seed, a.keys) > maphash.String(x.seed, b.keys)
}

func (x *index) treapInsert(t, n *watch) *watch {
	switch {
	case t == nil:
		return n.fix()
	case x.above(n, t):
		n.left, n.right = treapSplit(t, n)
		return n.fix()
	case n.compareSpan(&t.filter) < 0:
		t.left = x.treapInsert(t.left, n)
	default:
		t.right = x.treapInsert(t.right, n)
	}
	return t.fix()
}

// treapSplit cuts t into what is below s and what is above.
func treapSplit(t, s *watch) (below, above *watch) {
	if t == nil {
		return nil, nil
	}
	if t.compareSpan(&s.filter) < 0 {
		t.right, above = treapSplit(t.right, s)
		return t.fix(), above
	}
	below, t.left = treapSplit(t.left, s)
	return below, t.fix()
}

func (x *index) treapDelete(t, n *watch) *watch {
	switch {
	case t == nil:
		return nil
	case t == n:
		return x.treapJoin(t.left, t.right)
	case n.compareSpan(&t.filter) < 0:
		t.left = x.treapDelete(t.left, n)
	default:
		t.right = x.treapDelete(t.right, n)
	}
	return t.fix()
}

func (x *index) treapJoin(a, b *watch) *watch {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case x.above(a, b):
		a.right = x.treapJoin(a.right, b)
		return a.fix()
	default:
		b.left = x.treapJoin(a, b.left)
		return b.fix()
	}
}

// treapReplace puts n, which has the same span, where old stands.
func treapReplace(t, old, n *watch) *watch {
	switch {
	case t == old:
		n.left, n.right = old.left, old.right
		return n.fix()
	case old.compareSpan(&t.filter) < 0:
		t.left = treapReplace(t.left, old, n)
	default:
		t.right = treapReplace(t.right, old, n)
	}
	return t.fix()
}
