package placement

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/mutate"
)

const (
	mib = 1 << 20
	// percent turns a share into what people read.
	percent = 100
)

// splitter holds the rules for ranges that are to be cut.
type splitter struct{ *planner }

// hand cuts where somebody asked for it.
func (p splitter) hand() {
	if p.s.Ranges.Len() == 0 {
		return
	}
	for _, a := range p.s.Asked {
		i := int32(p.s.Ranges.Find(a.Key))
		if bytes.Equal(p.s.Ranges.Start(int(i)), a.Key) {
			continue // it is there: that it stays is in its column
		}
		op := p.op(KindSplit, RuleHand, i)
		op.At, op.Key, op.Until, op.Why = CutAtKey, a.Key, a.Until, "somebody asked for this border"
		if !p.free(i) {
			p.hold(op, "the range takes part in another op")
			continue
		}
		p.cut(op, i)
	}
}

// cut plans a split if the range can be split at all.
func (p splitter) cut(op Op, i int32) bool {
	r, f := &p.s.Ranges, p.fleet
	row := r.Row(int(i))
	right := float64(r.Bytes[i]) / 2
	if op.At == CutAtEnd {
		right = 0
	}
	switch {
	case r.Flags[i]&Untrimmed != 0 && op.At == CutAtMiddle: // nobody knows where that is
		p.hold(op, "its file still holds what an earlier split gave away")
		return false
	case !f.quorate(row):
		p.hold(op, "a majority of its replicas is dead: it can log nothing until one of them is back")
		return false
	}
	for _, n := range row {
		if n >= 0 && f.role[n] != roleLost && !f.roomFor(n, float64(p.l.Split.DiskFactor)*right) {
			p.hold(op, fmt.Sprintf("node %v has less disk free than %.0f times the right part", p.node(n), p.l.Split.DiskFactor))
			return false
		}
	}
	if !p.begin(op, i, None, None) {
		return false
	}
	p.count++
	f.add(i, 1)
	f.settle()
	return true
}

// roomFor tells whether a node has so many bytes free.
func (f *fleet) roomFor(n int16, bytes float64) bool {
	return f.s.Nodes[n].DiskUsed+f.s.Nodes[n].DiskFree <= 0 || f.free[n] >= bytes
}

// justMerged tells whether a range came of a merge within the cooldown, when a split would undo it.
func (p splitter) justMerged(i int32) bool {
	r := &p.s.Ranges
	return r.Flags[i]&CutByMerge != 0 && p.now < after(r.At.Cut[i], p.l.Split.CutCooldown)
}

// sizes cuts ranges that are too large, the largest first.
func (p splitter) sizes() {
	for _, n := range p.notes.size.sorted() {
		i := n.at
		if !p.free(i) || mutate.On(mutate.PlanSize) {
			continue
		}
		size := p.s.Ranges.Bytes[i]
		op := p.op(KindSplit, RuleSize, i)
		op.At, op.Why = CutAtMiddle, fmt.Sprintf("%.0f MiB in use, cut from %.0f on", size/mib, p.l.Split.Bytes/mib)
		if s := p.s.sample(i); s != nil && p.isTail(s) {
			op.Rule, op.At = RuleTail, CutAtEnd
			op.Why += fmt.Sprintf("; %.0f %% of its writes go to its end", s.Tail*percent)
		}
		if p.justMerged(i) && size < p.l.Split.HardBytes {
			p.hold(op, fmt.Sprintf("it came of a merge less than %d s ago", p.l.Split.CutCooldown))
			continue
		}
		p.cut(op, i)
	}
}

// isTail tells whether a range grows at its end: a cut further in front gains nothing.
func (p splitter) isTail(s *Sample) bool { return s.Writes > 0 && s.Tail >= p.l.Split.Tail }

