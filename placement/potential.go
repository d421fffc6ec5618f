package placement

import "math"

// Potential is how far a cluster is from what is wanted, ops under way counted as done. Every op lowers it: what stands first
// outweighs all that follows. Only a split may seem to raise it: of a range that lacks replicas it makes two that do.
type Potential struct {
	// Missing counts replicas that a range has not, has too many, or has on nodes that are gone or to be empty.
	Missing int
	// Violations counts replicas that are one too many in their failure domain, and leads that are not where they are preferred.
	Violations int
	// Shape is what ranges are too large or too busy, and pairs that are too small, as a number without a unit: 1 is one range
	// at the threshold of a split.
	Shape float64
	// Imbalance is the sum over nodes and metrics of squared deviations from the mean, as shares of it.
	Imbalance float64
}

// Value is the whole as one number.
func (p Potential) Value() float64 {
	return 1e6*float64(p.Missing) + 1e3*float64(p.Violations) + p.Shape + p.Imbalance
}

// Less tells whether p is nearer to what is wanted than o by more than rounding does.
func (p Potential) Less(o Potential) bool {
	switch {
	case p.Missing != o.Missing:
		return p.Missing < o.Missing
	case p.Violations != o.Violations:
		return p.Violations < o.Violations
	case math.Abs(p.Shape-o.Shape) > 1e-6:
		return p.Shape < o.Shape
	}
	return p.Imbalance < o.Imbalance-1e-9
}

// What a pair that could be one range adds to the shape, and what all replicas of a run of such pairs add at most that do not lie
// together; and what a large range adds that grows at its end, beside its size.
const (
	tailShape      = 1.0
	pairShape      = 0.1
	misplacedShape = 0.05
)

// Measure works out the potential of a snapshot. It walks all ranges.
func Measure(s *Snapshot, l Limits, now Seconds) Potential {
	p := newPlanner(s, &l, now)
	p.scan()
	f, r := p.fleet, &s.Ranges
	var out Potential
	moved := make(map[int32]Running)
	for _, op := range s.Running {
		moved[op.Range] = op
	}
	for i := range r.IDs {
		row := r.Row(i)
		leader := r.leader(i)
		if op, ok := moved[int32(i)]; ok && (op.Kind == KindMove || op.Kind == KindTransfer) {
			row, leader = afterOp(row, leader, op)
		}
		out.Missing += missing(f, row)
		out.Violations += f.doms.violations(row, f.role, roleAbsent)
		if leader >= 0 && (f.role[leader] == roleLeaves || !f.preferred(leader)) {
			out.Violations++
		}
		if b := float64(r.Bytes[i] / l.Split.Bytes); b >= 1 {
			out.Shape += b * b
		}
	}
	for k := range s.Samples {
		if c := &s.Samples[k]; r.Bytes[c.Range] >= l.Split.Bytes && (splitter{p}).isTail(c) {
			out.Shape += tailShape
		}
		from := l.Split.CPU
		if leader := r.leader(int(s.Samples[k].Range)); leader >= 0 {
			from = p.cutFrom(leader)
		}
		if h := max(s.Samples[k].CPU/from, s.Samples[k].Writes/l.Split.Writes); h >= 1 {
			out.Shape += float64(h) * float64(h)
		}
	}
	out.Shape += merger{p}.pairs()
	out.Imbalance = f.imbalance()
	return out
}

// pairs is what neighbours that should be one range add to the shape.
func (p merger) pairs() float64 {
	r, sum := &p.s.Ranges, 0.0
	if !p.mergesAtAll() {
		return 0
	}
	run, apart := 0, 0
	for i := 1; i <= r.Len(); i++ {
		if i < r.Len() && p.mergeable(int32(i-1)) {
			if run%2 == 0 {
				for _, n := range r.Row(i) {
					if n >= 0 && !in(r.Row(i-1), n) {
						apart++
					}
				}
			}
			run++
			continue
		}
		if run > 0 {
			sum += pairShape*float64(run) + misplacedShape*float64(apart)/float64((run+1)/2*r.Width)
		}
		run, apart = 0, 0
	}
	return sum
}

// missing counts what a row lacks, or has too many of.
func missing(f *fleet, row []int16) int {
	n, have := 0, 0
	for _, m := range row {
		if m < 0 {
			continue
		}
		have++
		if f.role[m]&roleAbsent != 0 {
			n++
		}
	}
	if have > f.wanted {
		return max(n, have-f.wanted)
	}
	return n + f.wanted - have
}

// afterOp is where a range is once an op on it is over.
func afterOp(row []int16, leader int16, op Running) ([]int16, int16) {
	if op.Kind == KindTransfer {
		return row, op.To
	}
	out := make([]int16, 0, len(row)+1)
	for _, n := range row {
		if n >= 0 && n != op.From {
			out = append(out, n)
		}
	}
	if op.To >= 0 {
		out = append(out, op.To)
	}
	if leader == op.From {
		leader = op.Leader
	}
	return out, leader
}
