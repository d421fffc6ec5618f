package front

import (
	"testing"
	"time"

	"pontoon/internal/link"
)

// TestForHowLong: what is missing is as old as the first moment at which a revision above was known.
func TestForHowLong(t *testing.T) {
	var h heard
	began := time.Unix(1000, 0)
	at := func(n int) time.Time { return began.Add(time.Duration(n) * link.Interval) }
	if d := h.since(0, at(0)); d != 0 {
		t.Errorf("nothing is known, and it lags for %v", d)
	}
	for n, rev := range []int64{10, 10, 20, 30} {
		h.note(at(n), rev)
	}
	h.note(at(3).Add(link.Interval/4), 99) // too soon: it is noted with the next
	for rev, want := range map[int64]time.Duration{30: 0, 99: 0, 29: link.Interval, 20: link.Interval, 19: 2 * link.Interval, 10: 2 * link.Interval, 9: 4 * link.Interval, 0: 4 * link.Interval} {
		if got := h.since(rev, at(4)); got != want {
			t.Errorf("closed at %d it lags for %v, want %v", rev, got, want)
		}
	}
	for n := range 3 * heardMax {
		h.note(at(10+n), int64(100+n))
	}
	if len(h.moments) != heardMax || h.since(0, at(10+3*heardMax)) != heardMax*link.Interval {
		t.Errorf("%d moments, the oldest %v ago", len(h.moments), h.since(0, at(10+3*heardMax)))
	}
}
