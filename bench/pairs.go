package bench

import (
	"context"
	"errors"
	"math"
	"slices"
)

// Ratio compares one figure of two systems pair by pair: the first system's divided by the second's.
type Ratio struct {
	Figure string `json:"figure"`
	// Higher is whether a higher figure is better.
	Higher bool      `json:"higher_is_better"`
	Pairs  []float64 `json:"pairs"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
}

// Figure is one number of a run.
type Figure struct {
	Name   string
	Value  float64
	Higher bool // is better
}

// All are the figures of a run by which it can be compared.
func (r Run) All() []Figure {
	out := []Figure{
		{"ops/s", r.Rate, true},
		{"p50-µs", float64(r.Latency.P50), false},
		{"p99-µs", float64(r.Latency.P99), false},
		{"p999-µs", float64(r.Latency.P999), false},
	}
	var kinds []string
	for name := range r.Kinds {
		kinds = append(kinds, name)
	}
	slices.Sort(kinds)
	for _, name := range kinds {
		out = append(out, Figure{name + "-p50-µs", float64(r.Kinds[name].P50), false},
			Figure{name + "-p99-µs", float64(r.Kinds[name].P99), false})
	}
	if s := r.Servers; s != nil {
		if s.CPUSeconds > 0 {
			out = append(out, Figure{"server-cpu-µs/op", s.CPUPerOp, false}, Figure{"disk-B/op", s.WrittenPerOp, false})
		}
		out = append(out, Figure{"peak-rss-B", float64(s.PeakResident), false}, Figure{"peak-anon-B", float64(s.PeakAnonymous), false})
	}
	if c := r.Client; c != nil {
		out = append(out, Figure{"client-cpu-µs/op", c.CPUPerOp, false})
	}
	var names []string
	for name := range r.Figures {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out = append(out, Figure{name, r.Figures[name], higherIsBetter(name)})
	}
	return out
}

// PairsMax bounds how many pairs are run.
const PairsMax = 1000

// Paired measures the target of the configuration and another in turn, so many pairs: first one,
// then the other, then the first again, each on fresh data, always the same operations. It goes on
// when a run is not good, because that is a result, too.
func Paired(ctx context.Context, c Config, vs Target, pairs int) (*File, error) {
	if err := c.Spec.Validate(); err != nil {
		return nil, err
	}
	if pairs < 1 || pairs > PairsMax {
		return nil, errors.New("there must be at least one pair, and not more than 1000")
	}
	f := c.file()
	for pair := range pairs {
		for _, t := range []Target{c.Target, vs} {
			run, err := c.once(ctx, t, pair)
			if run != nil {
				f.Runs = append(f.Runs, *run)
			}
			if err != nil {
				return f, err
			}
		}
	}
	f.Good = !slices.ContainsFunc(f.Runs, func(r Run) bool { return !r.Good })
	f.Ratios = Ratios(f.Runs)
	return f, nil
}

// Ratios compares runs that follow one another in pairs. Pairs of which a run is not good do not
// count; a figure that is missing or zero on either side has no ratio.
func Ratios(runs []Run) []Ratio {
	var out []Ratio
	at := map[string]int{}
	for i := 0; i+1 < len(runs); i += 2 {
		a, b := runs[i], runs[i+1]
		if !a.Good || !b.Good {
			continue
		}
		below := map[string]float64{}
		for _, f := range b.All() {
			below[f.Name] = f.Value
		}
		for _, f := range a.All() {
			if f.Value == 0 || below[f.Name] == 0 {
				continue
			}
			j, known := at[f.Name]
			if !known {
				j = len(out)
				at[f.Name] = j
				out = append(out, Ratio{Figure: f.Name, Higher: f.Higher})
			}
			out[j].Pairs = append(out[j].Pairs, f.Value/below[f.Name])
		}
	}
	for i := range out {
		out[i].Median = Median(out[i].Pairs)
		out[i].Min, out[i].Max = slices.Min(out[i].Pairs), slices.Max(out[i].Pairs)
	}
	return out
}

// Median of some numbers; of two in the middle it is the geometric mean, which suits ratios.
func Median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(of))
	mid := s[len(s)/2]
	if len(s)%2 == 1 {
		return mid
	}
	return math.Sqrt(mid * s[len(s)/2-1])
}
