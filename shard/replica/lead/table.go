package lead

import (
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// phase of a request on the leader.
type phase uint8

const (
	phaseNew        phase = iota
	phaseAttaching        // before the table: waits for a lease to be attached
	phaseBlocked          // in the table: evaluation waits for requests ahead, or for a lock
	phaseReady            // in the table: will write, waits for its batch
	phaseAllocating       // in the table: its batch's Allocate has been sent
	phaseProposed         // in the table: proposed
	phasePreparing        // in the table: a transaction's Prepare, proposed
	phaseReadOnly         // writes nothing: waits for the writers on which it was evaluated
	phaseFencing          // writes nothing: fenced, or being evaluated at its revision
	phaseDone
)

// ItemOverhead is what a request in the table costs beside its bytes.
const ItemOverhead = 512

// Item is one request from its arrival to its answer.
type Item struct {
	Op       *pb.Op
	Fp       eval.Footprint
	AccBuf   [1]eval.Access // backs Fp.Acc of a request on one key
	Size     int
	Deadline time.Time // zero: none
	Reply    func(*pb.WriteResponse, error)
	By       shard.Checked // for whom and under which settings it was checked last
	retries  int           // restarts
	Prep     *prepItem     // set: it locks for a transaction, and Op is nil or an expiry
	Missing  []int64       // leases of its puts that meta does not know

	phase   phase
	parked  bool // listed in attachments.parked
	replied bool
	rev     int64 // 0: not allocated
	above   int64 // its revision will be above this (valid from phaseAllocating)
	At      int64 // the revision at which a read-only request is answered
	effects []effect
	async   *asyncEvaluation // nil: it has not been predicted asynchronously

	tablePos
	waiters
}

// tablePos is where an item stands in the table.
type tablePos struct {
	seq        uint64 // in order of arrival
	prev, next *Item
	listed     bool
	indexed    bool // the table's indexes hold it
}

// waiters counts what an item waits for, and lists what waits for it.
type waiters struct {
	blockers     int     // how many others it waits for
	evalWaiters  []*Item // wait until it is evaluated or has left the table
	leaveWaiters []*Item // wait until it has left the table
	fences       []*Fence
}

// effect is a predicted change: a put of one key, a delete of one key, or a delete of a span.
type effect struct {
	key    []byte // nil: the span
	span   shard.Span
	delete bool
	value  []byte
	lease  int64
}

// writes reports whether later requests must see the item's effects.
func (it *Item) writes() bool {
	return it.phase == phaseReady || it.phase == phaseAllocating || it.phase == phaseProposed
}

// inLog reports whether it has been proposed: only the log knows its fate.
func (it *Item) inLog() bool { return it.phase == phaseProposed || it.phase == phasePreparing }

// blocksLater reports whether later overlapping requests wait: until it is evaluated, or has locked.
func (it *Item) blocksLater() bool { return it.phase == phaseBlocked || it.phase == phasePreparing }

// keyQueue holds the items on one key in arrival order.
type keyQueue struct{ items []*Item }

// table is the range's in-flight table: the requests on their way to the log, in order of arrival. They are found by
// key or by span.
type table struct {
	seq         uint64
	first, last *Item
	count       int
	bytes       int
	// points finds the items with accesses to a single key. spanItems are those with accesses to a span, in arrival
	// order. An item may be in both.
	points    map[string]*keyQueue
	spanItems []*Item
	spare     []*keyQueue
	// leases counts items in the table by lease. expiring has the expiries in the table.
	leases   map[int64]int
	expiring map[int64]*Item
}

func newTable() *table {
	return &table{
		points:   make(map[string]*keyQueue),
		leases:   make(map[int64]int),
		expiring: make(map[int64]*Item),
	}
}

// enter appends it to the table.
func (t *table) enter(it *Item) {
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
	t.bytes += it.Size
	for _, l := range it.Fp.Leases {
		t.leases[l]++
	}
	t.index(it)
}

func (t *table) index(it *Item) {
	it.indexed = true
	wide := false
	for i := range it.Fp.Acc {
		a := &it.Fp.Acc[i]
		if a.Key == nil {
			wide = true
			continue
		}
		q := t.points[string(a.Key)]
		if q == nil {
			q = t.newQueue()
			t.points[string(a.Key)] = q
		}
		if n := len(q.items); n == 0 || q.items[n-1] != it {
			q.items = append(q.items, it)
		}
	}
	if wide {
		t.spanItems = append(t.spanItems, it)
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

// unindex hides it from later requests. It stays in the table.
func (t *table) unindex(it *Item) {
	if !it.indexed {
		return
	}
	it.indexed = false
	wide := false
	for i := range it.Fp.Acc {
		a := &it.Fp.Acc[i]
		if a.Key == nil {
			wide = true
			continue
		}
		q := t.points[string(a.Key)]
		if q == nil {
			continue
		}
		q.items = without(q.items, it)
		if len(q.items) == 0 {
			delete(t.points, string(a.Key))
			if len(t.spare) < 1024 {
				t.spare = append(t.spare, q)
			}
		}
	}
	if wide {
		t.spanItems = without(t.spanItems, it)
	}
}

// leave takes it out of the table.
func (t *table) leave(it *Item) {
	if !it.listed {
		return
	}
	t.unindex(it)
	t.unlink(it)
	t.bytes -= it.Size
	for _, l := range it.Fp.Leases {
		if t.leases[l]--; t.leases[l] == 0 {
			delete(t.leases, l)
		}
	}
}

func (t *table) unlink(it *Item) {
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

func without(items []*Item, it *Item) []*Item {
	for i, x := range items {
		if x == it {
			copy(items[i:], items[i+1:])
			items[len(items)-1] = nil
			return items[:len(items)-1]
		}
	}
	return items
}

// conflicts calls fn for the indexed items that overlap self where one of the two writes. An item may be
// reported more than once.
func (t *table) conflicts(self *Item, fn func(*Item)) {
	for i := range self.Fp.Acc {
		a := &self.Fp.Acc[i]
		t.overlapping(a, func(x *Item, b *eval.Access) {
			if x != self && (a.Write || b.Write) {
				fn(x)
			}
		})
	}
}

// overlapping calls fn for every indexed access that overlaps a.
func (t *table) overlapping(a *eval.Access, fn func(*Item, *eval.Access)) {
	each := func(x *Item) {
		for i := range x.Fp.Acc {
			if b := &x.Fp.Acc[i]; b.Overlaps(a) {
				fn(x, b)
			}
		}
	}
	if a.Key != nil {
		if q := t.points[string(a.Key)]; q != nil {
			for _, x := range q.items {
				for i := range x.Fp.Acc {
					if b := &x.Fp.Acc[i]; b.Key != nil && string(b.Key) == string(a.Key) {
						fn(x, b)
					}
				}
			}
		}
		for _, x := range t.spanItems {
			for i := range x.Fp.Acc {
				if b := &x.Fp.Acc[i]; b.Key == nil && b.Span.Contains(a.Key) {
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
func (t *table) onKey(key []byte, buf []*Item) []*Item {
	buf = buf[:0]
	if q := t.points[string(key)]; q != nil {
		buf = append(buf, q.items...)
	}
	if len(t.spanItems) == 0 {
		return buf
	}
	for _, x := range t.spanItems {
		for i := range x.Fp.Acc {
			if b := &x.Fp.Acc[i]; b.Key == nil && b.Span.Contains(key) {
				buf = insertBySeq(buf, x)
				break
			}
		}
	}
	return buf
}

func insertBySeq(items []*Item, x *Item) []*Item {
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
