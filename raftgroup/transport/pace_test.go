package transport

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestPace: what several take adds up to the rate, whatever the sizes; the first after a pause goes at once, and a pause is not made up for.
func TestPace(t *testing.T) {
	now := time.Unix(1000, 0)
	p := &pace{rate: 1 << 20, now: func() time.Time { return now }}
	took := 0
	for began := now; now.Sub(began) < 10*time.Second; {
		for _, n := range []int{256 << 10, 100, 1 << 20} { // who takes them does so at the same moment
			now = now.Add(p.take(n))
			took += n
		}
	}
	if want := 10 << 20; took < want || took > want+(3<<20) {
		t.Errorf("%d bytes in ten seconds, want about %d", took, want)
	}
	now = now.Add(time.Hour)
	if d := p.take(5 << 20); d != 0 {
		t.Errorf("the first after a pause waits for %v", d)
	}
	if d := p.take(1); d != 5*time.Second {
		t.Errorf("the second waits for %v", d)
	}
	if d := (&pace{}).take(1 << 30); d != 0 {
		t.Errorf("without a rate: %v", d)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := p.wait(ctx, 1); !errors.Is(err, gone) {
		t.Errorf("who cannot wait: %v", err)
	}
}
