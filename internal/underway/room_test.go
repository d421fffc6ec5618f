package underway

import (
	"sync"
	"testing"
)

func TestRoom(t *testing.T) {
	r := NewRoom(3, 100)
	for _, step := range []struct {
		size int
		want bool
	}{{500, true}, {1, false}} { // one of any size, and then no other
		if got := r.Enter(step.size); got != step.want {
			t.Fatalf("%d bytes: %v", step.size, got)
		}
	}
	r.Leave(500)
	for i, step := range []struct {
		size int
		want bool
	}{{60, true}, {41, false}, {40, true}, {0, true}, {0, false}} {
		if got := r.Enter(step.size); got != step.want {
			t.Errorf("%d: %d bytes: %v", i, step.size, got)
		}
	}
	if r.Count() != 3 || r.Bytes() != 100 || r.Refused() != 3 {
		t.Errorf("%d requests of %d bytes, %d refused", r.Count(), r.Bytes(), r.Refused())
	}
}

// TestRoomIsGivenBack: whoever is refused takes nothing, however many there are at once.
func TestRoomIsGivenBack(t *testing.T) {
	r := NewRoom(4, 1000)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 1000 {
				if !r.Enter(300) {
					continue
				}
				if n := r.Count(); n > 4+16 {
					t.Errorf("%d are in", n)
				}
				r.Leave(300)
			}
		})
	}
	wg.Wait()
	if r.Count() != 0 || r.Bytes() != 0 {
		t.Errorf("%d requests of %d bytes are left over", r.Count(), r.Bytes())
	}
}
