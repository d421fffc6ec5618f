package report

import (
	"fmt"
	"slices"
	"strings"

	"pontoon/bench"
	"pontoon/bench/unit"
)

func newSection(f *bench.File, label string, i int) section {
	s := section{ID: sectionID(i), Label: label, Name: f.Name, Bad: problems(f), Runs: runs(f)}
	if d, ok := bench.Lookup(f.Spec.Workload); ok {
		s.Workload = d.Short
	}
	s.Disturbed = disturbed(f)
	names := columns(f.Runs)
	for _, n := range names {
		s.Who = append(s.Who, key{colour(n), n})
	}
	s.Rows = rows(f, names)
	for _, c := range charts(f) {
		if p, ok := c.draw(); ok {
			s.Plots = append(s.Plots, p)
		}
	}
	return s
}

func sectionID(i int) string { return fmt.Sprintf("r%d", i+1) }

// problems are what keeps runs from being good.
func problems(f *bench.File) []string {
	var out []string
	for _, r := range f.Runs {
		if r.Good {
			continue
		}
		out = append(out, fmt.Sprintf("%s, run %d is not good and its figures are not shown: %s", r.System.Who(), r.Pair+1, strings.Join(r.Problems, "; ")))
	}
	if len(f.Runs) == 0 {
		out = append(out, "nothing was measured")
	}
	return out
}

// runs says how it was measured.
func runs(f *bench.File) string {
	var out []string
	s := f.Spec
	if s.Rate > 0 {
		out = append(out, fmt.Sprintf("%s operations/s are due (open loop); latency counts from when one was due", unit.Count(s.Rate)))
	} else {
		out = append(out, fmt.Sprintf("closed loop of %d clients over %d connections", s.Clients, s.Conns))
	}
	for _, name := range columns(f.Runs) {
		out = append(out, fmt.Sprintf("good runs of %s: %d", name, len(good(f, name))))
	}
	return strings.Join(out, "; ")
}

// disturbed says how much of the machine others used, where that was too much.
func disturbed(f *bench.File) string {
	most := 0.0
	for _, r := range f.Runs {
		if r.Good && f.Disturbed(r) {
			most = max(most, r.Others)
		}
	}
	if most == 0 {
		return ""
	}
	return fmt.Sprintf("other processes used up to %s of %d cores meanwhile", unit.Digits(most), f.Machine.Cores)
}

// good are the runs of one system that may be shown.
func good(f *bench.File, name string) []bench.Run {
	var out []bench.Run
	for _, r := range f.Runs {
		if r.Good && r.System.Who() == name {
			out = append(out, r)
		}
	}
	return out
}

func rows(f *bench.File, names []string) []row {
	var out []row
	at := map[string]int{}
	values := map[string][][]float64{} // by figure, then by system
	for col, name := range names {
		for _, r := range good(f, name) {
			for _, fig := range r.All() {
				if _, known := at[fig.Name]; !known {
					at[fig.Name] = len(out)
					out = append(out, row{Figure: fig.Name, Higher: fig.Higher})
					values[fig.Name] = make([][]float64, len(names))
				}
				values[fig.Name][col] = append(values[fig.Name][col], fig.Value)
			}
		}
	}
	for i := range out {
		r := &out[i]
		_, u := unit.Split(r.Figure)
		for _, vs := range values[r.Figure] {
			r.Cells = append(r.Cells, spread(vs, u))
		}
		for _, ratio := range f.Ratios {
			if ratio.Figure == r.Figure {
				r.Ratio = ratioCell(ratio)
			}
		}
		r.Figure = words(r.Figure)
	}
	return out
}

// words writes a figure's name for people.
func words(figure string) string {
	what, u := unit.Split(figure)
	if what == u { // "B/s": the unit says it all
		what, _, _ = strings.Cut(u, "/")
	}
	if full, ok := fullWords[what]; ok {
		what = full
	}
	if _, per, ok := strings.Cut(u, "/"); ok {
		if full, ok := fullWords[per]; ok {
			per = full
		}
		what += " per " + per
	}
	return strings.ReplaceAll(what, "-", " ")
}

var fullWords = map[string]string{
	"ops": "operations", "server-cpu": "CPU of the servers", "client-cpu": "CPU of the client", "disk": "written to disk", "B": "bytes",
	"peak-rss": "peak memory", "peak-anon": "peak anonymous memory", "anon": "anonymous memory", "p999": "p99.9",
	"op": "operation", "s": "second", "cpu-s": "CPU second",
}

// spread writes values of a unit; what they are per stands in their name.
func spread(vs []float64, u string) cell {
	if len(vs) == 0 {
		return cell{Text: "–"}
	}
	u, _, _ = strings.Cut(u, "/")
	c := cell{Text: unit.Of(bench.Median(vs), u)}
	if lo, hi := slices.Min(vs), slices.Max(vs); hi > lo {
		c.Spread = unit.Of(lo, u) + " … " + unit.Of(hi, u)
	}
	return c
}

func ratioCell(r bench.Ratio) cell {
	c := cell{Text: unit.Of(r.Median, "×"), Class: verdict(r)}
	if len(r.Pairs) > 1 {
		c.Spread = unit.Digits(r.Min) + " … " + unit.Digits(r.Max)
	}
	return c
}

// clearly is how far a median ratio must be from 1 to be called better or worse.
const clearly = 0.05

// verdict tells whether the first system is clearly better or worse: by its median, and with all
// pairs, of which there are several, on the same side.
func verdict(r bench.Ratio) string {
	if len(r.Pairs) < 2 {
		return "even"
	}
	lo, mid, hi := r.Min, r.Median, r.Max
	if !r.Higher {
		lo, mid, hi = 1/r.Max, 1/r.Median, 1/r.Min
	}
	switch {
	case mid >= 1+clearly && lo > 1:
		return "better"
	case mid <= 1/(1+clearly) && hi < 1:
		return "worse"
	}
	return "even"
}
