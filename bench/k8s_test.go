package bench

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/bench/load"
)

func smallK8s(change func(*Spec)) Spec {
	return small("k8s-nodes", func(s *Spec) {
		s.Clients, s.Conns, s.ValueSize, s.Duration = 16, 2, 32, time.Second
		s.K8sNodes, s.K8sNodesMax, s.PodsPerNode, s.PodChurn, s.Step = 400, 800, 2, 1, 200*time.Millisecond
		s.Limit = time.Minute // nothing here is about how fast this machine is
		change(s)
	})
}

func TestK8sOfAGoodServer(t *testing.T) {
	r, problems := play(t, newServer(), smallK8s(func(*Spec) {}))
	problems = slices.DeleteFunc(problems, func(p string) bool { return strings.HasPrefix(p, "the rate was not held") }) // by this machine
	if len(problems) > 0 {
		t.Fatalf("%q", problems)
	}
	for _, kind := range []string{"lease", "pod", "list", kindDeliver, kindProgress} {
		if r.Kinds[kind].Count == 0 {
			t.Errorf("there was no %s", kind)
		}
	}
	if r.Figures["most-nodes"] != 800 || len(r.Series) != 6 || len(r.Series[0].Points) != 2 {
		t.Errorf("%v, %+v", r.Figures, r.Series)
	}
}

func TestK8sNoticesABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		dropsEvent:   "", // by the next event of that object, or in the end
		repeatsEvent: "after one of",
		swapsEvents:  "after one of",
		changesValue: "bytes that were not written",
		noPrev:       "a previous version of revision 0",
		cancels:      "on a whim",
		liesProgress: "after progress to",
		losesWrite:   "",
	} {
		t.Run(fault, func(t *testing.T) {
			s := newServer()
			_, problems := playWith(t, s, smallK8s(func(s *Spec) {
				s.K8sNodesMax, s.PodsPerNode, s.K8sNodes, s.PodChurn, s.Duration = 0, 1, 100, 10, 300*time.Millisecond
			}), func(workload) {
				s.fault, s.faultAt = fault, 150 // later than when objects are made
			})
			if all := strings.Join(problems, "\n"); len(problems) == 0 || !strings.Contains(all, want) {
				t.Errorf("want %q, got %q", want, problems)
			}
		})
	}
}

