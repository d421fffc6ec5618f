package runs

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// runBytes is how large runs are made. They are cut where they have twice of it, and joined to a neighbour where they have a quarter.
	runBytes = 16 << 10
	// pageRuns is how many runs pages are made of; the same holds.
	pageRuns = 64
)

// run is some neighbouring keys. It is never changed.
type run struct {
	data  []byte // of them, as pb.AppendRangeKey encodes each
	n     int    // how many; at least one
	first []byte // the key of the first; in data
}

func newRun(data []byte, n int) *run {
	first, _, _ := pb.NextRangeKey(data)
	return &run{data: data, n: n, first: first}
}

// find returns where a key is in the run, or where it would be, and how many are before it.
func (r *run) find(key []byte) (from, to, before int, found bool) {
	for from < len(r.data) {
		k, size, ok := pb.NextRangeKey(r.data[from:])
		if !ok { // it was looked at when it came
			break
		}
		switch c := bytes.Compare(k, key); {
		case c == 0:
			return from, from + size, before, true
		case c > 0:
			return from, from, before, false
		}
		from += size
		before++
	}
	return from, from, before, false
}

// cut makes runs of what may be too much for one, or of what may be nothing.
func cut(data []byte, n int) []*run {
	if n == 0 {
		return nil
	}
	if n == 1 || len(data) <= 2*runBytes {
		return []*run{newRun(data, n)}
	}
	at, left := 0, 0
	for left < n-1 && (left == 0 || at < len(data)/2) {
		_, size, _ := pb.NextRangeKey(data[at:])
		at += size
		left++
	}
	return append(cut(bytes.Clone(data[:at]), left), cut(bytes.Clone(data[at:]), n-left)...)
}

// page is some neighbouring runs. It is never changed.
type page struct {
	runs    []*run
	n, size int // keys and bytes
}

func newPage(runs []*run) *page {
	p := &page{runs: runs}
	for _, r := range runs {
		p.n += r.n
		p.size += len(r.data)
	}
	return p
}

func (p *page) first() []byte { return p.runs[0].first }

// tree is some keys. It is never changed. The zero tree has none.
type tree struct {
	pages   []*page
	n, size int // keys and bytes
}

func newTree(pages []*page) tree {
	t := tree{pages: pages}
	for _, p := range pages {
		t.n += p.n
		t.size += p.size
	}
	return t
}

// ofRuns makes a tree of runs in order.
func ofRuns(runs []*run) tree {
	var pages []*page
	for chunk := range slices.Chunk(runs, pageRuns) {
		pages = append(pages, newPage(slices.Clip(chunk)))
	}
	return newTree(pages)
}

// place is that of a run in a tree.
type place struct{ page, run int }

// seek finds the run in which a key is, or would be: the last that does not begin behind it, or the first. The tree is not empty.
func (t *tree) seek(key []byte) place {
	p := max(0, sort.Search(len(t.pages), func(i int) bool { return bytes.Compare(t.pages[i].first(), key) > 0 })-1)
	runs := t.pages[p].runs
	return place{p, max(0, sort.Search(len(runs), func(i int) bool { return bytes.Compare(runs[i].first, key) > 0 })-1)}
}

func (t *tree) at(p place) *run { return t.pages[p.page].runs[p.run] }

// next is the place behind one; false: there is none.
func (t *tree) next(p place) (place, bool) {
	if p.run++; p.run == len(t.pages[p.page].runs) {
		p.page, p.run = p.page+1, 0
	}
	return p, p.page < len(t.pages)
}

// prev is the place before one; false: there is none.
func (t *tree) prev(p place) (place, bool) {
	if p.run--; p.run < 0 {
		if p.page--; p.page < 0 {
			return p, false
		}
		p.run = len(t.pages[p.page].runs) - 1
	}
	return p, true
}

// rank is how many keys are below one.
func (t *tree) rank(key []byte) int64 {
	if len(t.pages) == 0 {
		return 0
	}
	at := t.seek(key)
	n := 0
	for _, p := range t.pages[:at.page] {
		n += p.n
	}
	for _, r := range t.pages[at.page].runs[:at.run] {
		n += r.n
	}
	_, _, before, _ := t.at(at).find(key)
	return int64(n + before)
}

// count is how many keys are in a span.
func (t *tree) count(span shard.Span) int64 {
	if span.Empty() {
		return 0
	}
	n := int64(t.n)
	if !span.Unbounded() {
		n = t.rank(span.End)
	}
	return n - t.rank(span.Start)
}

