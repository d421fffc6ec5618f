package plansim

import (
	"testing"

	"pontoon/placement"
)

// disorder is a random state in which every rule has something to do: some nodes are dead, to be empty or full, sizes and loads are all over
// the place, replicas lie anywhere.
func disorder(seed uint64) *world {
	c := Small(seed)
	c.Nodes, c.Ranges, c.Zones, c.Crowded, c.MeanBytes = 12, 200, 4, 0.7, 60<<20
	c.Load.Noise, c.Load.Cores, c.Load.Tail = 0, 10, true
	w := newWorld(c)
	r := &w.view.Ranges
	for i := range r.IDs {
		switch w.rnd.IntN(8) {
		case 0:
			r.Bytes[i] *= 8
		case 1, 2:
			r.Bytes[i] /= 8
			w.truth.rate[i] /= 50
		case 3:
			if row := r.Row(i); row[0] != 3 && row[1] != 3 { // with two, one of them dead, nothing could be done
				row[2] = placement.None
				r.Leaders[i] = int8(w.rnd.IntN(2))
			}
		case 4:
			row := r.Row(i)
			for k := range row {
				if n := (row[0] + 4*int16(k)) % 12; row[0]%4 == n%4 { // all in one zone
					row[k] = n
				}
			}
		}
	}
	w.view.Nodes[3].Liveness, w.view.Nodes[3].Since = placement.Dead, 1
	w.nodes[3].isolated = true
	w.view.Nodes[5].Draining = true
	w.electAway(3)
	w.refresh()
	return w
}

// electAway gives leads of a node to others.
func (w *world) electAway(n int16) {
	for i := range w.view.Ranges.IDs {
		if l := w.view.Ranges.Leaders[i]; l >= 0 && w.view.Ranges.Row(i)[l] == n {
			w.elect(i)
		}
	}
}

// refresh lets everything be measured anew, as after a long time: loads are what they are.
func (w *world) refresh() {
	r := &w.view.Ranges
	w.now += 7200
	for i := range r.IDs {
		r.CPU[i] = w.truth.rate[i]
		r.Peak.CPU[i], r.Peak.Writes[i] = r.CPU[i], r.CPU[i]/writeCost
		r.Flags[i] &^= placement.LoadUnknown | placement.Untrimmed | placement.LoadShort
		w.truth.peak[0][i] = r.CPU[i]
	}
	for n := range w.nodes {
		w.nodes[n].held = 0
	}
	for i := range r.IDs {
		for _, n := range r.Row(i) {
			if n >= 0 {
				w.nodes[n].held += float64(r.Bytes[i])
			}
		}
	}
	for range 3 {
		meter{w}.sample()
	}
	meter{w}.measureNodes()
}

// do lets an op be over at once.
func (w *world) do(op placement.Op) {
	if op.Kind == placement.KindSplit || op.Kind == placement.KindMerge {
		w.cuts = append(w.cuts[:0], running{op: op})
		cutter{w}.cut()
		w.cuts = w.cuts[:0]
	} else {
		w.apply(op)
	}
}

// lowers tells whether an op has lowered the potential. A range that lacks replicas is two such ranges once it is cut: its size must fall. One that is brought
// to where its neighbour is may turn out to be wanted by the other one, once a merge next to it is over; merges end, and with them such moves.
func lowers(op placement.Op, before, after placement.Potential) bool {
	switch {
	case op.Kind == placement.KindSplit:
		return after.Shape < before.Shape
	case op.Rule == placement.RuleAlign:
		return after.Missing == before.Missing && after.Violations == before.Violations
	}
	return after.Less(before)
}

// TestPlansAreFinite: from any state, every op that begins lowers the potential, and there comes a round without one.
func TestPlansAreFinite(t *testing.T) {
	rules := make(map[placement.Rule]int)
	for seed := range uint64(max(10*seeds(), 30)) { // cuts for load are rare in them
		w := disorder(seed + 1)
		total := 0
		for quiet := 0; quiet < 20; quiet++ {
			w.view.Round++
			other := false
			begun, first := total, placement.Measure(&w.view, w.cfg.Limits, w.now)
			for _, op := range placement.Plan(&w.view, w.cfg.Limits, w.now) {
				if !op.Due() || op.Kind == placement.KindBackOff {
					continue
				}
				before := placement.Measure(&w.view, w.cfg.Limits, w.now)
				w.do(op)
				w.refresh()
				w.now -= 7200
				if after := placement.Measure(&w.view, w.cfg.Limits, w.now); !lowers(op, before, after) {
					t.Fatalf("seed %d: %v\nfrom %+v\nto   %+v", seed+1, op, before, after)
				}
				other = other || op.Kind == placement.KindSplit || op.Rule == placement.RuleAlign
				rules[op.Rule]++
				total++
				quiet = 0
			}
			if last := placement.Measure(&w.view, w.cfg.Limits, w.now); total > begun && !other && !last.Less(first) {
				t.Fatalf("seed %d: a whole plan from %+v to %+v", seed+1, first, last)
			}
			w.refresh()
			if total > 5000 {
				t.Fatalf("seed %d: no end after %d ops", seed+1, total)
			}
		}
		p := placement.Measure(&w.view, w.cfg.Limits, w.now)
		t.Logf("seed %d: %d ops, then %+v", seed+1, total, p)
		if p.Missing > 0 || p.Violations > 0 {
			t.Errorf("seed %d: left undone: %+v", seed+1, p)
		}
	}
	t.Log(rules)
	for _, r := range []placement.Rule{placement.RuleReplace, placement.RuleGrow, placement.RuleDrainLead, placement.RuleDrain, placement.RuleDomain, placement.RuleSize,
		placement.RuleLoad, placement.RuleTail, placement.RuleMerge, placement.RuleAlign, placement.RuleLead, placement.RuleBalance} {
		if rules[r] == 0 {
			t.Errorf("rule %v had nothing to do", r)
		}
	}
}
