package bench

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func smallRestart(change func(*Spec)) Spec {
	return small("restart", func(s *Spec) { s.Operations, s.KeySpace = 4, 300; change(s) })
}

func smallLarge(change func(*Spec)) Spec {
	return small("large", func(s *Spec) {
		s.Clients, s.Conns, s.SizeMiB, s.Steps, s.ValueSize, s.KeySize = 8, 2, 1, 4, 4096, 8
		change(s)
	})
}

// restarting is a restart that works at once, but for what is done to the server meanwhile.
func restarting(meanwhile func(kill bool) error) func(bool) (time.Time, error) {
	return func(kill bool) (time.Time, error) { return time.Now(), meanwhile(kill) }
}

func TestRestarts(t *testing.T) {
	var kinds []bool
	r, problems := playWith(t, newServer(), smallRestart(func(*Spec) {}), func(w workload) {
		w.(*restarts).again = restarting(func(kill bool) error { kinds = append(kinds, kill); return nil })
	})
	if len(problems) > 0 || r.Operations != 4 || len(kinds) != 4 || kinds[0] || !kinds[1] {
		t.Fatalf("%d operations, %v, %q", r.Operations, kinds, problems)
	}
	if r.Figures["serve-after-stop-s"] <= 0 || r.Figures["serve-after-kill-s"] <= 0 {
		t.Errorf("%v", r.Figures)
	}
}

// After a restart everything must be there, and right.
func TestRestartsNoticeWhatWasLost(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*server) error
		want      string
	}{
		"it does not start":      {func(*server) error { return errors.New("no way") }, "no way"},
		"everything is gone":     {func(s *server) error { clear(s.now); return nil }, "has 0 keys, not 1"},
		"one key is gone":        {func(s *server) error { delete(s.now, "00000011"); return nil }, "00000011"},
		"a key has another past": {func(s *server) error { s.now["00000011"].Version++; return nil }, "has version 2 after 1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer()
			_, problems := playWith(t, s, smallRestart(func(s *Spec) { s.Operations = 1 }), func(w workload) {
				w.(*restarts).again = restarting(func(bool) error {
					s.mu.Lock()
					defer s.mu.Unlock()
					return c.meanwhile(s)
				})
			})
			if all := strings.Join(problems, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("want %q, got %q", c.want, problems)
			}
		})
	}
}

func TestLarge(t *testing.T) {
	for name, spec := range map[string]Spec{
		"at random": smallLarge(func(*Spec) {}),
		"in order":  smallLarge(func(s *Spec) { s.Sequential = true }),
		"in txns":   smallLarge(func(s *Spec) { s.Batch = 8 }),
	} {
		t.Run(name, func(t *testing.T) {
			disk, restarts := int64(0), 0
			s := newServer()
			r, problems := playWith(t, s, spec, func(w workload) {
				w.(*large).again = restarting(func(bool) error { restarts++; return nil })
				w.(*large).disk = func() (int64, error) { disk += 10; return disk, nil }
			})
			if len(problems) > 0 || restarts != 4 || len(s.now) != 256 || r.Operations != int64(64/spec.Batch) {
				t.Fatalf("%d operations, %d restarts, %d keys, %q", r.Operations, restarts, len(s.now), problems)
			}
			if len(r.Series) != 4 || len(r.Series[2].Points) != 4 || r.Series[2].Points[3] != [2]float64{1, 40} || r.Figures["disk-in-the-end-B"] != 40 {
				t.Errorf("%+v, %v", r.Series, r.Figures)
			}
			if r.Figures["writes-in-the-end/s"] <= 0 || r.Figures["restart-in-the-end-s"] <= 0 {
				t.Errorf("%v", r.Figures)
			}
		})
	}
}

func TestLargeNoticesWhatWasLost(t *testing.T) {
	for _, part := range []int{1, 4} {
		s := newServer()
		n := 0
		_, problems := playWith(t, s, smallLarge(func(*Spec) {}), func(w workload) {
			w.(*large).again = restarting(func(bool) error {
				if n++; n == part {
					s.mu.Lock()
					defer s.mu.Unlock()
					for key := range s.now { // one
						delete(s.now, key)
						break
					}
				}
				return nil
			})
		})
		if len(problems) == 0 {
			t.Errorf("a key that was lost in restart %d was not noticed", part)
		}
	}
}

func TestLargeWritesEachKeyOnce(t *testing.T) {
	for _, sequential := range []bool{true, false} {
		spec := largeSpec(smallLarge(func(s *Spec) { s.Sequential, s.SizeMiB, s.ValueSize = sequential, 3, 100 }))
		w := &large{base: newBase(&env{spec: spec}), stride: strideOf(spec)}
		seen := map[int]bool{}
		for n := range int64(spec.KeySpace) {
			seen[w.keyOf(n)] = true
		}
		if len(seen) != spec.KeySpace {
			t.Errorf("sequential %v: %d of %d keys", sequential, len(seen), spec.KeySpace)
		}
	}
}

func TestSpecsOfRestarts(t *testing.T) {
	for want, s := range map[string]Spec{
		"--clients must be 1":   smallRestart(func(s *Spec) { s.Clients = 2 }),
		"neither --warm-up":     smallRestart(func(s *Spec) { s.WarmUp = time.Second }),
		"--steps":               smallLarge(func(s *Spec) { s.Steps = 0 }),
		"have no meaning":       smallLarge(func(s *Spec) { s.Duration = time.Second }),
		"want between":          smallLarge(func(s *Spec) { s.SizeMiB, s.ValueSize = 100_000, 8 }),
		"--key-size is too":     smallLarge(func(s *Spec) { s.KeySize, s.SizeMiB = 3, 100 }),
		"--size-mib must be at": smallLarge(func(s *Spec) { s.SizeMiB = 0 }),
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
	for _, kind := range []string{TargetPontoon, TargetEtcd} {
		if got := raisedQuota(Spec{KeySpace: 4 << 20, KeySize: 24, ValueSize: 1000}, kind); got[0] != "--quota-backend-bytes=17179869184" {
			t.Errorf("%q", got)
		}
	}
}
