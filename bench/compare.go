package bench

import (
	"fmt"
	"math"
	"slices"
)

// Change is how one figure differs between two results.
type Change struct {
	Name   string // of what was measured
	Of     string // the system, or "pontoon/etcd" for the ratio of two
	Figure string
	Higher bool // is better
	// Old and New are medians; Overlap is whether the spreads of both have something in common.
	Old, New float64
	Overlap  bool
}

// Worse is by what factor the figure got worse; less than 1: it got better.
func (c Change) Worse() float64 {
	if c.Higher {
		return c.Old / c.New
	}
	return c.New / c.Old
}

// Comparison is what differs between old and new results.
type Comparison struct {
	Changes []Change
	// Missing are in the old results alone, NotGood are not good in the new ones.
	Missing, NotGood []string
}

// informative figures are shown and never counted: too few operations decide them, or they are not
// the servers'.
var informative = []string{"p999-µs", "client-cpu-µs/op", "peak-rss-B", "conflicts/op"}

// Regressions are the changes that are worse by more than threshold (0.1 is 10 %), beyond what runs
// of either side differ among themselves.
func (c Comparison) Regressions(threshold float64) []Change {
	var out []Change
	for _, ch := range c.Changes {
		if ch.Worse() > 1+threshold && !ch.Overlap && !slices.Contains(informative, ch.Figure) {
			out = append(out, ch)
		}
	}
	return out
}

// sample is all that is known of one figure of one system.
type sample struct {
	name, of, figure string
	higher           bool
	values           []float64
}

// Compare holds new results against old ones of the same names. Where both sides measured two systems
// in pairs it compares their ratios, since a machine that got slower slows both; unless absolute.
func Compare(old, now []*File, absolute bool) (Comparison, error) {
	var c Comparison
	rated := map[string]bool{} // what has ratios on both sides
	if !absolute {
		oldRated := ratedIDs(old)
		for id := range ratedIDs(now) {
			rated[id] = oldRated[id]
		}
	}
	oldBy, newBy := samples(old, rated), samples(now, rated)
	for _, f := range now {
		if !f.Good {
			c.NotGood = append(c.NotGood, f.id())
		}
	}
	there := map[string]bool{}
	for _, f := range now {
		there[f.id()] = true
	}
	for _, f := range old {
		if !there[f.id()] && !slices.Contains(c.Missing, f.id()) {
			c.Missing = append(c.Missing, f.id())
		}
	}
	for _, o := range oldBy {
		i := slices.IndexFunc(newBy, func(n sample) bool { return n.name == o.name && n.of == o.of && n.figure == o.figure })
		if i < 0 {
			continue
		}
		n := newBy[i]
		ch := Change{Name: o.name, Of: o.of, Figure: o.figure, Higher: o.higher, Old: Median(o.values), New: Median(n.values)}
		if ch.Old <= 0 || ch.New <= 0 || math.IsInf(ch.New, 0) {
			continue
		}
		ch.Overlap = len(o.values) > 1 && len(n.values) > 1 &&
			slices.Min(o.values) <= slices.Max(n.values) && slices.Min(n.values) <= slices.Max(o.values)
		c.Changes = append(c.Changes, ch)
	}
	if len(c.Changes) == 0 {
		return c, fmt.Errorf("the results have nothing in common that is good on both sides")
	}
	return c, nil
}

// id names what a file is about, with what of the servers the name of a workload leaves out.
func (f *File) id() string {
	for _, r := range f.Runs {
		if r.System.Ranges > 0 {
			return fmt.Sprintf("%s/ranges=%d/nodes=%d%s", f.Name, r.System.Ranges, r.System.Nodes, r.System.held())
		}
	}
	if len(f.Runs) > 0 {
		return f.Name + f.Runs[0].System.held()
	}
	return f.Name
}

// held says what the servers were held to.
func (s SystemInfo) held() string {
	out := ""
	if s.CPUs != 0 {
		out += fmt.Sprintf("/server-cpus=%g", s.CPUs)
	}
	if s.Writes != 0 {
		out += fmt.Sprintf("/server-writes=%d", s.Writes)
	}
	if s.TLS {
		out += "/tls"
	}
	if s.Permissions != 0 {
		out += fmt.Sprintf("/permissions=%d", s.Permissions)
	}
	return out
}

// QuotaUsed is the share of what the servers were held to that they used; 0 where they were not.
func (r Run) QuotaUsed() float64 {
	available := r.System.CPUs * float64(r.System.Nodes) * r.Elapsed.Seconds()
	if available == 0 || r.Servers == nil {
		return 0
	}
	return r.Servers.CPUSeconds / available
}

func ratedIDs(files []*File) map[string]bool {
	out := map[string]bool{}
	for _, f := range files {
		if len(f.Ratios) > 0 {
			out[f.id()] = true
		}
	}
	return out
}

// samples collects the ratios of pairs of what is rated, the figures of good runs of the others.
func samples(files []*File, rated map[string]bool) []sample {
	var out []sample
	for _, f := range files {
		if rated[f.id()] {
			for _, r := range f.Ratios {
				of := f.Runs[0].System.Who() + "/" + f.Runs[1].System.Who()
				add(&out, sample{f.id(), of, r.Figure, r.Higher, slices.Clone(r.Pairs)})
			}
			continue
		}
		for _, r := range f.Runs {
			if !r.Good {
				continue
			}
			for _, fig := range r.All() {
				add(&out, sample{f.id(), r.System.Who(), fig.Name, fig.Higher, []float64{fig.Value}})
			}
		}
	}
	return out
}

// Who names a system for people: its kind, a program that was named and, where it is another than clientv3, the
// client.
func (s SystemInfo) Who() string {
	who := s.Kind
	if s.Program != "" {
		who += "=" + s.Program
	}
	if s.Client == "" || s.Client == "clientv3" {
		return who
	}
	return who + " by " + s.Client
}

func add(to *[]sample, s sample) {
	for i := range *to {
		if t := &(*to)[i]; t.name == s.name && t.of == s.of && t.figure == s.figure {
			t.values = append(t.values, s.values...)
			return
		}
	}
	*to = append(*to, s)
}
