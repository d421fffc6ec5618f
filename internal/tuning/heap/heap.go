package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	percentDefault = 100
	heapMin        = 4 << 20

	// window is the time between two collections that growth aims at.
	window    = 2 * time.Second
	growthMin = 4 << 20

	// idleAfter is how long after a collection it is asked whether there is memory to give back, and worthReturning how much that has to be at least: it
	// costs a collection. What is allocated in idleWindow is kept, so that those collections are further apart than that.
	idleAfter      = 10 * time.Second
	idleWindow     = time.Minute
	worthReturning = 16 << 20
)

// growth is how far the heap of a process may grow that has allocated so many bytes in a time: as far
// as it does within a window, at most by most.
func growth(allocated uint64, in time.Duration, most uint64) uint64 {
	if in <= 0 {
		return most
	}
	perWindow := float64(allocated) * float64(window) / float64(in)
	return uint64(min(max(perWindow, growthMin), float64(most)))
}

// percent is what makes a heap grow by growth bytes, or by as many as a collection has to go through where
// these are more. Go counts its percentage of live bytes, stacks and globals together, and of heapMin at least.
func percent(s state, growth uint64) int {
	return int(max(growth, s.worth()) * 100 / max(s.live+s.stacks+s.globals, heapMin))
}

// state is what the runtime says of the heap.
type state struct {
	live      uint64 // bytes that the last collection left
	pointers  uint64 // bytes of the heap that a collection goes through: values and tables of numbers are not
	stacks    uint64 // bytes that it goes through beside them
	globals   uint64
	objects   uint64 // bytes in objects, dead ones not collected yet among them
	free      uint64 // bytes that are kept for later
	allocated uint64 // bytes since the start
}

// worth is what a heap grows by at least before it is collected: as much as that has to go through.
func (s state) worth() uint64 {
	return max(min(s.pointers, s.live)+s.stacks+s.globals, growthMin)
}

// returnable is how much a collection now would give back, at least, for a while: what is kept beyond what is alive and what will be allocated in idleWindow, if
// that goes on as it did in this time, at most the least growth. So a busy process keeps that, and one on which a load has ended, such as of clients that
// connect, does not keep as much again as is alive.
func (s state) returnable(allocated uint64, in time.Duration) uint64 {
	room := s.worth()
	if in > 0 {
		room = min(room, max(growthMin, uint64(float64(allocated)*float64(idleWindow)/float64(in))))
	}
	if held, needed := s.objects+s.free, s.live+room; held > needed {
		return held - needed
	}
	return 0
}

// worthIt reports whether so much is worth a collection: it has to be a part of what that goes through, too.
func (s state) worthIt(returned uint64) bool { return returned >= max(worthReturning, s.worth()/4) }

var metricNames = [...]string{
	"/gc/heap/live:bytes", "/gc/scan/heap:bytes", "/gc/scan/stack:bytes", "/gc/scan/globals:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes", "/gc/heap/allocs:bytes",
}

// read asks the runtime; false where it does not say.
func read() (s state, ok bool) {
	var samples [len(metricNames)]metrics.Sample
	for i, name := range metricNames {
		samples[i].Name = name
	}
	metrics.Read(samples[:])
	for i, to := range []*uint64{&s.live, &s.pointers, &s.stacks, &s.globals, &s.objects, &s.free, &s.allocated} {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return state{}, false
		}
		*to = samples[i].Value.Uint64()
	}
	return s, true
}

// keeper looks at the heap after every collection.
type keeper struct {
	most uint64
	idle *time.Timer
	mu   struct {
		sync.Mutex
		now       int // the percentage that is set
		last      time.Time
		allocated uint64 // at the last collection
		looked    look
		stopped   bool
	}
}

// look is when it was last looked, at a collection or because there was none, and how much had been allocated by then.
type look struct {
	at        time.Time
	allocated uint64
}

// mark is garbage at once: its finalizer runs after every collection.
type mark struct {
	k *keeper
	_ [16]byte // not a tiny object: those share their fate with others
}

// Keep lets the heap grow by what is allocated in two seconds between two collections, at most by so
// many bytes where that is more than what a collection goes through, until stop is called. It does nothing
// where GOGC is set in the environment.
func Keep(most uint64) (stop func()) {
	if _, set := os.LookupEnv("GOGC"); set {
		return func() {}
	}
	k := &keeper{most: most}
	k.mu.now, k.mu.last = percentDefault, time.Now()
	k.idle = time.AfterFunc(idleAfter, k.giveBack)
	k.collected()
	return k.stop
}

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.mu.stopped {
		k.mu.stopped = true
		k.idle.Stop()
		debug.SetGCPercent(percentDefault)
	}
}

// collected is called after every collection, and asks to be called after the next.
func (k *keeper) collected() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.stopped {
		return
	}
	k.adjustLocked()
	k.idle.Reset(idleAfter)
	runtime.SetFinalizer(&mark{k: k}, func(m *mark) { m.k.collected() })
}

// adjustLocked sets the percentage for what the last collection left. Setting it stops the world for a
// moment, so small differences are left alone.
func (k *keeper) adjustLocked() {
	s, ok := read()
	if !ok {
		return // a runtime that does not say: Go's default stays
	}
	now := time.Now()
	p := percent(s, growth(s.allocated-k.mu.allocated, now.Sub(k.mu.last), k.most))
	k.mu.last, k.mu.allocated = now, s.allocated
	k.mu.looked = look{now, s.allocated}
	if d := p - k.mu.now; d > k.mu.now/8 || -d > k.mu.now/8 {
		debug.SetGCPercent(p)
		k.mu.now = p
	}
}

// giveBack is called when there has been no collection for a while: the process has little to do, and
// may hold what a load has left behind.
func (k *keeper) giveBack() {
	if k.returns() {
		debug.FreeOSMemory() // collects first, which comes back here later
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.mu.stopped {
		k.idle.Reset(idleAfter)
	}
}

// returns reports whether there is memory to give back.
func (k *keeper) returns() bool {
	s, ok := read()
	if !ok {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	before, now := k.mu.looked, time.Now()
	k.mu.looked = look{now, s.allocated}
	return s.worthIt(s.returnable(s.allocated-before.allocated, now.Sub(before.at)))
}
