package replica

import (
	"bytes"

	"pontoon/internal/counts"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// countsLimit bounds the counts of spans that a range caches. A list page by page needs, at one revision, the
// number of keys from each page's start on. With the count from the page before only the keys of that page are
// counted.
var countsLimit = counts.Limit{Entries: 64, Bytes: 64 << 10}

// countedKeysMin is the least count that is cached. Fewer keys are counted again as quickly.
const countedKeysMin = 256

// countingReader is a store that is final up to the revisions at which it counts.
type countingReader struct {
	eval.Reader
	cache *counts.Cache
	last  func() // puts the last count into the cache
}

// Count implements Reader.
func (r *countingReader) Count(span shard.Span, rev int64) (int64, error) {
	n, err := r.countByDifference(span, rev)
	if err == nil && n >= countedKeysMin {
		r.last = func() { r.cache.Put(span, rev, n) }
	}
	return n, err
}

// keep remembers the last count, which the caller knows to be of keys that the store had all the time.
func (r *countingReader) keep() {
	if r.last != nil {
		r.last()
	}
}

// countByDifference counts the keys in front of the span, where the count of both together is cached.
func (r *countingReader) countByDifference(span shard.Span, rev int64) (int64, error) {
	start, whole, ok := r.cache.Nearest(span, rev)
	if !ok {
		return r.Reader.Count(span, rev)
	}
	if bytes.Equal(start, span.Start) {
		if c := r.CompactRevision(); rev < c {
			return 0, &shard.CompactedError{Revision: c}
		}
		return whole, nil
	}
	before, err := r.Reader.Count(shard.Span{Start: start, End: span.Start}, rev)
	return whole - before, err
}
