package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	const growth = 128 << 20
	for _, c := range []struct {
		live, pointers uint64
		want           int
	}{
		{0, 0, 3200}, {1 << 10, 1 << 10, 3200}, {heapMin, heapMin, 3200}, {32 << 20, 32 << 20, 400}, {128 << 20, 0, 100}, {1 << 30, 1 << 30, 100},
		{256 << 20, 64 << 20, 50}, {1 << 30, 512 << 20, 50}, {1 << 30, 2 << 30, 100},
	} {
		if got := percent(state{live: c.live, pointers: c.pointers}, growth); got != c.want {
			t.Errorf("%d bytes alive, %d of them with pointers: %d percent, want %d", c.live, c.pointers, got, c.want)
		}
	}
}

func TestGrowth(t *testing.T) {
	const most = 128 << 20
	for _, c := range []struct {
		allocated uint64
		in        time.Duration
		want      uint64
	}{
		{0, time.Minute, growthMin},
		{1 << 20, time.Minute, growthMin},
		{64 << 20, window, 64 << 20},
		{64 << 20, 2 * window, 32 << 20},
		{64 << 20, window / 8, most},
		{1 << 40, window, most},
		{1 << 20, 0, most},
	} {
		if got := growth(c.allocated, c.in, most); got != c.want {
			t.Errorf("%d bytes allocated in %v: growth %d, want %d", c.allocated, c.in, got, c.want)
		}
	}
}

func TestReturnable(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		s         state
		allocated uint64 // in ten seconds
		want      uint64
		worthIt   bool
	}{
		{state{}, 0, 0, false},
		{state{live: 100, objects: 50 + growthMin, free: 50}, 0, 0, false},
		{state{live: 100, objects: 50 + growthMin, free: 100}, 0, 50, false},
		{state{live: 8 * mib, pointers: 6 * mib, objects: 15 * mib}, mib, mib, false},
		// Idle: what is dead goes, though there is as much alive.
		{state{live: 60 * mib, pointers: 50 * mib, objects: 100 * mib}, 0, 36 * mib, true},
		{state{live: 60 * mib, pointers: 50 * mib, objects: 100 * mib}, 3 * mib, 22 * mib, true},
		// Not idle: it would be back within a minute.
		{state{live: 60 * mib, pointers: 50 * mib, objects: 100 * mib}, 8 * mib, 0, false},
		{state{live: 60 * mib, pointers: 50 * mib, objects: 130 * mib}, 1000 * mib, 20 * mib, true},
		// Much to go through for little.
		{state{live: 400 * mib, pointers: 400 * mib, objects: 480 * mib}, 0, 76 * mib, false},
		{state{live: 400 * mib, pointers: 400 * mib, objects: 520 * mib}, 0, 116 * mib, true},
	} {
		got := c.s.returnable(c.allocated, 10*time.Second)
		if got != c.want || c.s.worthIt(got) != c.worthIt {
			t.Errorf("%+v, %d bytes in ten seconds: %d to give back, worth it: %v; want %d, %v", c.s, c.allocated, got, c.s.worthIt(got), c.want, c.worthIt)
		}
	}
}

// collections counts those that a load of garbage costs.
func collections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range bytes >> 16 {
		sink = make([]byte, 1<<16)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

var sink []byte

func unsetGOGC(t *testing.T) {
	if old := debug.SetGCPercent(percentDefault); old != percentDefault {
		t.Cleanup(func() { debug.SetGCPercent(old) })
	}
	t.Setenv("GOGC", "") // put back at the end
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
}

// until collects until ok, which the finalizers that follow a collection bring about.
func until(t *testing.T, what string, ok func() bool) {
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: the percentage is %d", what, current())
		}
		runtime.GC()
		runtime.Gosched()
	}
}

func TestKeep(t *testing.T) {
	unsetGOGC(t)
	const load = 512 << 20
	plain := collections(load)
	stop := Keep(64 << 20)
	defer stop()
	collections(load) // from here on the rate of allocations is known
	if kept := collections(load); kept >= plain/2 {
		t.Errorf("%d collections for %d MiB of garbage, %d without", kept, load>>20, plain)
	}
	// Much that is alive brings Go's own rule back, unless there are no pointers in it.
	bytes := make([]byte, 256<<20)
	until(t, "256 MiB of bytes alive", func() bool { return current() < percentDefault/2 })
	runtime.KeepAlive(bytes)
	pointers := make([]*byte, 256<<20/8)
	until(t, "256 MiB of pointers alive", func() bool { return current() > percentDefault*3/4 })
	runtime.KeepAlive(pointers)
	stop()
	if got := current(); got != percentDefault {
		t.Errorf("afterwards the percentage is %d", got)
	}
}

// TestMemoryIsGivenBack: what is dead is collected once little is allocated, not while it is.
func TestMemoryIsGivenBack(t *testing.T) {
	unsetGOGC(t)
	k := &keeper{most: 1 << 30}
	k.idle = time.AfterFunc(time.Hour, func() {})
	defer k.stop()
	debug.SetGCPercent(10_000)
	alive := make([]*byte, 64<<20/8)
	debug.FreeOSMemory()
	s, ok := read()
	if !ok || s.worth() < 64<<20 {
		t.Skipf("the runtime does not say: %+v", s)
	}
	k.mu.looked = look{time.Now().Add(-idleAfter), s.allocated}
	for range 40 << 20 >> 16 {
		sink = make([]byte, 1<<16)
	}
	before, _ := read()
	k.giveBack()
	if now, _ := read(); now.objects < before.objects {
		t.Errorf("collected while much is allocated: %+v, before %+v", now, before)
	}
	k.mu.looked.at = time.Now().Add(-idleAfter) // and nothing was allocated since
	k.giveBack()
	if after, _ := read(); after.objects+after.free+worthReturning > before.objects+before.free {
		t.Errorf("still there: %+v, before %+v", after, before)
	}
	runtime.KeepAlive(alive)
}

func TestTheOperatorDecides(t *testing.T) {
	t.Setenv("GOGC", "150")
	before := current()
	Keep(1 << 30)()
	if got := current(); got != before {
		t.Errorf("GOGC is set, and the percentage went from %d to %d", before, got)
	}
}

func current() int {
	p := debug.SetGCPercent(percentDefault)
	debug.SetGCPercent(p)
	return p
}