// hot cuts ranges that are too busy, the busiest first, and looks after those that cannot be cut.
func (p splitter) hot() {
	order := make([]int32, len(p.s.Samples))
	for k := range order {
		order[k] = int32(k)
	}
	slices.SortFunc(order, func(x, y int32) int {
		return cmp.Or(cmp.Compare(p.s.Samples[y].CPU, p.s.Samples[x].CPU), cmp.Compare(p.s.Samples[y].Writes, p.s.Samples[x].Writes), cmp.Compare(x, y))
	})
	for _, k := range order {
		s := &p.s.Samples[k]
		i := s.Range
		leader := p.s.Ranges.leader(int(i))
		if leader < 0 || s.CPU < p.cutFrom(leader) && s.Writes < p.l.Split.Writes {
			continue
		}
		if !p.free(i) || p.s.Ranges.Flags[i]&LoadUnknown != 0 || p.fleet.time.none(leader) && p.fleet.time.news[leader] {
			continue
		}
		if p.isTail(s) {
			p.tail(s, leader)
			continue
		}
		if p.worthACut(leader) && len(s.Points) > 0 && !mutate.On(mutate.PlanLoad) {
			p.cutHot(s)
		}
	}
}

// cutFrom is how busy a range that a node leads must be to be cut, in ns of processor time a second. Of a node that has no time left nobody knows how
// much more its clients would ask for: where another is all but idle, smaller parts are worth a cut, until one fits into what each node would do if all
// did as much. From then on it is moves that help, and the fewer parts there are, the fewer moves.
func (p *planner) cutFrom(leader int16) float32 {
	node := &p.s.Nodes[leader]
	from := p.l.Split.CPU * node.processor()
	if p.fleet.time.none(leader) {
		for n := range p.s.Nodes {
			if p.fleet.role[n] == roleServes && p.s.Nodes[n].CPU <= p.l.Split.NodeIdle {
				return min(from, max(from*p.l.Split.FullShare, p.usedShare*p.l.Split.FullPart))
			}
		}
	}
	return from
}

// usedShare is what each node would use of its processors, if all did as much, in ns a second.
func usedShare(s *Snapshot, f *fleet) float32 {
	sum, serve := float32(0), float32(0)
	for n := range f.role {
		if f.role[n] == roleServes {
			sum += s.Nodes[n].CPU * s.Nodes[n].processors()
			serve++
		}
	}
	return sum / max(serve, 1) * 1e9
}

// worthACut tells whether another node could do some of what this one does, or whether it has too much to do. The copies of a cut take from clients what
// a node does not have that has no time left: there, another must have much more.
func (p splitter) worthACut(leader int16) bool {
	here, less := p.fleet.time.used(leader, p.fleet.loads[leader][metricCPU]), p.l.Split.NodeLead
	switch {
	case p.fleet.time.none(leader):
		less *= 2
	case here > p.l.Split.NodeCPU:
		return true
	}
	for n := range p.s.Nodes {
		if p.fleet.role[n] == roleServes && here-p.s.Nodes[n].CPU >= less {
			return true
		}
	}
	return false
}

func (p splitter) cutHot(s *Sample) {
	i := s.Range
	op := p.op(KindSplit, RuleLoad, i)
	op.Why = fmt.Sprintf("%.0f %% of a processor and %.0f writes a second at its leader", s.CPU/1e9*percent, s.Writes)
	back := p.s.backoff(i)
	if back != nil && p.now < back.Until && !mutate.On(mutate.PlanBackoff) {
		p.hold(op, fmt.Sprintf("unsplittable: looked at again in %d s", back.Until-p.now))
		return
	}
	best := p.bestPoint(s)
	if best == nil {
		p.backOff(i, back)
		return
	}
	op.At, op.Key = CutAtKey, best.Key
	op.Why += fmt.Sprintf("; %.0f %% of it lies before the cut", best.Left*percent)
	if p.justMerged(i) {
		p.hold(op, fmt.Sprintf("it came of a merge less than %d s ago", p.l.Split.CutCooldown))
		return
	}
	p.cut(op, i)
}

