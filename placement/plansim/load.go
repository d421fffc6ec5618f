package plansim

import (
	"math"
	"slices"

	"pontoon/placement"
	"pontoon/shard"
)

const (
	// reportEvery is how often a node tells what its ranges do, in seconds.
	reportEvery = 10
	// reportChange is the share by which a load must have changed to be told.
	reportChange = 0.1
	// smooth is how much of a new measurement goes into a load that is told.
	smooth = 0.1
	// writeCost is what a write costs its leader, in ns.
	writeCost = 120e3
	// peakEvery is half of the time for which the highest load is remembered, in seconds.
	peakEvery = 300
)

// windows are the last three loads of a busy range, in ns a second.
type windows struct {
	of    [3]float32
	count int
}

// loads is what leaders keep of busy ranges.
type loads struct {
	hot    map[shard.RangeID]*windows
	turned placement.Seconds // when the peaks' five minutes began
}

// meter is what nodes measure and tell.
type meter struct{ *world }

// measure is what a leader measures: the truth, more or less.
func (w meter) measure(i int) float32 {
	off := 1 + w.cfg.Load.Noise*(2*w.rnd.Float64()-1)
	return float32(float64(w.truth.rate[i]) * off)
}

// report lets a part of the ranges tell their loads, all of them if it is the first time.
func (w meter) report(all bool) {
	r, t := &w.view.Ranges, &w.truth
	if w.now-w.loads.turned >= peakEvery {
		w.loads.turned = w.now
		t.peak[0], t.peak[1] = t.peak[1], t.peak[0]
		clear(t.peak[0])
	}
	step, from := reportEvery, int(w.now)%reportEvery
	if all {
		step, from = 1, 0
	}
	for i := from; i < len(r.IDs); i += step {
		told, got := r.CPU[i], w.measure(i)
		if all {
			r.CPU[i] = got
		} else if now := told + smooth*(got-told); math.Abs(float64(got-told)) > reportChange*float64(told) {
			r.CPU[i] = now
		}
		t.peak[0][i] = max(t.peak[0][i], got)
		r.Peak.CPU[i] = max(t.peak[0][i], t.peak[1][i])
		r.Peak.Writes[i] = r.Peak.CPU[i] / writeCost
		r.Flags[i] &^= placement.LoadUnknown | placement.Untrimmed | placement.LoadShort
		if w.now-t.since[i] < w.cfg.Limits.Merge.Cooldown {
			r.Flags[i] |= placement.LoadShort
		}
		if t.nature[i] == atEnd {
			w.grow(i)
		}
	}
}

// grow lets the range that takes writes at its end become larger by what came since its last report.
func (w meter) grow(i int) {
	more := float64(w.truth.rate[i]) / writeCost * w.cfg.Load.Growth * reportEvery
	w.view.Ranges.Bytes[i] += float32(more)
	for _, n := range w.view.Ranges.Row(i) {
		if n >= 0 {
			w.nodes[n].held += more
		}
	}
}

// sample lets the leaders of busy ranges close a window, every ten seconds, and tell where their load lies.
func (w meter) sample() { w.samples(true) }

// samples tells where the load of busy ranges lies, behind another window if one is over.
func (w meter) samples(closed bool) {
	r, l := &w.view.Ranges, &w.cfg.Limits.Split
	w.view.Samples = w.view.Samples[:0]
	for i, id := range r.IDs {
		rate := w.truth.rate[i]
		if rate < l.CPU/2 && rate < l.Writes*writeCost/2 {
			delete(w.loads.hot, id)
			continue
		}
		if r.Leaders[i] < 0 {
			continue
		}
		h := w.loads.hot[id]
		if h == nil {
			h = &windows{}
			w.loads.hot[id] = h
		}
		if closed {
			h.of[h.count%3] = w.measure(i)
			h.count++
		}
		if h.count >= 3 {
			low := slices.Min(h.of[:])
			w.view.Samples = append(w.view.Samples, w.sampleOf(i, low))
		}
	}
}

// sampleOf is what a leader has seen of a range: nine keys, a tenth of it apart.
func (w meter) sampleOf(i int, low float32) placement.Sample {
	r := &w.view.Ranges
	s := placement.Sample{Range: int32(i), CPU: low, Writes: low / writeCost}
	from, to := w.spanOf(r, i)
	for k := 1; k < 10; k++ {
		p := placement.SamplePoint{Key: key(from + (to-from)/10*uint64(k)), Left: float32(k) / 10, Cross: 0.02}
		switch w.truth.nature[i] {
		case oneKey:
			p.Left = 0.98
		case atEnd:
			p.Left = 0.05
		}
		s.Points = append(s.Points, p)
	}
	if w.truth.nature[i] == atEnd {
		s.Tail = 0.95
	}
	return s
}

// measureNodes tells what nodes measure of themselves.
func (w meter) measureNodes() {
	r, follower := &w.view.Ranges, w.cfg.Limits.Move.FollowerCPU
	for n := range w.nodes {
		w.nodes[n].cpu = 0
	}
	for i := range r.IDs {
		rate := float64(w.truth.rate[i])
		for k, n := range r.Row(i) {
			if n < 0 {
				break
			}
			if k == int(r.Leaders[i]) {
				w.nodes[n].cpu += rate
			} else {
				w.nodes[n].cpu += rate * follower
			}
		}
	}
	for n := range w.nodes {
		w.measureNode(int16(n))
	}
}

func (w meter) measureNode(n int16) {
	v, m := &w.view.Nodes[n], &w.nodes[n]
	v.CPU = float32(m.cpu / 1e9 / w.cfg.Cores)
	v.DiskUsed = min(m.held+m.foreign, w.cfg.DiskBytes)
	v.DiskFree = w.cfg.DiskBytes - v.DiskUsed
}

// drift lets some ranges exchange their loads: what is hot moves on.
func (w meter) drift() {
	n := w.view.Ranges.Len()
	rate := w.cfg.Load.Drift * float64(n) / 3600 * reportEvery / 2
	pairs := int(rate)
	if w.rnd.Float64() < rate-float64(pairs) {
		pairs++
	}
	for range pairs {
		i, k := w.rnd.IntN(n), w.rnd.IntN(n)
		if t := &w.truth; t.nature[i] != atEnd && t.nature[k] != atEnd {
			t.rate[i], t.rate[k] = t.rate[k], t.rate[i]
		}
	}
}
