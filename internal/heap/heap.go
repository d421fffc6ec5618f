package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	percentDefault = 100
	percentMax     = 10_000 // of a heap that is nearly empty
	liveMetric     = "/gc/heap/live:bytes"
)

// percent is what makes a heap of live bytes grow by at least growth bytes, and at least double.
func percent(live, growth uint64) int {
	if live == 0 {
		return percentMax
	}
	return int(min(max(growth*100/live, percentDefault), percentMax))
}

// keeper looks at the heap after every collection.
type keeper struct {
	growth uint64
	mu     struct {
		sync.Mutex
		now     int // the percentage that is set
		stopped bool
	}
}

// mark is garbage at once: its finalizer runs after every collection.
type mark struct {
	k *keeper
	_ [16]byte // not a tiny object: those share their fate with others
}

// KeepGrowth lets the heap grow by at least so many bytes between two collections, until stop is
// called. It does nothing where GOGC is set in the environment.
func KeepGrowth(bytes uint64) (stop func()) {
	if _, set := os.LookupEnv("GOGC"); set {
		return func() {}
	}
	k := &keeper{growth: bytes}
	k.mu.now = percentDefault
	k.collected()
	return k.stop
}

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.mu.stopped {
		k.mu.stopped = true
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
	runtime.SetFinalizer(&mark{k: k}, func(m *mark) { m.k.collected() })
}

// adjustLocked sets the percentage for what the last collection left. Setting it stops the world for a
// moment, so small differences are left alone.
func (k *keeper) adjustLocked() {
	sample := []metrics.Sample{{Name: liveMetric}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return // a runtime that does not say: Go's default stays
	}
	p := percent(sample[0].Value.Uint64(), k.growth)
	if d := p - k.mu.now; d > k.mu.now/8 || -d > k.mu.now/8 {
		debug.SetGCPercent(p)
		k.mu.now = p
	}
}
