package plansim

import (
	"flag"
	"testing"

	"pontoon/placement"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the seed that TestReplay and TestLarge run")
	seedsFlag = flag.Int("seeds", 0, "how many seeds the tests of small worlds run; 0: one, or three without -short")
)

// seeds is how many seeds are to be run.
func seeds() int {
	switch {
	case *seedsFlag > 0:
		return *seedsFlag
	case testing.Short():
		return 1
	}
	return 3
}

// harm is everything that can befall nodes, a few times an hour each.
var harm = FaultConfig{Blinks: 4, Crashes: 1, Losses: 1, Fills: 1, Drains: 1, Removes: 1, OpFails: 0.05}

// life is a small world in which something happens all the time.
func life(seed uint64) Config {
	c := Small(seed)
	c.Fault = harm
	c.Load.Drift, c.Load.Tail = 0.2, true
	c.Limits.Pace.Ops = 12 // less than all nodes together may take part in
	return c
}

// live lets a world live for some hours, and then rest for two.
func live(c Config) (*Sim, error) {
	s := New(c)
	hours := 6
	if testing.Short() {
		hours = 3
	}
	if err := s.Run(hours * 3600); err != nil {
		return s, err
	}
	s.Change(func(c *Config) { c.Fault, c.Load.Drift = FaultConfig{}, 0 })
	return s, s.Run(2 * 3600)
}

// TestReplay runs one seed of TestLife.
func TestReplay(t *testing.T) {
	if *seedFlag == 0 {
		t.Skip("needs -seed=N")
	}
	s, err := live(life(*seedFlag))
	t.Log(s.Report())
	if err != nil {
		t.Fatal(err)
	}
}

// TestLife: whatever happens, no rule is broken, what is missing is repaired in time, and afterwards everything is balanced.
func TestLife(t *testing.T) {
	for seed := range seeds() {
		c := life(uint64(seed) + 1)
		s, err := live(c)
		t.Log(s.Report())
		if err != nil {
			t.Fatal(err)
		}
		if !s.Balanced() {
			t.Errorf("not balanced: %v\nreplay: %s", s.Deviations(), c.Replay())
		}
		if n := s.Leaving(); n > 0 {
			t.Errorf("%d nodes are not empty yet\nreplay: %s", n, c.Replay())
		}
		if r := s.Report(); r.Ops[placement.RuleReplace]+r.Ops[placement.RuleDrain] == 0 || r.Ops[placement.RuleTail] == 0 {
			t.Errorf("next to nothing has happened: %v", r)
		}
	}
}

// TestConverges: from a third of the nodes, from some and from all of them, every node comes within tolerance and stays there.
func TestConverges(t *testing.T) {
	for _, crowded := range []float64{0.34, 0.6, 1} {
		for seed := range seeds() {
			c := Small(uint64(seed) + 1)
			c.Test = t.Name()
			c.Crowded, c.Ranges = crowded, 900
			s := New(c)
			if err := s.Run(2 * 3600); err != nil {
				t.Fatal(err)
			}
			r := s.Report()
			t.Logf("%.2f of the nodes: %v", crowded, r)
			if !s.Balanced() || r.Converged == 0 {
				t.Errorf("seed %d: not balanced: %v", seed+1, s.Deviations())
			}
			if r.OpsLast > 10 {
				t.Errorf("seed %d: %d ops in the last hour", seed+1, r.OpsLast)
			}
			if u := s.w.check.undone; u > 5+r.Ops[placement.RuleBalance]*3/100 {
				t.Errorf("seed %d: %d moves took a replica back to where it had been", seed+1, u)
			}
		}
	}
}

