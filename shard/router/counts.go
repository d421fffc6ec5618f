package router

import (
	"context"
	"encoding/binary"
	"sync"

	"pontoon/internal/pb"
)

// counts remembers how many keys spans have at a revision. A client that lists page by page asks at one
// revision, each time from right behind the last key on: what is left behind a page, no range need count
// again. Where pages go to several nodes, each knows at least what the ranges behind the list's first hold.
// What a revision holds does not change, so nothing in here ever becomes wrong.
type counts struct {
	mu   sync.Mutex
	keys map[string]int64
	ring [countsMax]string // keys of the map in the order of their arrival
	next int
}

// countsMax bounds what is remembered; the oldest goes first.
const countsMax = 4096

// countable reports whether a read is a page of a list in key order.
func countable(op *pb.RangeOp) bool {
	return op.Limit > 0 && len(op.RangeEnd) > 0 && op.SortTarget == sortByKey && op.SortOrder != sortDescend &&
		!op.CountOnly && !filtered(op)
}

func countsKey(rev int64, start, end []byte) string {
	b := make([]byte, 0, 16+len(start)+len(end))
	b = binary.BigEndian.AppendUint64(b, uint64(rev))
	b = binary.AppendUvarint(b, uint64(len(start)))
	return string(append(append(b, start...), end...))
}

// get returns the number of keys from start to end at rev, if it is known.
func (c *counts) get(rev int64, start, end []byte) (n int64, ok bool) {
	key := countsKey(rev, start, end)
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok = c.keys[key]
	return n, ok
}

// put remembers that there are n.
func (c *counts) put(rev int64, start, end []byte, n int64) {
	key := countsKey(rev, start, end)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil {
		c.keys = make(map[string]int64)
	}
	if _, ok := c.keys[key]; !ok {
		delete(c.keys, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % countsMax
	}
	c.keys[key] = n
}

// behind is the first key that is above key.
func behind(key []byte) []byte { return append(key[:len(key):len(key)], 0) }

// recallCounts looks up the parts that have been counted at this revision.
func (r *Router) recallCounts(s *snapshot, parts []*part) {
	for _, p := range parts {
		if n, ok := r.counts.get(s.rev, p.span.Start, p.span.End); ok {
			p.count, p.known = n, true
		}
	}
}

// keepCounts remembers the counts of all parts that later pages of a list have, too: those behind its
// first.
func (r *Router) keepCounts(s *snapshot) {
	if s.total >= 0 {
		return // nobody has counted the parts
	}
	for _, p := range s.parts[1:] {
		r.counts.put(s.rev, p.span.Start, p.span.End, p.count)
	}
}

func (r *Router) countParts(ctx context.Context, s *snapshot, parts []*part) error {
	return r.each(ctx, parts, func(ctx context.Context, _ int, p *part) error {
		if p.known {
			return nil
		}
		resp, err := r.page(ctx, s, p, pageSpec{span: p.span, countOnly: true})
		if err != nil {
			return err
		}
		p.count, p.known = resp.Count, true
		return nil
	})
}

func total(parts []*part) int64 {
	var n int64
	for _, p := range parts {
		n += p.count
	}
	return n
}
