package counts

import (
	"slices"
	"sync"

	"pontoon/internal/fifo"
	"pontoon/shard"
)

// Cache holds the counts that were put in last. Safe for concurrent use.
type Cache struct {
	// Limit is set before the first use; without it nothing is kept.
	Limit Limit

	mu    sync.Mutex
	lists map[listKey]*list
	order fifo.Queue[oldest]
	bytes int
}

// Limit bounds a Cache: the oldest counts go first, and one that would take an eighth of the bytes is not
// kept at all, for a client's keys are as long as it likes.
type Limit struct {
	Entries int
	Bytes   int
}

// listKey is what the pages of a list have in common.
type listKey struct {
	rev int64
	end string
}

// list is what is known of them, if that is anything.
type list struct {
	key    listKey
	counts []counted // ascending by start
}

// counted is how many keys there are from start to the end of the list.
type counted struct {
	start string
	keys  int64
}

// find returns where start is, or would be.
func (l *list) find(start []byte) (int, bool) {
	if l == nil {
		return 0, false
	}
	if n := len(l.counts); l.counts[n-1].start <= string(start) { // as pages come
		if l.counts[n-1].start == string(start) {
			return n - 1, true
		}
		return n, false
	}
	return slices.BinarySearchFunc(l.counts, start, func(c counted, start []byte) int {
		switch {
		case c.start < string(start):
			return -1
		case c.start > string(start):
			return 1
		}
		return 0
	})
}

// oldest names a count, in the order of arrival.
type oldest struct {
	list  *list
	start string
}

// entryBytes is about what a count takes beside its keys.
const entryBytes = 128

func weight(start, end string) int { return len(start) + len(end) + entryBytes }

// Exact returns the number of keys in span at rev, if it is known.
func (c *Cache) Exact(span shard.Span, rev int64) (keys int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lists[listKey{rev, string(span.End)}]
	if i, found := l.find(span.Start); found {
		return l.counts[i].keys, true
	}
	return 0, false
}

// Nearest returns the smallest span that is known at rev, ends where span does and holds it: where it starts,
// and how many keys it has.
func (c *Cache) Nearest(span shard.Span, rev int64) (start []byte, keys int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lists[listKey{rev, string(span.End)}]
	i, found := l.find(span.Start)
	switch {
	case found:
		return span.Start, l.counts[i].keys, true
	case i > 0:
		return []byte(l.counts[i-1].start), l.counts[i-1].keys, true
	}
	return nil, 0, false
}

// Put remembers that there are so many keys in span at rev. It keeps none of the span's bytes.
func (c *Cache) Put(span shard.Span, rev, keys int64) {
	if len(span.Start)+len(span.End)+entryBytes > c.Limit.Bytes/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lists[listKey{rev, string(span.End)}]
	i, found := l.find(span.Start)
	if found {
		return // it cannot be another
	}
	if l == nil {
		if c.lists == nil {
			c.lists = make(map[listKey]*list)
		}
		l = &list{key: listKey{rev, string(span.End)}}
		c.lists[l.key] = l
	}
	start := string(span.Start)
	l.counts = slices.Insert(l.counts, i, counted{start: start, keys: keys})
	c.order.Push(oldest{list: l, start: start})
	c.bytes += weight(start, l.key.end)
	for c.order.Len() > c.Limit.Entries || c.bytes > c.Limit.Bytes {
		c.forget()
	}
}

// forget drops the oldest count.
func (c *Cache) forget() {
	o, _ := c.order.Pop()
	l := o.list
	c.bytes -= weight(o.start, l.key.end)
	if l.counts[0].start == o.start { // pages come in order, and go so
		l.counts[0] = counted{}
		l.counts = l.counts[1:]
	} else {
		i, _ := l.find([]byte(o.start))
		l.counts = slices.Delete(l.counts, i, i+1)
	}
	if len(l.counts) == 0 {
		delete(c.lists, l.key)
	}
}