// TestWithoutAMajority: two nodes are gone at the same time, and come back. What had two replicas there is left alone until then.
func TestWithoutAMajority(t *testing.T) {
	c := Small(1)
	c.Test = t.Name()
	c.Load.Drift = 1
	s := New(c)
	for _, d := range []int{300, 1200, 3600} {
		if d == 1200 {
			fate{s.w}.isolate(0, 1000)
			fate{s.w}.isolate(1, 1000)
		}
		if err := s.Run(d); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(s.Report())
	if !s.Balanced() {
		t.Errorf("not balanced: %v", s.Deviations())
	}
}

// TestAFullNode: while the disk of an empty node is full of something else, nothing goes there, neither for balance nor in place of what another node of
// its zone had; once it has room again it gets its share.
func TestAFullNode(t *testing.T) {
	c := Small(1)
	c.Test = t.Name()
	c.Crowded = 0.7
	s := New(c)
	full := int16(c.Nodes - 1)
	fate{s.w}.fillUp(full)
	fate{s.w}.isolate(full-int16(c.Zones), 1500)
	if err := s.Run(1700); err != nil {
		t.Fatal(err)
	}
	if r := s.Report(); s.w.holds(full) || r.Ops[placement.RuleReplace] == 0 || r.Ops[placement.RuleBalance] == 0 {
		t.Fatalf("the full node holds something, or next to nothing has happened: %v", r)
	}
	if err := s.Run(1900); err != nil {
		t.Fatal(err)
	}
	t.Log(s.Report())
	if !s.w.holds(full) || !s.Balanced() {
		t.Errorf("not balanced: %v", s.Deviations())
	}
}

// TestSteadyState: where loads only waver there is next to nothing to do.
func TestSteadyState(t *testing.T) {
	c := Small(1)
	c.Test = t.Name()
	c.Ranges, c.Nodes, c.Load.Cores, c.Load.Noise, c.PlanEvery = 5000, 15, 60, 0.3, 2
	s := New(c)
	const hours = 6
	ops := 0
	for hour := range 1 + hours { // the first is for what it begins with
		if err := s.Run(3600); err != nil {
			t.Fatal(err)
		}
		if hour > 0 {
			ops += s.Report().OpsLast
		}
	}
	r := s.Report()
	t.Log(r)
	if per := float64(ops) / hours / float64(r.Ranges) * 1000; per > 1 {
		t.Errorf("%.1f ops an hour for 1 000 ranges", per)
	}
}

// TestFromOneRange: a cluster begins with one range, which is cut until its load lies on all nodes.
func TestFromOneRange(t *testing.T) {
	c := Small(1)
	c.Test = t.Name()
	c.Ranges, c.MeanBytes, c.Load.Cores, c.Load.HotKeys, c.Cores = 1, 200<<20, 6, 0, 2
	s := New(c)
	for range 60 {
		if err := s.Run(10); err != nil {
			t.Fatal(err)
		}
		if s.w.busiest() < 1.25 {
			t.Logf("the busiest node has %.0f %% of the mean: %v", 100*s.w.busiest(), s.Report())
			return
		}
	}
	t.Errorf("the busiest node has %.0f %% of the mean: %v", 100*s.w.busiest(), s.Report())
}

// busiest is what the busiest node does, beside the mean.
func (w *world) busiest() float64 {
	meter{w}.measureNodes()
	most, sum := 0.0, 0.0
	for n := range w.nodes {
		most, sum = max(most, w.nodes[n].cpu), sum+w.nodes[n].cpu
	}
	return most * float64(len(w.nodes)) / sum
}

// TestADipIsNoReasonToMerge: the clients are away for five minutes, and come back to ranges that are still theirs.
func TestADipIsNoReasonToMerge(t *testing.T) {
	c := Small(1)
	c.Test = t.Name()
	c.MeanBytes, c.Load.Exponent, c.Load.Cores = 10<<20, 0, 300*0.05
	c.Load.HotKeys = 0
	s := New(c)
	if err := s.Run(900); err != nil {
		t.Fatal(err)
	}
	rates := append([]float32(nil), s.w.truth.rate...)
	before := s.w.view.Ranges.Len()
	clear(s.w.truth.rate)
	if err := s.Run(300); err != nil {
		t.Fatal(err)
	}
	if now := s.w.view.Ranges.Len(); now != before {
		t.Fatalf("%d ranges before the dip, %d in it", before, now)
	}
	copy(s.w.truth.rate, rates)
	if err := s.Run(900); err != nil {
		t.Fatal(err)
	}
	if now := s.w.view.Ranges.Len(); now != before {
		t.Fatalf("%d ranges before the dip, %d behind it", before, now)
	}
	clear(s.w.truth.rate)
	if err := s.Run(3600); err != nil {
		t.Fatal(err)
	}
	if now := s.w.view.Ranges.Len(); now > before/3 {
		t.Errorf("%d ranges of %d are left after an hour without clients", now, before)
	}
	t.Log(s.Report())
}

// TestMerges: small and idle ranges that lie all over the nodes come together and become as few as were asked for, or as their sizes allow; a replica is not moved
// to and fro for it.
func TestMerges(t *testing.T) {
	for seed := range seeds() {
		c := Small(uint64(seed) + 1)
		c.Test = t.Name()
		c.MeanBytes, c.Load.Cores, c.Load.HotKeys = 4<<20, 0.2, 0
		c.Limits.Merge.RangesMin = 20
		s := New(c)
		if err := s.Run(8 * 3600); err != nil {
			t.Fatal(err)
		}
		r := s.Report()
		t.Log(r)
		if most := 60; r.Ranges > most || r.Ranges < 20 {
			t.Errorf("seed %d: %d ranges are left of %d", seed+1, r.Ranges, c.Ranges)
		}
		if r.Ops[placement.RuleAlign] > 4*r.Ops[placement.RuleMerge] || r.OpsLast > 5 || s.w.check.undone > r.Ops[placement.RuleMerge]/10 {
			t.Errorf("seed %d: %d moves were undone: %v", seed+1, s.w.check.undone, r)
		}
		if !s.Balanced() {
			t.Errorf("seed %d: not balanced: %v", seed+1, s.Deviations())
		}
	}
}

// TestLarge: a thousand nodes and a million ranges, ten of the nodes empty at first. They are filled, while a node is lost, another one removed, and
// some are silent for a while.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes: make plansim")
	}
	c := Large(max(*seedFlag, 1))
	c.Test = t.Name()
	c.Fault = FaultConfig{Blinks: 4, Losses: 2, OpFails: 0.01}
	s := New(c)
	t.Log(s.Report())
	for k := 0; k < 20 && (k <= 4 || !s.Balanced()); k++ {
		if k == 1 {
			fate{s.w}.lose(7)
		}
		if k == 4 { // a node that comes takes more than an hour to be filled, with four ops at a time
			s.Change(func(c *Config) { c.Fault = FaultConfig{} })
		}
		if err := s.Run(600); err != nil {
			t.Fatal(err)
		}
		t.Log(s.Report())
	}
	if r := s.Report(); !s.Balanced() || r.Ops[placement.RuleReplace] == 0 {
		t.Errorf("not balanced, or nothing was lost: %v", r)
	}
}
