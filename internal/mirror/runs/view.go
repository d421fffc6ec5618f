package runs

import (
	"bytes"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// View is the keys of a span at one revision.
type View struct {
	tip    tree
	rev    int64
	behind [][]change // the newest first; those up to rev count for nothing
}

// Query is what of a view is wanted.
type Query struct {
	Span     shard.Span
	Limit    int64 // keys; 0: all
	Reverse  bool  // descending
	KeysOnly bool  // without values and leases
}

// undone is how a key of a view differs from what there is at present.
type undone struct {
	key  []byte
	was  []byte // nil: it was not there
	here bool   // it is there at present
}

// undo lists the keys of a span that differ, in order.
func (v *View) undo(span shard.Span) []undone {
	if len(v.behind) == 0 || mutate.On(mutate.MirrorTip) {
		return nil
	}
	at := map[string]int{}
	var out []undone
	for _, chunk := range v.behind {
		for i := len(chunk) - 1; i >= 0 && chunk[i].rev > v.rev; i-- {
			c := &chunk[i]
			if !span.Contains(c.key) {
				continue
			}
			if n, ok := at[string(c.key)]; ok {
				out[n].was = c.was
				continue
			}
			at[string(c.key)] = len(out)
			out = append(out, undone{key: c.key, was: c.was, here: c.here})
		}
	}
	slices.SortFunc(out, func(a, b undone) int { return bytes.Compare(a.key, b.key) })
	return out
}

// Count is how many keys there are in a span.
func (v *View) Count(span shard.Span) int64 { return v.count(span, v.undo(span)) }

func (v *View) count(span shard.Span, changed []undone) int64 {
	n := v.tip.count(span)
	for i := range changed {
		if changed[i].was != nil {
			n++
		}
		if changed[i].here {
			n--
		}
	}
	return n
}

// Read returns the keys that are wanted as pieces of etcd's RangeResponse, how many they are, and how many there are in the span. The pieces are shared, and
// must not be written.
func (v *View) Read(q Query) (pieces [][]byte, n, count int64) {
	changed := v.undo(q.Span)
	count = v.count(q.Span, changed)
	want := count
	if q.Limit > 0 {
		want = min(want, q.Limit)
	}
	if want == 0 {
		return nil, 0, count
	}
	g := gatherer{q: q, tip: &v.tip, changed: changed, want: want}
	g.gather()
	return g.pieces, g.n, count
}

// gatherer goes through the runs of a span, in the order of a query.
type gatherer struct {
	q       Query
	tip     *tree
	changed []undone // that are still to come
	want    int64

	pieces [][]byte
	n      int64
}

func (g *gatherer) gather() {
	if len(g.tip.pages) == 0 {
		g.add(g.piece(nil, g.q.Span))
		return
	}
	at, ok := g.tip.seek(g.q.Span.Start), true
	step := g.tip.next
	if g.q.Reverse {
		step = g.tip.prev
		at = place{len(g.tip.pages) - 1, len(g.tip.pages[len(g.tip.pages)-1].runs) - 1}
		if !g.q.Span.Unbounded() {
			at = g.tip.seek(g.q.Span.End)
		}
	}
	for ok && g.n < g.want {
		r := g.tip.at(at)
		g.add(g.piece(r, g.between(at, r)))
		at, ok = step(at)
	}
}

// between is what of the span belongs to a run: from its first key to the next one's. What lies before the first run belongs to that.
func (g *gatherer) between(at place, r *run) shard.Span {
	span := shard.Span{Start: r.first}
	if at == (place{}) {
		span.Start = nil
	}
	if next, ok := g.tip.next(at); ok {
		span.End = g.tip.at(next).first
	}
	return span.Intersect(g.q.Span)
}

// piece is what a run, or none, has of a span, without what has changed since.
func (g *gatherer) piece(r *run, span shard.Span) (data []byte, n int) {
	if span.Empty() {
		return nil, 0
	}
	if r != nil {
		data, n = r.within(span)
	}
	changed := g.take(span)
	if len(changed) == 0 {
		return data, n
	}
	out := make([]byte, 0, len(data))
	left := 0
	for len(data) > 0 || len(changed) > 0 {
		var key []byte
		size := 0
		if len(data) > 0 {
			key, size, _ = pb.NextRangeKey(data)
		}
		c := -1
		switch {
		case len(changed) == 0:
		case size == 0:
			c = 1
		default:
			c = bytes.Compare(key, changed[0].key)
		}
		if c < 0 {
			out = append(out, data[:size]...)
			left++
		} else {
			if changed[0].was != nil {
				out = append(out, changed[0].was...)
				left++
			}
			changed = changed[1:]
		}
		if c <= 0 {
			data = data[size:]
		}
	}
	return out, left
}

// take removes and returns what has changed in a span, which is the next in the order of the query.
func (g *gatherer) take(span shard.Span) []undone {
	if g.q.Reverse {
		n := len(g.changed)
		for n > 0 && span.Contains(g.changed[n-1].key) {
			n--
		}
		taken := g.changed[n:]
		g.changed = g.changed[:n]
		return taken
	}
	n := 0
	for n < len(g.changed) && span.Contains(g.changed[n].key) {
		n++
	}
	taken := g.changed[:n]
	g.changed = g.changed[n:]
	return taken
}

// within is what the run has of a span.
func (r *run) within(span shard.Span) (data []byte, n int) {
	from, to, before, behind := 0, len(r.data), 0, r.n
	if bytes.Compare(span.Start, r.first) > 0 {
		from, _, before, _ = r.find(span.Start)
	}
	if !span.Unbounded() {
		to, _, behind, _ = r.find(span.End)
	}
	return r.data[from:to:to], behind - before
}

// add takes a piece, as far as it is wanted, in the form that is wanted.
func (g *gatherer) add(data []byte, n int) {
	if n == 0 {
		return
	}
	take := int(min(int64(n), g.want-g.n))
	g.n += int64(take)
	switch {
	case g.q.Reverse:
		data = reversed(data, n, take, g.q.KeysOnly)
	case g.q.KeysOnly:
		out := make([]byte, 0, 64*take)
		for range take {
			_, size, _ := pb.NextRangeKey(data)
			out = pb.AppendRangeKeyOnly(out, data[:size])
			data = data[size:]
		}
		data = out
	case take < n:
		data = head(data, take)
	}
	g.pieces = append(g.pieces, data)
}

// head is the first n elements.
func head(data []byte, n int) []byte {
	to := 0
	for range n {
		_, size, _ := pb.NextRangeKey(data[to:])
		to += size
	}
	return data[:to:to]
}

// reversed is the last take of n elements, the last first.
func reversed(data []byte, n, take int, keysOnly bool) []byte {
	elements := make([][]byte, 0, n)
	for range n {
		_, size, _ := pb.NextRangeKey(data)
		elements = append(elements, data[:size])
		data = data[size:]
	}
	var out []byte
	for _, e := range slices.Backward(elements[n-take:]) {
		if keysOnly {
			out = pb.AppendRangeKeyOnly(out, e)
		} else {
			out = append(out, e...)
		}
	}
	return out
}
