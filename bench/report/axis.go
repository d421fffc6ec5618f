package report

import (
	"math"

	"pontoon/bench/unit"
)

// scale maps values to places on a drawing.
type scale struct {
	log      bool
	min, max float64 // values
	from, to float64 // places
}

func (s scale) at(v float64) float64 {
	lo, hi := s.min, s.max
	if s.log {
		lo, hi, v = math.Log(lo), math.Log(hi), math.Log(v)
	}
	if hi == lo {
		return (s.from + s.to) / 2
	}
	return s.from + (v-lo)/(hi-lo)*(s.to-s.from)
}

// tick is a mark on an axis.
type tick struct {
	At   float64 // place
	Text string
}

// axis says what an axis shows.
type axis struct {
	label string
	unit  string // of unit.Of
	log   bool
	zero  bool // begins at 0
	tight bool // ends at the highest value, not at the mark behind it
}

// ticksMax bounds how many marks an axis has.
const ticksMax = 7

// fit makes a scale that holds all values, ends at marks, and lies between two places.
func (a axis) fit(values []float64, from, to float64) (scale, []tick) {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if a.log && v <= 0 {
			continue
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo > hi {
		lo, hi = 1, 10
	}
	var marks []float64
	if a.log {
		marks = logMarks(lo, hi)
	} else {
		if a.zero {
			lo = min(lo, 0)
		}
		marks = linearMarks(lo, hi, a.unit == "B")
		if last := len(marks) - 1; a.tight && hi < marks[last] {
			marks[last] = hi
			s := scale{min: marks[0], max: hi, from: from, to: to}
			return s, a.ticks(s, marks[:last])
		}
	}
	s := scale{log: a.log, min: marks[0], max: marks[len(marks)-1], from: from, to: to}
	return s, a.ticks(s, marks)
}

func (a axis) ticks(s scale, marks []float64) []tick {
	var out []tick
	for _, m := range marks {
		out = append(out, tick{At: round(s.at(m)), Text: unit.Of(m, a.unit)})
	}
	return out
}

// linearMarks are round numbers at equal distances that enclose lo and hi; powers of two are round
// where binary.
func linearMarks(lo, hi float64, binary bool) []float64 {
	if hi == lo {
		hi = lo + max(1, math.Abs(lo))
	}
	raw := (hi - lo) / (ticksMax - 2)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5, 10} {
		if step*f >= raw {
			step *= f
			break
		}
	}
	if binary {
		step = math.Pow(2, math.Ceil(math.Log2(raw)))
	}
	var out []float64
	for i := math.Floor(lo/step + 1e-9); ; i++ {
		out = append(out, i*step)
		if i*step >= hi-step*1e-9 {
			return out
		}
	}
}

// logMarks are 1, 2 and 5 of every decade that enclose lo and hi, or whole decades where these are
// too many.
func logMarks(lo, hi float64) []float64 {
	for _, factors := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
		if out := decadeMarks(lo, hi, factors); len(out) <= ticksMax+1 {
			return out
		}
	}
	return decadeMarks(lo, hi, []float64{1})
}

func decadeMarks(lo, hi float64, factors []float64) []float64 {
	var all []float64
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi))+1; e++ {
		for _, f := range factors {
			all = append(all, f*math.Pow(10, e))
		}
	}
	first, last := 0, len(all)-1
	for first+1 < len(all) && all[first+1] <= lo*(1+1e-9) {
		first++
	}
	for last-1 > first && all[last-1] >= hi*(1-1e-9) {
		last--
	}
	return all[first : last+1]
}
