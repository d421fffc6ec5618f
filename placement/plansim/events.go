package plansim

import (
	"pontoon/placement"
)

// suspectAfter is how long a node is silent before it is held to be dead, in seconds.
const suspectAfter = 10

// fate is what befalls nodes.
type fate struct{ *world }

// befall lets happen to nodes what is due by chance, and ends what has lasted long enough.
func (w fate) befall() {
	for n := range w.nodes {
		w.pass(int16(n))
	}
	f := &w.cfg.Fault
	for _, e := range []struct {
		rate   float64
		happen func(n int16)
	}{
		{f.Blinks, func(n int16) { w.isolate(n, placement.Seconds(20+w.rnd.IntN(200))) }},
		{f.Crashes, func(n int16) { w.isolate(n, 1800) }},
		{f.Losses, w.lose},
		{f.Fills, w.fillUp},
		{f.Drains, func(n int16) { w.view.Nodes[n].Draining, w.nodes[n].emptying = true, true }},
		{f.Removes, w.remove},
	} {
		if w.rnd.Float64() >= e.rate/3600 {
			continue
		}
		if n := w.victim(); n >= 0 {
			w.stats.events++
			e.happen(n)
		}
	}
}

// victim draws a healthy node, if no other one suffers: what falls together with another fault is another test's.
func (w fate) victim() int16 {
	if w.unwell() {
		return -1
	}
	n := int16(w.rnd.IntN(len(w.nodes)))
	if w.nodes[n].gone {
		return -1
	}
	return n
}

func (w fate) unwell() bool {
	for n := range w.nodes {
		m, v := &w.nodes[n], &w.view.Nodes[n]
		if m.gone {
			continue
		}
		if m.isolated || m.back != 0 || v.Draining || v.Removed {
			return true
		}
	}
	return false
}

// isolate lets a node be silent for a time; its leads go to others.
func (w fate) isolate(n int16, d placement.Seconds) {
	w.nodes[n].isolated, w.nodes[n].back = true, w.now+d
	if d == placement.Forever {
		w.nodes[n].back = placement.Forever
	}
	v := &w.view.Nodes[n]
	v.Liveness, v.Since = placement.Suspect, w.now
	r := &w.view.Ranges
	for i := range r.IDs {
		if l := r.Leaders[i]; l >= 0 && r.Row(i)[l] == n {
			w.elect(i)
		}
	}
}

func (w fate) lose(n int16) {
	w.isolate(n, placement.Forever)
	w.joinAt(n)
}

func (w fate) remove(n int16) {
	w.view.Nodes[n].Removed = true
	w.joinAt(n)
}

// fillUp leaves a node with a tenth of its disk.
func (w fate) fillUp(n int16) {
	w.nodes[n].foreign, w.nodes[n].back = max(0, 0.9*w.cfg.DiskBytes-w.nodes[n].held), w.now+1800
	meter{w.world}.measureNode(n)
}

// pass ends what has lasted long enough.
func (w fate) pass(n int16) {
	m, v := &w.nodes[n], &w.view.Nodes[n]
	if m.gone {
		return
	}
	if v.Liveness == placement.Suspect && w.now-v.Since >= suspectAfter {
		v.Liveness, v.Since = placement.Dead, w.now
	}
	if m.back != 0 && w.now >= m.back {
		m.back, m.foreign = 0, 0
		if m.isolated {
			m.isolated = false
			v.Liveness, v.Since = placement.Up, w.now
			w.electAll()
		}
	}
	if empty := w.now%10 == 0 && (v.Draining || v.Removed || m.back == placement.Forever) && !w.holds(n); empty {
		switch {
		case v.Removed || m.back == placement.Forever:
			m.gone, v.Removed, v.Liveness = true, true, placement.Dead
		case m.emptying:
			v.Draining, m.emptying = false, false
		}
	}
}

// holds tells whether a node has replicas, or is to get some.
func (w *world) holds(n int16) bool {
	for _, m := range w.view.Ranges.Replicas {
		if m == n {
			return true
		}
	}
	for k := range w.ops {
		if w.ops[k].op.To != 0 && at(w.ops[k].op.To) == n {
			return true
		}
	}
	return false
}

// electAll gives leaders to ranges that have a majority again.
func (w fate) electAll() {
	for i, l := range w.view.Ranges.Leaders {
		if l < 0 {
			w.elect(i)
		}
	}
}
