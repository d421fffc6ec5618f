package replica

import (
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// phase of a request on the leader.
type phase uint8

const (
	phaseNew       phase = iota
	phaseLease           // before the table: a lease has to be attached first
	phaseBlocked         // in the table: waits for those ahead, or for a lock, to be evaluated
	phaseReady           // in the table: will write, waits for its batch
	phaseAsked           // in the table: its batch's Allocate has been sent
	phaseProposed        // in the table: proposed
	phasePreparing       // in the table: a transaction's Prepare, proposed
	phaseReadsOnly       // writes nothing: waits for those that it was evaluated against
	phaseFencing         // writes nothing: fenced, or being evaluated at its revision
	phaseDone
)

// item is one request from its arrival to its answer.
type item struct {
	op       *pb.Op
	fp       footprint
	one      [1]access // backs fp.acc of a request on one key
	size     int
	deadline time.Time // zero: none
	reply    func(*pb.WriteResponse, error)
	tries    int       // entered the table so often
	prep     *prepItem // set: it locks for a transaction, and op is nil or an expiry
	missing  []int64   // leases of its puts that meta does not know

	phase   phase
	indexed bool   // the table's indexes hold it
	seq     uint64 // place in the table
	rev     int64  // 0: not allocated
	above   int64  // its revision will be above this (valid from phaseAsked)
	effects []effect

	keysKnown bool // an expiry: its accesses are the keys that it takes
	parked    bool

	blockers int     // it waits for so many others
	onReady  []*item // wait until it is evaluated, or gone
	onGone   []*item // wait until it has left the table
	fences   []*fence

	at     int64 // the revision at which a request that writes nothing is answered
	answer bool  // replied

	prev, next *item // the table's list
	listed     bool
}

// effect is a predicted change: a put of one key, a delete of one key, or a delete of a span.
type effect struct {
	key    []byte // nil: the span
	span   shard.Span
	delete bool
	value  []byte
	lease  int64
}

// writes reports whether later requests must look at the item's effects.
func (it *item) writes() bool {
	return it.phase == phaseReady || it.phase == phaseAsked || it.phase == phaseProposed
}

// inLog reports whether it has been proposed: only the log knows its fate.
func (it *item) inLog() bool { return it.phase == phaseProposed || it.phase == phasePreparing }

// holds reports whether a later overlapping request waits until it is evaluated, or has locked.
func (it *item) holds() bool { return it.phase == phaseBlocked || it.phase == phasePreparing }

// keyQueue holds the items on one key in arrival order.
type keyQueue struct{ items []*item }

// table is the range's in-flight table: who is on the way to the log, in order of arrival, found
// by key or by span.
type table struct {
	seq         uint64
	first, last *item
	count       int
	bytes       int
	// points finds the items that touch a key by name; wide are those with some wider span,
	// in arrival order. An item may be in both.
	points map[string]*keyQueue
	wide   []*item
	spare  []*keyQueue
	// leases counts items in the table by lease; expiring names the expiry that is in the table.
	leases   map[int64]int
	expiring map[int64]*item
}

func newTable() *table {
	return &table{
		points:   make(map[string]*keyQueue),
		leases:   make(map[int64]int),
		expiring: make(map[int64]*item),
	}
}

// enter places it at the table's end.
func (t *table) enter(it *item) {
	t.seq++
	it.seq = t.seq
	it.listed = true
	it.prev, it.next = t.last, nil
	if t.last != nil {
		t.last.next = it
	} else {
		t.first = it
	}
	t.last = it
	t.count++
	t.bytes += it.size
	for _, l := range it.fp.leases {
		t.leases[l]++
	}
	t.index(it)
}

func (t *table) index(it *item) {
	it.indexed = true
	wide := false
	for i := range it.fp.acc {
		a := &it.fp.acc[i]
		if a.key == nil {
			wide = true
			continue
		}
		q := t.points[string(a.key)]
		if q == nil {
			q = t.newQueue()
			t.points[string(a.key)] = q
		}
		if n := len(q.items); n == 0 || q.items[n-1] != it {
			q.items = append(q.items, it)
		}
	}
	if wide {
		t.wide = append(t.wide, it)
	}
}

func (t *table) newQueue() *keyQueue {
	if n := len(t.spare); n > 0 {
		q := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return q
	}
	return &keyQueue{}
}

// unindex hides it from later requests; it keeps its place among those counted.
func (t *table) unindex(it *item) {
	if !it.indexed {
		return
	}
	it.indexed = false
	wide := false
	for i := range it.fp.acc {
		a := &it.fp.acc[i]
		if a.key == nil {
			wide = true
			continue
		}
		q := t.points[string(a.key)]
		if q == nil {
			continue
		}
		q.items = without(q.items, it)
		if len(q.items) == 0 {
			delete(t.points, string(a.key))
			if len(t.spare) < 1024 {
				t.spare = append(t.spare, q)
			}
		}
	}
	if wide {
		t.wide = without(t.wide, it)
	}
}

// leave takes it out of the table.
func (t *table) leave(it *item) {
	if !it.listed {
		return
	}
	t.unindex(it)
	t.unlink(it)
	t.bytes -= it.size
	for _, l := range it.fp.leases {
		if t.leases[l]--; t.leases[l] == 0 {
			delete(t.leases, l)
		}
	}
}

func (t *table) unlink(it *item) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		t.first = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		t.last = it.prev
	}
	it.prev, it.next, it.listed = nil, nil, false
	t.count--
}

