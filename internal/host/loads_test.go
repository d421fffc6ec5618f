package host

import (
	"testing"
	"time"
)

type fakeLoad struct{ units, seconds, unit, processor float64 }

func (f *fakeLoad) LoadUnits() float64 { return f.units }
func (f *fakeLoad) LoadSeen(seconds, unit, processor float64) {
	f.seconds, f.unit, f.processor = seconds, unit, processor
}

// TestLoadsAreShared: what the process has used of the processors is shared out by what each range has done, up to a bound.
func TestLoadsAreShared(t *testing.T) {
	a, b := &fakeLoad{units: 30_000}, &fakeLoad{units: 10_000}
	now, used := time.Unix(1000, 0), 5*time.Second
	l := &loads{now: func() time.Time { return now }, used: func() time.Duration { return used }, limit: func() float64 { return 0.12 }, last: now, lastUsed: used, each: func(fn func(loaded)) {
		fn(a)
		fn(b)
	}}
	l.look() // no time has passed
	if a.seconds != 0 {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct {
		spent time.Duration
		unit  float64
	}{{2 * time.Second, 50_000}, {0, 0}, {20 * time.Second, unitMax}} {
		now, used = now.Add(10*time.Second), used+c.spent
		if l.look(); a.unit != c.unit || b.unit != c.unit || a.seconds != 10 || a.processor != 0.12 {
			t.Errorf("%v: %+v, %+v, want %v ns a unit", c.spent, a, b, c.unit)
		}
	}
}