// bestPoint is where a cut parts the load best without parting transactions, or nil.
func (p splitter) bestPoint(s *Sample) *SamplePoint {
	l := &p.l.Split
	var best *SamplePoint
	score := func(c *SamplePoint) float64 { return math.Abs(float64(c.Left)-0.5) + float64(c.Cross) }
	for k := range s.Points {
		c := &s.Points[k]
		if c.Left < l.Balance || c.Left > 1-l.Balance || c.Cross > l.Cross || bytes.Equal(c.Key, p.s.Ranges.Start(int(s.Range))) {
			continue
		}
		if best == nil || score(c) < score(best) {
			best = c
		}
	}
	return best
}

// backOff says that a range is unsplittable, for twice as long as the last time if that is not long ago.
func (p splitter) backOff(i int32, last *Backoff) {
	d := p.l.Split.Backoff
	if last != nil && p.now-last.Until <= last.For {
		d = min(2*last.For, p.l.Split.BackoffMax)
	}
	op := p.op(KindBackOff, RuleLoad, i)
	op.For, op.Until = d, p.now+d
	op.Why = fmt.Sprintf("unsplittable: no sampled key parts its load better than %.0f:%.0f with at most %.0f %% of transactions on both sides",
		p.l.Split.Balance*percent, (1-p.l.Split.Balance)*percent, p.l.Split.Cross*percent)
	p.taken[i] = struct{}{}
	p.out = append(p.out, op)
}

// tail gives the lead of a range that grows at its end to whoever has least to do beside it.
func (p splitter) tail(s *Sample, leader int16) {
	f, i := p.fleet, s.Range
	if f.weight[metricCPU] < triggerWeight || f.role[leader] != roleServes {
		return
	}
	own := float64(p.s.Ranges.CPU[i])
	others := func(n int16, mine float64) float64 { return f.share(n, metricCPU, f.loads[n][metricCPU]-mine) }
	here := others(leader, own)
	idlest, least := int16(None), here-float64(p.l.Split.TailLeadGain)
	for _, n := range p.s.Ranges.Row(int(i)) {
		if n < 0 || n == leader || f.role[n] != roleServes || !f.preferred(n) {
			continue
		}
		if o := others(n, own*f.l.Move.FollowerCPU); o <= least && f.saves(leader, n, f.handOver(i)) > gainMin {
			idlest, least = n, o
		}
	}
	why := fmt.Sprintf("%.0f %% of its writes go to its end: a cut gains nothing, and node %%v has less to do beside it", s.Tail*percent)
	if idlest >= 0 {
		if p.now >= p.ledUntil(i) {
			p.transfer(RuleTail, i, leader, idlest, fmt.Sprintf(why, p.node(idlest)))
		}
		return
	}
	row := p.s.Ranges.Row(int(i))
	now := f.doms.violations(row, f.role, roleAbsent)
	least = here - 2*float64(p.l.Split.TailLeadGain) // a move costs more than a transfer
	for n := range f.role {
		t := int16(n)
		if f.role[n] != roleServes || f.busy(t) || !f.preferred(t) || in(row, t) || others(t, 0) > least {
			continue
		}
		if !f.takes(t, float64(p.s.Ranges.Bytes[i]), f.l.Move.DiskFullEnd) || f.doms.after(row, leader, t, f.role, roleAbsent) > now ||
			f.saves(leader, t, f.work(i, true)) <= gainMin {
			continue
		}
		idlest, least = t, others(t, 0)
	}
	if idlest >= 0 && p.now >= p.movedUntil(i) {
		p.moveTo(RuleTail, i, leader, idlest, fmt.Sprintf(why, p.node(idlest)))
	}
}

func in(row []int16, n int16) bool {
	for _, m := range row {
		if m == n {
			return true
		}
	}
	return false
}