func without(items []*item, it *item) []*item {
	for i, x := range items {
		if x == it {
			copy(items[i:], items[i+1:])
			items[len(items)-1] = nil
			return items[:len(items)-1]
		}
	}
	return items
}

// conflicts calls fn for the indexed items that a new access of self must be ordered with: they
// overlap it and one of the two writes. An item may be reported more than once.
func (t *table) conflicts(self *item, fn func(*item)) {
	for i := range self.fp.acc {
		a := &self.fp.acc[i]
		t.overlapping(a, func(x *item, b *access) {
			if x != self && (a.write || b.write) {
				fn(x)
			}
		})
	}
}

// overlapping calls fn for every indexed access that overlaps a.
func (t *table) overlapping(a *access, fn func(*item, *access)) {
	each := func(x *item) {
		for i := range x.fp.acc {
			if b := &x.fp.acc[i]; b.overlaps(a) {
				fn(x, b)
			}
		}
	}
	if a.key != nil {
		if q := t.points[string(a.key)]; q != nil {
			for _, x := range q.items {
				for i := range x.fp.acc {
					if b := &x.fp.acc[i]; b.key != nil && string(b.key) == string(a.key) {
						fn(x, b)
					}
				}
			}
		}
		for _, x := range t.wide {
			for i := range x.fp.acc {
				if b := &x.fp.acc[i]; b.key == nil && b.span.Contains(a.key) {
					fn(x, b)
				}
			}
		}
		return
	}
	for x := t.first; x != nil; x = x.next {
		if x.indexed {
			each(x)
		}
	}
}

// onKey returns the indexed items that may change key, in arrival order.
func (t *table) onKey(key []byte, buf []*item) []*item {
	buf = buf[:0]
	if q := t.points[string(key)]; q != nil {
		buf = append(buf, q.items...)
	}
	if len(t.wide) == 0 {
		return buf
	}
	for _, x := range t.wide {
		for i := range x.fp.acc {
			if b := &x.fp.acc[i]; b.key == nil && b.span.Contains(key) {
				buf = insertBySeq(buf, x)
				break
			}
		}
	}
	return buf
}

func insertBySeq(items []*item, x *item) []*item {
	i := len(items)
	for i > 0 && items[i-1].seq > x.seq {
		i--
	}
	if i > 0 && items[i-1] == x {
		return items
	}
	items = append(items, nil)
	copy(items[i+1:], items[i:])
	items[i] = x
	return items
}
