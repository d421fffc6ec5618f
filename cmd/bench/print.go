package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"pontoon/bench"
	"pontoon/bench/load"
	"pontoon/bench/unit"
)

// print writes a result as tables: a column per run, then ratios.
func (a *app) print(f *bench.File) error {
	fmt.Fprintln(a.out, f.Name)
	for _, line := range systems(f) {
		fmt.Fprintln(a.out, " ", line)
	}
	for _, r := range f.Runs {
		if err := printRun(a.out, r); err != nil {
			return err
		}
		if f.Disturbed(r) {
			fmt.Fprintf(a.out, "  disturbed: others used %s of %d cores\n", unit.Digits(r.Others), f.Machine.Cores)
		}
	}
	if len(f.Ratios) == 0 {
		return nil
	}
	fmt.Fprintf(a.out, "\nratios, %s to %s, pair by pair\n", f.Runs[0].System.Who(), f.Runs[1].System.Who())
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tmedian\tmin\tmax\tpairs\tbetter\t")
	for _, r := range f.Ratios {
		better := "lower"
		if r.Higher {
			better = "higher"
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%d\t%s\t\n", r.Figure, r.Median, r.Min, r.Max, len(r.Pairs), better)
	}
	return w.Flush()
}

// systems describes what was measured, each once.
func systems(f *bench.File) []string {
	var out []string
	for _, r := range f.Runs {
		s := r.System
		line := fmt.Sprintf("%s: %s", s.Who(), s.Version)
		if s.Nodes > 0 {
			line += fmt.Sprintf("; nodes: %d", s.Nodes)
		}
		if s.Gateways > 0 {
			line += fmt.Sprintf("; gateways: %d", s.Gateways)
		}
		if s.Ranges > 0 {
			line += fmt.Sprintf("; ranges: %d", s.Ranges)
		}
		if s.CPUs > 0 {
			line += fmt.Sprintf("; processors per server: %g", s.CPUs)
		}
		if s.Writes > 0 {
			line += fmt.Sprintf("; writes per server: %d/s", s.Writes)
		}
		if s.TLS {
			line += "; TLS"
		}
		if s.Permissions > 0 {
			line += fmt.Sprintf("; as a user with %d permissions", s.Permissions)
		}
		if !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// printRun writes one run. One that is not good shows its problems and no figures but counts.
func printRun(out io.Writer, r bench.Run) error {
	fmt.Fprintf(out, "\n%s #%d: %d operations in %.2f s", r.System.Who(), r.Pair+1, r.Operations, r.Elapsed.Seconds())
	if !r.Good {
		fmt.Fprint(out, ", NOT GOOD: its figures are only in the JSON file\n")
		for _, p := range r.Problems {
			fmt.Fprintln(out, "  -", p)
		}
		return nil
	}
	fmt.Fprintf(out, ", %.0f/s\n", r.Rate)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tmin\tmean\tp50\tp90\tp99\tp99.9\tmax\t")
	name := "latency"
	if r.Corrected {
		name += " from due"
	}
	printSummary(w, name, r.Latency)
	for _, kind := range sortedKeys(r.Kinds) {
		printSummary(w, kind, r.Kinds[kind])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if s := r.Servers; s != nil {
		fmt.Fprintf(out, "  servers: %.1f µs CPU and %.0f bytes to disk per operation; peak memory %s, anonymous %s\n",
			s.CPUPerOp, s.WrittenPerOp, unit.Bytes(float64(s.PeakResident)), unit.Bytes(float64(s.PeakAnonymous)))
	}
	if used := r.QuotaUsed(); used > 0 {
		fmt.Fprintf(out, "  servers: used %.0f %% of the %g processors that each was held to\n", used*100, r.System.CPUs)
	}
	if c := r.Client; c != nil {
		fmt.Fprintf(out, "  client: %.1f µs CPU per operation\n", c.CPUPerOp)
	}
	if r.PreparedAgain > 0 {
		fmt.Fprintf(out, "  preparation: %d requests were tried again, which the servers did not get to in time\n", r.PreparedAgain)
	}
	for _, name := range sortedKeys(r.Figures) {
		what, u := unit.Split(name)
		fmt.Fprintf(out, "  %s: %s\n", what, unit.Of(r.Figures[name], u))
	}
	return nil
}

func printSummary(w io.Writer, name string, s load.Summary) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, micros(s.Min), micros(int64(s.Mean)),
		micros(s.P50), micros(s.P90), micros(s.P99), micros(s.P999), micros(s.Max))
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func micros(us int64) string { return unit.Micros(float64(us)) }
