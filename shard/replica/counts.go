package replica

import (
	"bytes"
	"slices"
	"sync"

	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// counts remembers how many keys stretches of the range had at a revision. Who lists page by page asks at
// one revision how many there are from each page's start on: with this, only the keys since the start of
// the page before have to be counted. What it holds is final, so it never becomes wrong.
type counts struct {
	mu   sync.Mutex
	kept []counted // a ring
	next int
}

// counted is what has been counted once.
type counted struct {
	rev  int64
	span shard.Span
	keys int64
}

const (
	// countedMax bounds what is remembered; the oldest goes first.
	countedMax = 64
	// countedKeysMin: what has fewer keys is counted again as quickly.
	countedKeysMin = 256
)

// countingReader is a store that is final up to the revisions at which it is asked to count.
type countingReader struct {
	eval.Reader
	known *counts
}

// Count implements Reader.
func (r countingReader) Count(span shard.Span, rev int64) (int64, error) {
	n, err := r.difference(span, rev)
	if err == nil && n >= countedKeysMin {
		r.known.keep(counted{rev: rev, span: shard.Span{Start: bytes.Clone(span.Start), End: bytes.Clone(span.End)}, keys: n})
	}
	return n, err
}

// difference counts what is before the span, where it is known how many keys there are together.
func (r countingReader) difference(span shard.Span, rev int64) (int64, error) {
	whole, ok := r.known.nearest(span, rev)
	if !ok {
		return r.Reader.Count(span, rev)
	}
	if bytes.Equal(whole.span.Start, span.Start) {
		if c := r.CompactRevision(); rev < c {
			return 0, &shard.CompactedError{Revision: c}
		}
		return whole.keys, nil
	}
	before, err := r.Reader.Count(shard.Span{Start: whole.span.Start, End: span.Start}, rev)
	return whole.keys - before, err
}

// nearest finds the smallest stretch that ends where span does and holds it.
func (c *counts) nearest(span shard.Span, rev int64) (best counted, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.kept {
		k := &c.kept[i]
		if k.rev != rev || shard.CompareEnd(k.span.End, span.End) != 0 || bytes.Compare(k.span.Start, span.Start) > 0 {
			continue
		}
		if !ok || bytes.Compare(k.span.Start, best.span.Start) > 0 {
			best, ok = *k, true
		}
	}
	return best, ok
}

func (c *counts) keep(k counted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := func(o counted) bool { return o.rev == k.rev && o.span.Equal(k.span) }
	switch {
	case slices.ContainsFunc(c.kept, same):
	case len(c.kept) < countedMax:
		c.kept = append(c.kept, k)
	default:
		c.kept[c.next] = k
		c.next = (c.next + 1) % countedMax
	}
}
