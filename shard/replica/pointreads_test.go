package replica

import (
	"sync"
	"testing"
)

// Readers are started as the queue grows, never more than allowed, and every read is taken once.
func TestPointReads(t *testing.T) {
	var p pointReads
	started := 0
	for i := range 1000 {
		if p.add(fencedRead{index: uint64(i + 1)}) {
			started++
		}
		if want := min(1+i/pointReadsWaiting, pointReadersMax); started != want {
			t.Fatalf("%d reads wait, %d readers, want %d", i+1, started, want)
		}
	}
	var mu sync.Mutex
	seen := map[uint64]int{}
	var wg sync.WaitGroup
	for range started {
		wg.Go(func() {
			p.each(func(f fencedRead) {
				mu.Lock()
				defer mu.Unlock()
				seen[f.index]++
			})
		})
	}
	wg.Wait()
	for i := range uint64(1000) {
		if seen[i+1] != 1 {
			t.Errorf("read %d was taken %d times", i+1, seen[i+1])
		}
	}
	if !p.add(fencedRead{}) {
		t.Error("no reader is started after all have left")
	}
}

// One reader takes what comes in the meantime.
func TestPointReadsInOrder(t *testing.T) {
	var p pointReads
	p.add(fencedRead{index: 1})
	var got []uint64
	p.each(func(f fencedRead) {
		got = append(got, f.index)
		if f.index < 5 && p.add(fencedRead{index: f.index + 1}) {
			t.Errorf("a second reader for read %d", f.index+1)
		}
	})
	if len(got) != 5 || got[4] != 5 {
		t.Errorf("taken: %v", got)
	}
}
