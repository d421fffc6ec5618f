package replica

import (
	"bytes"

	"pontoon/internal/counts"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// countsLimit bounds what a range remembers of counted spans: who lists page by page asks at one revision how
// many keys there are from each page's start on, and with this only those since the start of the page before
// have to be counted.
var countsLimit = counts.Limit{Entries: 64, Bytes: 64 << 10}

// countedKeysMin: what has fewer keys is counted again as quickly.
const countedKeysMin = 256

// countingReader is a store that is final up to the revisions at which it is asked to count.
type countingReader struct {
	eval.Reader
	known *counts.Cache
}

// Count implements Reader.
func (r countingReader) Count(span shard.Span, rev int64) (int64, error) {
	n, err := r.difference(span, rev)
	if err == nil && n >= countedKeysMin {
		r.known.Put(span, rev, n)
	}
	return n, err
}

// difference counts what is before the span, where it is known how many keys there are together.
func (r countingReader) difference(span shard.Span, rev int64) (int64, error) {
	start, whole, ok := r.known.Nearest(span, rev)
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