// put returns the tree with that element in the place of the key's; nil: without the key. was is the element that was there; nil: none. whole says that it
// was nearly all of its run.
func (t *tree) put(key, element []byte) (now tree, was []byte, whole bool) {
	if len(t.pages) == 0 {
		if element == nil {
			return *t, nil, false
		}
		return ofRuns([]*run{newRun(element, 1)}), nil, false
	}
	at := t.seek(key)
	r := t.at(at)
	from, to, _, found := r.find(key)
	n := r.n
	switch {
	case found:
		was, whole = r.data[from:to:to], 2*(to-from) >= len(r.data)
		n--
	case element == nil:
		return *t, nil, false
	}
	data := make([]byte, 0, len(r.data)-(to-from)+len(element))
	data = append(append(append(data, r.data[:from]...), element...), r.data[to:]...)
	if element != nil {
		n++
	}
	return t.replace(at, data, n), was, whole
}

// replace puts other keys in the place of a run.
func (t *tree) replace(at place, data []byte, n int) tree {
	runs := t.pages[at.page].runs
	from, to := at.run, at.run+1
	if n > 0 && len(data) < runBytes/4 {
		switch {
		case to < len(runs) && len(data)+len(runs[to].data) <= runBytes:
			data, n = slices.Concat(data, runs[to].data), n+runs[to].n
			to++
		case from > 0 && len(data)+len(runs[from-1].data) <= runBytes:
			from--
			data, n = slices.Concat(runs[from].data, data), n+runs[from].n
		}
	}
	return t.replacePage(at.page, slices.Concat(runs[:from], cut(data, n), runs[to:]))
}

func (t *tree) replacePage(at int, runs []*run) tree {
	from, to := at, at+1
	if len(runs) < pageRuns/4 {
		switch {
		case to < len(t.pages) && len(runs)+len(t.pages[to].runs) <= pageRuns:
			runs = slices.Concat(runs, t.pages[to].runs)
			to++
		case from > 0 && len(runs)+len(t.pages[from-1].runs) <= pageRuns:
			from--
			runs = slices.Concat(t.pages[from].runs, runs)
		}
	}
	var now []*page
	switch {
	case len(runs) > 2*pageRuns:
		half := len(runs) / 2
		now = []*page{newPage(slices.Clone(runs[:half])), newPage(slices.Clone(runs[half:]))}
	case len(runs) > 0:
		now = []*page{newPage(runs)}
	}
	return newTree(slices.Concat(t.pages[:from], now, t.pages[to:]))
}

// split returns the keys below one, and the others.
func (t *tree) split(key []byte) (left, right tree) {
	if len(t.pages) == 0 {
		return
	}
	at := t.seek(key)
	var l, r []*run
	for i, p := range t.pages[at.page].runs {
		switch {
		case i < at.run:
			l = append(l, p)
		case i > at.run:
			r = append(r, p)
		default:
			from, _, before, _ := p.find(key)
			l = append(l, cut(bytes.Clone(p.data[:from]), before)...)
			r = append(r, cut(bytes.Clone(p.data[from:]), p.n-before)...)
		}
	}
	pages := func(before []*page, runs []*run, behind []*page) tree {
		if len(runs) > 0 {
			before = append(slices.Clone(before), newPage(runs))
		}
		return newTree(slices.Concat(before, behind))
	}
	return pages(t.pages[:at.page], l, nil), pages(nil, r, t.pages[at.page+1:])
}

// Builder takes the keys of a span at one revision, in order, and makes a State of them.
type Builder struct {
	runs []*run
	data []byte // of the run that is being filled
	n    int
	last []byte
	some bool // last is one
	size int
}

// Add takes what comes next, as pieces of etcd's RangeResponse; they are copied. It fails where they are no such pieces, or out of order.
func (b *Builder) Add(pieces []byte) error {
	for len(pieces) > 0 {
		key, size, ok := pb.NextRangeKey(pieces)
		if !ok || b.some && bytes.Compare(key, b.last) <= 0 {
			return fmt.Errorf("%w: keys of a span that are no list in order", shard.ErrCorrupt)
		}
		if len(b.data) > 0 && len(b.data)+size > runBytes {
			b.flush()
		}
		at := len(b.data)
		b.data = append(b.data, pieces[:size]...)
		b.last, _, _ = pb.NextRangeKey(b.data[at:])
		b.some = true
		b.n++
		b.size += size
		pieces = pieces[size:]
	}
	return nil
}

// Size is how many bytes have come.
func (b *Builder) Size() int { return b.size }

func (b *Builder) flush() {
	if b.n > 0 {
		b.runs = append(b.runs, newRun(bytes.Clone(b.data), b.n))
		b.last = bytes.Clone(b.last)
		b.data, b.n = b.data[:0], 0
	}
}

// State is what has come, as it is at a revision.
func (b *Builder) State(rev int64) *State {
	b.flush()
	return &State{tip: ofRuns(b.runs), floor: rev, last: rev}
}
