package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sync"
	"testing/synctest"
	"time"
)

// event is something that happens at a virtual time.
type event struct {
	at  time.Time
	seq uint64
	key string
	fn  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// posted is what a goroutine has asked for; key sorts what comes at one instant.
type posted struct {
	key string
	at  time.Time
	fn  func()
}

// timeline is virtual time with what happens in it, one event after the other, and the trace of that. It
// ends at the first broken promise. Its fields belong to the loop, except for the inbox.
type timeline struct {
	start  time.Time
	step   func() bool // lets every host do what it may do now; false: nothing was left to do
	queue  eventHeap
	seq    uint64
	events int // that have happened
	hash   interface {
		io.Writer
		Sum64() uint64
	}
	trace io.Writer // may be nil
	err   error     // the first failure

	wake  chan struct{}
	inbox struct {
		sync.Mutex
		items []posted
	}
}

func newTimeline(trace io.Writer, step func() bool) *timeline {
	return &timeline{start: time.Now(), step: step, hash: fnv.New64a(), trace: trace, wake: make(chan struct{}, 1)}
}

// failf notes the first broken promise.
func (t *timeline) failf(format string, args ...any) {
	if t.err == nil {
		t.err = fmt.Errorf(format+" [%v]", append(args, time.Since(t.start))...)
	}
}

// loop runs events until done, or until something broke. limit bounds the virtual time.
func (t *timeline) loop(limit time.Duration, done func() bool) bool {
	end := time.Now().Add(limit)
	for t.err == nil && !done() {
		t.settle()
		if len(t.queue) == 0 {
			t.failf("the simulation has nothing to do")
			return false
		}
		next := t.queue[0]
		if next.at.After(end) {
			return false
		}
		if d := time.Until(next.at); d > 0 && !t.sleep(d) {
			continue
		}
		heap.Pop(&t.queue)
		t.events++
		t.note("%s", next.key)
		next.fn()
	}
	return t.err == nil
}

// sleep lets virtual time pass; false if a goroutine has asked for something before.
func (t *timeline) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.wake:
		return false
	}
}

// settle waits until all goroutines rest and every host has done what it may do now, and takes what
// they have asked for.
func (t *timeline) settle() {
	for {
		synctest.Wait()
		did := t.step()
		synctest.Wait() // what a step has set going belongs to this round, however fast it was
		if !t.collect() && !did {
			return
		}
	}
}

// collect turns the inbox into events, in an order that does not depend on goroutines.
func (t *timeline) collect() bool {
	t.inbox.Lock()
	items := t.inbox.items
	t.inbox.items = nil
	t.inbox.Unlock()
	slices.SortStableFunc(items, func(a, b posted) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key))
	})
	for _, p := range items {
		t.push(p.at, p.key, p.fn)
	}
	return len(items) > 0
}

// post asks for fn to be called by the loop, d from now. Any goroutine may.
func (t *timeline) post(key string, d time.Duration, fn func()) {
	t.inbox.Lock()
	t.inbox.items = append(t.inbox.items, posted{key, time.Now().Add(d), fn})
	t.inbox.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// push adds an event; the loop alone may.
func (t *timeline) push(at time.Time, key string, fn func()) {
	t.seq++
	heap.Push(&t.queue, event{at, t.seq, key, fn})
}

// after is push with a delay.
func (t *timeline) after(d time.Duration, key string, fn func()) { t.push(time.Now().Add(d), key, fn) }

// note adds to the trace, by which two runs are compared.
func (t *timeline) note(format string, args ...any) {
	line := format
	if len(args) > 0 {
		line = fmt.Sprintf(format, args...)
	}
	fmt.Fprintf(t.hash, "%d %s\n", time.Since(t.start), line)
	if t.trace != nil {
		fmt.Fprintf(t.trace, "%v %s\n", time.Since(t.start), line)
	}
}
