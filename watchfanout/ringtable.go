package watchfanout

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// ringEras is into how many eras the time is divided for which events are remembered.
const ringEras = 8

// ringTable holds the rings of all feeds, and forgets what is oldest in any of them where there is too much, or after a while. Its lock is taken after that of a
// feed, and no other under it.
type ringTable struct {
	bytesMax int // 0: nothing is remembered
	age      time.Duration
	after    func(time.Duration, func())

	mu      sync.Mutex
	oldest  ringHeap // rings that remember something, the one with the oldest item first
	bytes   int
	seq     uint64
	era     uint64
	ticking bool // the next era is on its way
	closed  bool
}

func (t *ringTable) init(cfg *Config) {
	t.bytesMax, t.age, t.after = cfg.RingBytes, cfg.RingAge, cfg.AfterFunc
}

// restart says that the ring's feed may lack events from here on.
func (t *ringTable) restart(r *ring) {
	if t.bytesMax == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := r.bytes
	r.restart()
	t.bytes += r.bytes - before
	if r.items.Len() == 0 && before > 0 {
		heap.Remove(&t.oldest, r.at)
	}
}

// add remembers an item of the ring's feed.
func (t *ringTable) add(r *ring, evs []*shard.Event, closed int64) {
	if t.bytesMax == 0 {
		return
	}
	bytes := weigh(evs)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(r, evs, bytes, closed)
}

func (t *ringTable) addLocked(r *ring, evs []*shard.Event, bytes int, closed int64) {
	t.seq++
	was := r.items.Len()
	r.add(ringItem{evs: evs, bytes: bytes, seq: t.seq, era: t.era}, closed)
	if was == 0 && r.items.Len() > 0 {
		heap.Push(&t.oldest, r)
	}
	t.bytes += bytes
	for t.bytes > t.bytesMax {
		t.forgetLocked()
	}
	t.tickLocked()
}

// forgetLocked forgets the oldest item of all.
func (t *ringTable) forgetLocked() {
	r := t.oldest[0]
	before := r.bytes
	r.forget()
	t.bytes -= before - r.bytes
	if r.items.Len() == 0 {
		heap.Remove(&t.oldest, 0)
	} else {
		heap.Fix(&t.oldest, 0)
	}
}

// tickLocked lets the next era begin in time, as long as something is remembered.
func (t *ringTable) tickLocked() {
	if t.ticking || t.closed || len(t.oldest) == 0 {
		return
	}
	t.ticking = true
	t.after(t.age/ringEras, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ticking = false
		t.era++
		for len(t.oldest) > 0 && t.oldest[0].items.Items()[0].era+ringEras < t.era {
			t.forgetLocked()
		}
		t.tickLocked()
	})
}

// close ends the eras.
func (t *ringTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// setWhole says that the ring's feed lacks nothing above rev.
func (t *ringTable) setWhole(r *ring, rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.setWhole(rev)
}

// cover says which keys the ring's feed brings from here on.
func (t *ringTable) cover(r *ring, c *coverage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.cover = c
}

// inherit lets the ring of a child begin with what its parent's has of its keys, which are those from at on.
func (t *ringTable) inherit(child, parent *ring, at []byte) {
	if t.bytesMax == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	closed, whole, dropped := parent.closed, parent.whole, parent.dropped
	for _, item := range slices.Clone(parent.items.Items()) {
		evs := make([]*shard.Event, 0, len(item.evs))
		for _, e := range item.evs {
			if string(e.KV.Key) >= string(at) {
				evs = append(evs, e)
			}
		}
		t.addLocked(child, evs, weigh(evs), closed)
	}
	if mutate.On(mutate.RingInherits) {
		whole, dropped = 0, 0
	}
	child.closed, child.whole, child.dropped = closed, whole, max(dropped, child.dropped)
}

// read is a read of history, if the ring has all that is asked for.
func (t *ringTable) read(r *ring, spans []shard.Span, from, to int64, maxBytes int) (evs []*shard.Event, next int64, ok bool) {
	t.mu.Lock()
	if ok = t.bytesMax > 0 && r.covers(spans, from, to); !ok {
		t.mu.Unlock()
		return nil, 0, false
	}
	items := r.between(from, to)
	t.mu.Unlock()
	evs, next = ringPick(items, spans, from, to, maxBytes)
	return evs, next, true
}

// held is how many bytes are remembered.
func (t *ringTable) held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes
}

// ringHeap is a heap.Interface.
type ringHeap []*ring

func (h ringHeap) Len() int { return len(h) }
func (h ringHeap) Less(i, j int) bool {
	return h[i].items.Items()[0].seq < h[j].items.Items()[0].seq
}
func (h ringHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *ringHeap) Push(x any) {
	r := x.(*ring)
	r.at = len(*h)
	*h = append(*h, r)
}
func (h *ringHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}
