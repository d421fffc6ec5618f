package router

import (
	"encoding/binary"
	"sync"

	"pontoon/internal/pb"
)

// counts remembers how many keys are left behind the pages that have been served. A client that lists page
// by page asks at one revision, each time from right behind the last key on: that many, and no range need
// count them again. What a revision holds does not change, so nothing in here ever becomes wrong.
type counts struct {
	mu   sync.Mutex
	left map[string]int64
	ring [countsMax]string // keys of left in the order of their arrival
	next int
}

// countsMax bounds the pages that are remembered; the oldest go first.
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

// get returns the number of keys from start on at rev, if a page has ended there.
func (c *counts) get(rev int64, start, end []byte) (n int64, ok bool) {
	key := countsKey(rev, start, end)
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok = c.left[key]
	return n, ok
}

// put remembers that n keys follow after last at rev.
func (c *counts) put(rev int64, last, end []byte, n int64) {
	key := countsKey(rev, append(last[:len(last):len(last)], 0), end)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left = make(map[string]int64)
	}
	if _, ok := c.left[key]; !ok {
		delete(c.left, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % countsMax
	}
	c.left[key] = n
}
