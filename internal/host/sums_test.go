package host

import (
	"testing"
	"time"

	"pontoon/internal/backend"
)

// TestSumsAreShared: of a walk that is quick everybody has one of his own, and of one that takes long many have the same, for a while.
func TestSumsAreShared(t *testing.T) {
	now, walks, takes := time.Unix(1000, 0), 0, time.Duration(0)
	s := &sums{now: func() time.Time { return now }, walk: func() backend.Sizes {
		walks++
		now = now.Add(takes)
		return backend.Sizes{Keys: int64(walks)}
	}}
	for _, c := range []struct {
		takes time.Duration
		most  int
		least int
	}{{20 * time.Microsecond, 600, 600}, {2 * time.Millisecond, 61, 50}, {time.Minute, 13, 10}} {
		walks, takes = 0, c.takes
		now = now.Add(time.Hour)
		for range 600 { // ten gateways, each once a second
			if got := s.sizes(); got.Keys != int64(walks) {
				t.Fatalf("%d, after %d walks", got.Keys, walks)
			}
			now = now.Add(100 * time.Millisecond)
		}
		if walks > c.most || walks < c.least {
			t.Errorf("600 questions in a minute, of walks of %v: %d walks", c.takes, walks)
		}
	}
}
