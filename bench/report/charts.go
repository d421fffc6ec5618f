package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"pontoon/bench"
	"pontoon/bench/unit"
)

// charts are those of one result.
func charts(f *bench.File) []chart {
	latency := chart{
		title: "Latency by percentile", x: axis{label: "percentile", log: true},
		y: axis{label: "latency", unit: "µs", log: true}, marks: percentiles,
	}
	rate := chart{
		title: "Throughput over time", x: axis{label: "time", unit: "s", zero: true, tight: true},
		y: axis{label: "operations per second", zero: true},
	}
	memory := chart{
		title: "Memory of the servers over time", x: axis{label: "time", unit: "s", zero: true, tight: true},
		y: axis{label: "anonymous memory", unit: "B", zero: true},
	}
	for _, r := range f.Runs {
		if !r.Good {
			continue
		}
		cv := curve{name: r.System.Who(), class: colour(r.System.Who())}
		l := cv
		l.say = func(x, y float64) string { return fmt.Sprintf("p%.6g is %s", 100-100/x, unit.Micros(y)) }
		for _, p := range r.Latency.Curve {
			if p.At < 100 {
				l.points = append(l.points, [2]float64{100 / (100 - p.At), float64(p.Us)})
			}
		}
		t := cv
		for _, p := range r.Points {
			t.points = append(t.points, [2]float64{p.Second, p.Rate})
		}
		m := cv
		for _, p := range r.Memory {
			m.points = append(m.points, [2]float64{p.Second, float64(p.Anon)})
		}
		latency.curves, rate.curves, memory.curves = append(latency.curves, l), append(rate.curves, t), append(memory.curves, m)
	}
	return append([]chart{latency, rate, memory}, series(f)...)
}

// percentiles are marks of an axis on which a percentile p stands at 1 in how many exceed it.
var percentiles = map[float64]string{
	1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99", 100_000: "99.999", 1e6: "99.9999",
}

// series are charts of what a workload measured as something else grew, one per name.
func series(f *bench.File) []chart {
	var out []chart
	at := map[string]int{}
	for _, r := range f.Runs {
		if !r.Good {
			continue
		}
		for _, s := range r.Series {
			i, known := at[s.Name]
			if !known {
				i = len(out)
				at[s.Name] = i
				out = append(out, chart{title: s.Name, x: axis{label: s.X, tight: true}, y: axis{label: quantity(s.Y), unit: s.Y, zero: true}})
			}
			out[i].curves = append(out[i].curves, curve{name: r.System.Who(), class: colour(r.System.Who()), points: s.Points})
		}
	}
	for i := range out {
		out[i].x.log = wide(out[i].curves)
	}
	return out
}

// quantity is what a unit measures.
func quantity(u string) string {
	switch u {
	case "B":
		return "bytes"
	case "s", "µs":
		return "time"
	}
	return u
}

// wide tells whether the x values of curves are positive and spread over more than a decade and a
// half, so that they need a logarithmic axis.
func wide(curves []curve) bool {
	lo, hi := math.Inf(1), 0.0
	for _, c := range curves {
		for _, p := range c.points {
			lo, hi = min(lo, p[0]), max(hi, p[0])
		}
	}
	return lo > 0 && hi/lo > 30
}

// scaling are charts over the number of ranges, of what was measured with several.
func scaling(files []*bench.File) []plot {
	var names []string
	by := map[string]map[int][]bench.Run{} // by what was measured, then by ranges
	for i, name := range labels(unranged(files)) {
		for _, r := range files[i].Runs {
			if !r.Good || r.System.Ranges == 0 {
				continue
			}
			id := name + " on " + r.System.Who()
			if by[id] == nil {
				names, by[id] = append(names, id), map[int][]bench.Run{}
			}
			by[id][r.System.Ranges] = append(by[id][r.System.Ranges], r)
		}
	}
	var out []plot
	for _, fig := range []string{"ops/s", "p99-µs", "server-cpu-µs/op"} {
		_, u := unit.Split(fig)
		u, _, _ = strings.Cut(u, "/")
		c := chart{title: words(fig), x: axis{label: "ranges", log: true}, y: axis{label: words(fig), unit: u, zero: true}, marks: map[float64]string{}}
		for i, id := range names {
			if cv := overRanges(fig, by[id]); len(cv) >= shortestLine {
				c.curves = append(c.curves, curve{name: id, class: fmt.Sprintf("c%d", i%colours), points: cv})
				for _, p := range cv {
					c.marks[p[0]] = unit.Count(p[0])
				}
			}
		}
		if p, ok := c.draw(); ok {
			out = append(out, p)
		}
	}
	return out
}

// unranged are results as if all had the same number of ranges, so that labels do not tell it.
func unranged(files []*bench.File) []*bench.File {
	var out []*bench.File
	for _, f := range files {
		g := *f
		g.Runs = slices.Clone(f.Runs)
		for i := range g.Runs {
			g.Runs[i].System.Ranges = 0
		}
		// Results that differ in nothing else are one: their labels may be the same.
		if i := slices.IndexFunc(out, func(o *bench.File) bool { return o.Name == g.Name && client(o) == client(&g) }); i >= 0 {
			out = append(out, out[i])
			continue
		}
		out = append(out, &g)
	}
	return out
}

// overRanges are the medians of a figure.
func overRanges(fig string, by map[int][]bench.Run) [][2]float64 {
	values := map[int][]float64{}
	for n, runs := range by {
		for _, r := range runs {
			for _, g := range r.All() {
				if g.Name == fig {
					values[n] = append(values[n], g.Value)
				}
			}
		}
	}
	return medians(values)
}

// colours is how many classes c0, c1, … the page has.
const colours = 6

func medians(values map[int][]float64) [][2]float64 {
	var out [][2]float64
	for x, vs := range values {
		out = append(out, [2]float64{float64(x), bench.Median(vs)})
	}
	slices.SortFunc(out, func(a, b [2]float64) int { return int(a[0] - b[0]) })
	return out
}