// A write whose answer was lost may have happened or not; both are right, and then it goes on.
func TestK8sObjectsInDoubt(t *testing.T) {
	for _, happened := range []bool{true, false} {
		t.Run(fmt.Sprint(happened), func(t *testing.T) {
			s := newServer()
			w := newK8s(s.serve(t, smallK8s(func(s *Spec) { s.K8sNodes = 3 })))
			defer func() { _ = w.close() }()
			if err := w.prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			pods, kv := w.tables[onPods], w.kvs[0]
			if happened {
				s.mu.Lock()
				s.write(pods.key(0), []byte(pods.values.of(77)), 0)
				s.mu.Unlock()
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := pods.change(ended, w, kv, 0, false); err == nil {
				t.Fatal("a request without time succeeded")
			}
			for range 3 {
				if err := pods.change(t.Context(), w, kv, 0, false); err != nil {
					t.Fatal(err)
				}
			}
			if problems, err := w.verify(t.Context()); err != nil || len(problems) > 0 {
				t.Errorf("%q, %v", problems, err)
			}
		})
	}
}

func TestK8sSomebodyElseWrites(t *testing.T) {
	s := newServer()
	w := newK8s(s.serve(t, smallK8s(func(s *Spec) { s.K8sNodes = 3 })))
	defer func() { _ = w.close() }()
	if err := w.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.write(w.tables[onLeases].key(1), []byte(w.tables[onLeases].values.of(77)), 0)
	s.mu.Unlock()
	if err := w.tables[onLeases].change(t.Context(), w, w.kvs[0], 1, false); err == nil || !strings.Contains(err.Error(), "nobody else writes it") {
		t.Error(err)
	}
	if problems, err := w.verify(t.Context()); err != nil || len(problems) == 0 {
		t.Errorf("%q, %v", problems, err)
	}
}

// A list that takes longer than history is kept begins anew; for a younger one its revision must be there.
func TestK8sListsOutliveHistory(t *testing.T) {
	for _, old := range []bool{true, false} {
		s := newServer()
		w := newK8s(s.serve(t, smallK8s(func(s *Spec) { s.K8sNodes = listPage })))
		defer func() { _ = w.close() }()
		if err := w.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range listsMax {
			if err := w.list(t.Context(), w.kvs[0]); err != nil {
				t.Fatal(err)
			}
		}
		s.mu.Lock()
		s.compacted = s.rev + 1
		s.mu.Unlock()
		l := <-w.lists
		if l.rev == 0 {
			t.Fatal("no list is on its way")
		}
		if old {
			l.began = l.began.Add(-2 * compactEvery)
		}
		w.lists <- l
		for range listsMax - 1 {
			w.lists <- <-w.lists
		}
		if err := w.list(t.Context(), w.kvs[0]); old != (err == nil) {
			t.Errorf("old %v: %v", old, err)
		}
		if l.rev != 0 {
			t.Error("it did not begin anew")
		}
	}
}

func TestK8sRates(t *testing.T) {
	got := k8sRates(Spec{PodsPerNode: 30, PodChurn: 0.1}, 3000)
	if want := [4]float64{300, 10, 300, 18}; got != want {
		t.Errorf("%v, want %v", got, want)
	}
	var hits [4]int
	for i := range 628_000 {
		hits[pickKind(got, float64(i)/628_000)]++
	}
	for kind, n := range hits {
		if math.Abs(float64(n)-got[kind]*1000) > 2 {
			t.Errorf("kind %d came %d times of 628000", kind, n)
		}
	}
}

func TestK8sSplits(t *testing.T) {
	for _, n := range []int{1, 2, 3, 16, 1000} {
		got := k8sSplits(smallK8s(func(*Spec) {}), n)
		if len(got) != n-1 || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("%d cuts for %d parts: %.300q", len(got), n, got)
		}
	}
	w := newK8s(&env{spec: smallK8s(func(*Spec) {})})
	cuts := k8sSplits(w.spec, 16)
	for _, kind := range []int{onLeases, onPods} {
		per := make([]int, len(cuts)+1)
		for i := range 8000 {
			at, _ := slices.BinarySearch(cuts, w.tables[kind].key(i))
			per[at]++
		}
		parts := 0
		for _, n := range per {
			if n > 0 {
				parts++
			}
			if n > 2000 {
				t.Errorf("%d of 8000 objects of kind %d are in one part", n, kind)
			}
		}
		if parts != 8 {
			t.Errorf("objects of kind %d are in %d parts, want 8", kind, parts)
		}
	}
}

func TestNodeRamp(t *testing.T) {
	for name, c := range map[string]struct {
		most  int // that the store holds
		noisy int // fails at the first attempt
		held  int
		tried []int
	}{
		"ends":         {most: 700, held: 625, tried: []int{100, 200, 400, 500, 625, 782, 782}},
		"noise":        {most: 1000, noisy: 200, held: 1000, tried: []int{100, 200, 200, 400, 500, 625, 782, 978, 1000}},
		"none is held": {most: 50, held: 0, tried: []int{100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &nodeRamp{next: 100, limit: 1000}
			var tried []int
			for r.next > 0 && len(tried) < 50 {
				n := r.next
				first := !slices.Contains(tried, n)
				tried = append(tried, n)
				r.judge(n <= c.most && !(n == c.noisy && first), n >= 400)
			}
			if r.held != c.held || !reflect.DeepEqual(tried, c.tried) {
				t.Errorf("held %d, tried %v", r.held, tried)
			}
		})
	}
}

func TestK8sStepSaysWhyItWasNotHeld(t *testing.T) {
	s := newServer()
	w := newK8s(s.serve(t, smallK8s(func(s *Spec) { s.Limit = time.Millisecond; s.K8sNodes = 3 })))
	defer func() { _ = w.close() }()
	if err := w.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.rates = [4]float64{onList: 1e6} // more than anybody can do
	_, why := w.step(t.Context(), &load.Plan{Workers: 4, Kinds: w.kinds()})
	if why == "" {
		t.Error("held")
	}
}
