package bench

import (
	"strings"
	"testing"
	"time"
)

func smallProgress(change func(*Spec)) Spec {
	return small("watch-progress", func(s *Spec) {
		s.Clients, s.Conns, s.Streams, s.Rate, s.PutRate = 7, 2, 7, 500, 300
		s.Duration, s.WarmUp, s.Timeout = 300*time.Millisecond, 20*time.Millisecond, 2*time.Second
		change(s)
	})
}

func demanding(w workload) { w.(*watchProgress).demands = true }

func TestProgressOfAGoodServer(t *testing.T) {
	for name, spec := range map[string]Spec{
		"busy": smallProgress(func(*Spec) {}),
		"idle": smallProgress(func(s *Spec) { s.PutRate = 0 }),
	} {
		t.Run(name, func(t *testing.T) {
			r, problems := playWith(t, newServer(), spec, demanding)
			if len(problems) > 0 || r.Operations < 20 || r.Latency.Count != r.Operations {
				t.Fatalf("%d operations, %q", r.Operations, problems)
			}
			if got := r.Figures["puts/s"] > 0; got != (spec.PutRate > 0) {
				t.Errorf("%v", r.Figures)
			}
		})
	}
}

// The parts share the keys, each has some, and a key belongs to the part that watches it.
func TestPartsOfProgress(t *testing.T) {
	for _, c := range [][2]int{{7, 200}, {200, 200}, {1, 200}, {3, 4}} {
		w := newProgress(&env{spec: smallProgress(func(s *Spec) { s.Streams, s.KeySpace = c[0], c[1] }), sys: &system{}})
		for key := range c[1] {
			from, until := w.shape.span(w.shape.group(key))
			if k := w.ledger.keys.at(key); k < from || k >= until {
				t.Errorf("%v: key %s is of the part from %s to %s", c, k, from, until)
			}
		}
	}
}

func TestProgressNoticesABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		dropsEvent:    "",
		repeatsEvent:  "after one of revision",
		changesValue:  "bytes that were not written",
		cancels:       "on a whim",
		losesWrite:    "",
		liesProgress:  "after the stream had told that everything up to",
		staleProgress: "was acknowledged",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel() // they wait for what does not come
			s := newServer()
			s.fault, s.faultAt = fault, 5
			_, problems := playWith(t, s, smallProgress(func(s *Spec) { s.Streams, s.Timeout = 2, time.Second }), demanding)
			if all := strings.Join(problems, "\n"); len(problems) == 0 || !strings.Contains(all, want) {
				t.Errorf("want %q, got %q", want, problems)
			}
		})
	}
}

// Of servers that do not promise it an old answer is told, and no fault.
func TestOlderProgressIsToldOfOthers(t *testing.T) {
	s := newServer()
	s.fault = staleProgress
	r, problems := play(t, s, smallProgress(func(*Spec) {}))
	for _, p := range problems { // it never comes to the end, either
		if !strings.Contains(p, "does not come to revision") {
			t.Errorf("%q", p)
		}
	}
	if r.Failed > 0 || r.Figures["older-answers/op"] <= 0 {
		t.Errorf("%d failed, %v", r.Failed, r.Figures)
	}
}
