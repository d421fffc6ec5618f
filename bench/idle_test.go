package bench

import (
	"strings"
	"testing"
	"time"
)

func smallIdle(change func(*Spec)) Spec {
	return small("idle", func(s *Spec) {
		s.Rate, s.Duration, s.WarmUp = 10, 500*time.Millisecond, 0
		change(s)
	})
}

func TestIdle(t *testing.T) {
	r, problems := play(t, newServer(), smallIdle(func(*Spec) {}))
	if len(problems) > 0 || r.Operations == 0 || !r.Corrected {
		t.Errorf("%d operations, %q", r.Operations, problems)
	}
	s := newServer()
	s.fault, s.faultAt = losesWrite, 7
	if _, problems := play(t, s, smallIdle(func(*Spec) {})); len(problems) == 0 {
		t.Error("lost keys were not noticed")
	}
	if err := smallIdle(func(s *Spec) { s.Rate = 1000 }).Validate(); err == nil || !strings.Contains(err.Error(), "idle") {
		t.Error(err)
	}
}
