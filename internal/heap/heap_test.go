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
		live uint64
		want int
	}{
		{0, percentMax}, {1 << 10, percentMax}, {32 << 20, 400}, {128 << 20, 100}, {1 << 30, 100},
	} {
		if got := percent(c.live, growth); got != c.want {
			t.Errorf("%d bytes alive: %d percent, want %d", c.live, got, c.want)
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

func TestKeepGrowth(t *testing.T) {
	if old := debug.SetGCPercent(percentDefault); old != percentDefault {
		defer debug.SetGCPercent(old)
	}
	t.Setenv("GOGC", "") // put back at the end
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	const load = 512 << 20
	plain := collections(load)
	stop := KeepGrowth(64 << 20)
	defer stop()
	if kept := collections(load); kept > 12 || kept >= plain {
		t.Errorf("%d collections for %d MiB of garbage, %d without", kept, load>>20, plain)
	}
	// Much that is alive brings Go's own rule back.
	big := make([]byte, 256<<20)
	deadline := time.Now().Add(10 * time.Second)
	for current() != percentDefault {
		if time.Now().After(deadline) {
			t.Fatalf("the percentage is %d with 256 MiB alive", current())
		}
		runtime.GC()
		runtime.Gosched()
	}
	runtime.KeepAlive(big)
	stop()
	if got := current(); got != percentDefault {
		t.Errorf("afterwards the percentage is %d", got)
	}
}

func TestTheOperatorDecides(t *testing.T) {
	t.Setenv("GOGC", "150")
	before := current()
	KeepGrowth(1 << 30)()
	if got := current(); got != before {
		t.Errorf("GOGC is set, and the percentage went from %d to %d", before, got)
	}
}

func current() int {
	p := debug.SetGCPercent(percentDefault)
	debug.SetGCPercent(p)
	return p
}
