package placement

import (
	"fmt"

	"pontoon/internal/mutate"
)

// merger holds the rules for neighbours that are to become one range.
type merger struct{ *planner }

// merges makes one range of two small and idle neighbours. It looks at pairs: what one of them is says nothing. Of a run of pairs that
// overlap the scan notes every other one, so that nobody is wanted on both sides.
func (p merger) merges() {
	for _, n := range p.notes.merge.sorted() {
		if p.free(n.at) && p.free(n.at+1) {
			p.merge(n.at, n.at+1)
		}
	}
}

// mergesAtAll tells whether there are more ranges than were asked for.
func (p merger) mergesAtAll() bool { return p.count > max(p.l.Merge.RangesMin, 1) }

// mergeable tells whether a range and the one behind it should be one: nothing but time speaks for either. A load that nobody knows is
// a load.
func (p merger) mergeable(left int32) bool {
	r, right := &p.s.Ranges, left+1
	if mutate.On(mutate.PlanMemory) {
		return r.Bytes[left]+r.Bytes[right] < p.l.Merge.Bytes && r.CPU[left]+r.CPU[right] < p.l.Merge.Load*p.l.Split.CPU
	}
	if (r.Flags[left]|r.Flags[right])&(LoadUnknown|LoadShort) != 0 {
		return false
	}
	return p.joins(left)
}

// joins is the same without the loads that nobody knows yet.
func (p merger) joins(left int32) bool {
	r, right := &p.s.Ranges, left+1
	if r.At.Sticky[right] > p.now {
		return false
	}
	return r.Bytes[left]+r.Bytes[right] < p.l.Merge.Bytes &&
		r.Peak.CPU[left]+r.Peak.CPU[right] < p.l.Merge.Load*p.l.Split.CPU &&
		r.Peak.Writes[left]+r.Peak.Writes[right] < p.l.Merge.Load*p.l.Split.Writes
}

// inPair tells whether a range is about to be part of a merge, which needs it where it is.
func (p merger) inPair(i int32) bool {
	return p.mergesAtAll() && (i > 0 && p.pair(i-1) || int(i)+1 < p.s.Ranges.Len() && p.pair(i))
}

// pair tells whether a range and the one behind it are about to be one: also where that one was moved beside it, and its load is not known since.
func (p merger) pair(left int32) bool {
	return p.mergeable(left) || p.s.Ranges.Flags[left+1]&MovedToAlign != 0 && p.joins(left)
}

func (p merger) merge(left, right int32) {
	r, f := &p.s.Ranges, p.fleet
	op := p.op(KindMerge, RuleMerge, left)
	op.Right, op.RightGeneration = r.IDs[right], r.Generations[right]
	op.Why = fmt.Sprintf("%.0f MiB together, and idle", (r.Bytes[left]+r.Bytes[right])/mib)
	if why := p.keepsApart(left, right); why != "" {
		p.hold(op, why)
		return
	}
	from, to := p.misplaced(left, right)
	if from < 0 {
		for _, n := range r.Row(int(left)) {
			if n >= 0 && !f.takes(n, float64(r.Bytes[right]), 0) {
				p.hold(op, fmt.Sprintf("node %v has no disk for both", p.node(n)))
				return
			}
		}
		if p.begin(op, left, None, None) {
			p.taken[right] = struct{}{}
			p.count--
			f.shift(r.leader(int(right)), r.leader(int(left)), f.handOver(right))
			f.add(left, -1)
			f.settle()
		}
		return
	}
	if to < 0 {
		p.hold(op, "they lie on different nodes, and the right one cannot come to the left one's")
		return
	}
	p.moveTo(RuleAlign, right, from, to, fmt.Sprintf("to lie where %v does, for a merge", r.IDs[left]))
}

// keepsApart says what keeps two idle neighbours from becoming one, in words.
func (p merger) keepsApart(left, right int32) string {
	r := &p.s.Ranges
	if !p.mergesAtAll() {
		return fmt.Sprintf("so many ranges were asked for: %d", p.l.Merge.RangesMin)
	}
	ready := Seconds(0)
	for _, i := range []int32{left, right} {
		for _, n := range r.Row(int(i)) {
			if n >= 0 && p.fleet.role[n] != roleServes {
				return fmt.Sprintf("node %v does not serve, and a merge takes all replicas", p.node(n))
			}
		}
		ready = max(ready, after(r.At.Cut[i], p.l.Merge.Cooldown), after(r.At.Led[i], p.l.Merge.Cooldown))
		if i == left || r.Flags[i]&MovedToAlign == 0 {
			ready = max(ready, after(r.At.Moved[i], p.l.Merge.Cooldown))
		}
	}
	if p.now < ready {
		return fmt.Sprintf("something was done to one of them less than %d s ago", p.l.Merge.Cooldown)
	}
	if a, b := voters(r.Row(int(left))), voters(r.Row(int(right))); a != b {
		return fmt.Sprintf("they have %d and %d replicas", a, b)
	}
	return ""
}

func voters(row []int16) int {
	n := 0
	for _, m := range row {
		if m >= 0 {
			n++
		}
	}
	return n
}

// misplaced finds the replica of the right range that had best move, and where the left one's is that it should join. from is None
// if all lie together already, to is None if no move is possible now.
func (p merger) misplaced(left, right int32) (from, to int16) {
	r, f := &p.s.Ranges, p.fleet
	a, b := r.Row(int(left)), r.Row(int(right))
	now := f.doms.violations(b, f.role, roleAbsent)
	from, to = None, None
	best := 0
	for _, n := range b {
		if n < 0 || in(a, n) {
			continue
		}
		if from < 0 {
			from = n
		}
		for _, t := range a {
			if t < 0 || in(b, t) || f.busy(t) || !f.takes(t, float64(r.Bytes[right]), f.l.Move.DiskFull) {
				continue
			}
			v := f.doms.after(b, n, t, f.role, roleAbsent) * 2
			if r.leader(int(right)) == n {
				v++ // the leader had better stay
			}
			if v/2 <= now && (to < 0 || v < best) {
				from, to, best = n, t, v
			}
		}
	}
	return from, to
}
