package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/internal/exitcode"
)

const programsLong = `Measures two programs of a node in turn, the same workloads with each: put, txn, range and watch-fanout through clientv3
and put through the shim, each result in a file of its own in the directory --out. The table in the end has what NEW takes for
each thing that OLD takes: medians of the pairs, and the least and the most of them.

  bench programs OLD/node NEW/node --nodes 3 --server-cpus 0.12 --pairs 5 --out DIR

With --server-cpus the servers' time is their own, whatever the machine does beside them; then it is what to go by.

Exit codes: 0 nothing got worse; 2 wrong usage; 3 a run is not good; 4 the servers' time per operation or their memory is above
--threshold in the median of a workload.`

// contest is one workload of the comparison, and through what it is measured.
type contest struct {
	workload, client string
	shape            func(*bench.Spec)
}

var contests = []contest{
	{"put", clientPlain, shaped(256, 16)},
	{"txn", clientPlain, shaped(256, 16)},
	{"range", clientPlain, shaped(256, 16)},
	{"watch-fanout", clientPlain, func(s *bench.Spec) {
		s.Clients, s.Conns, s.KeySpace, s.ValueSize, s.Watchers, s.Streams = 4, 4, 100, 256, 1000, 40
	}},
	{"put", clientShim, shaped(256, 1)},
}

func shaped(clients, conns int) func(*bench.Spec) {
	return func(s *bench.Spec) { s.Clients, s.Conns, s.ValueSize = clients, conns, 256 }
}

// programs are the flags of the command.
type programs struct {
	duration, warmUp time.Duration
	keys, clients    int
	threshold        float64
	only             []string
}

func (a *app) programsCommand() *cobra.Command {
	var p programs
	cmd := &cobra.Command{
		Use:     "programs OLD NEW",
		Short:   "Measure two programs of a node in turn, and what one takes more than the other",
		Long:    programsLong,
		GroupID: "results",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage("%s needs two arguments, the programs OLD and NEW", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.programs(cmd.Context(), p, args[0], args[1]) },
	}
	fs := cmd.Flags()
	fs.DurationVar(&p.duration, "duration", 15*time.Second, "how long each run is measured")
	fs.DurationVar(&p.warmUp, "warm-up", 3*time.Second, "run for so long before measuring")
	fs.IntVar(&p.keys, "key-space-size", 10_000, "different keys, of all but watch-fanout")
	fs.IntVar(&p.clients, "clients", 256, "how many operations may be on the way at once, of all but watch-fanout")
	fs.Float64Var(&p.threshold, "threshold", 3, "percent by which the servers' time per operation, or their memory, may be more")
	fs.StringSliceVar(&p.only, "only", nil, "of these workloads only")
	return cmd
}

// specs are what is measured.
func (p programs) specs() (out []bench.Spec, clients []string, err error) {
	for _, w := range p.only {
		if _, ok := bench.Lookup(w); !ok {
			return nil, nil, usage("there is no workload %q", w)
		}
	}
	for _, c := range contests {
		if len(p.only) > 0 && !slices.Contains(p.only, c.workload) {
			continue
		}
		d, _ := bench.Lookup(c.workload)
		s := d.Defaults
		c.shape(&s)
		if s.Watchers == 0 {
			s.KeySpace, s.Clients = p.keys, p.clients
		}
		s.Operations, s.Duration, s.WarmUp = 0, p.duration, p.warmUp
		out, clients = append(out, s), append(clients, c.client)
	}
	if len(out) == 0 {
		return nil, nil, usage("of %q there is none that programs are compared by", p.only)
	}
	return out, clients, nil
}

func (a *app) programs(ctx context.Context, p programs, old, now string) error {
	if filepath.Ext(a.flags.out) == ".json" {
		return usage("--out must be a directory: there are several results")
	}
	specs, clients, err := p.specs()
	if err != nil {
		return err
	}
	a.flags.target, a.flags.vs = bench.TargetPontoon+"="+now, bench.TargetPontoon+"="+old
	var rows []programRow
	for i, s := range specs {
		a.flags.client = clients[i]
		c, vs, err := a.flags.config(s)
		if err != nil {
			return err
		}
		f, err := a.measureOnce(ctx, c, vs)
		if err != nil {
			return err
		}
		rows = append(rows, programRow{s.Workload + " by " + clients[i], f})
	}
	return tellPrograms(a.out, rows, 1+p.threshold/100)
}

// programRow is one workload's result.
type programRow struct {
	name string
	file *bench.File
}

// Figures of the table; those in judged count.
var (
	programFigures = []string{"server-cpu-µs/op", "peak-anon-B", "peak-rss-B", "ops/s", "p50-µs", "p99-µs"}
	judged         = []string{"server-cpu-µs/op", "peak-anon-B"}
)

// tellPrograms prints what the new program takes of what the old one does, and turns that into an exit code.
func tellPrograms(out io.Writer, rows []programRow, most float64) error {
	fmt.Fprintf(out, "\nnew to old: median of the pairs (least to most)\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "workload")
	for _, name := range programFigures {
		fmt.Fprint(w, "\t", name)
	}
	fmt.Fprintln(w)
	var worse []string
	good := true
	for _, row := range rows {
		good = good && row.file.Good
		fmt.Fprint(w, row.name)
		for _, name := range programFigures {
			r, ok := ratioOf(row.file, name)
			if !ok {
				fmt.Fprint(w, "\t–")
				continue
			}
			fmt.Fprintf(w, "\t%.3f (%.2f to %.2f)", r.Median, r.Min, r.Max)
			if slices.Contains(judged, name) && (r.Median > most || math.IsNaN(r.Median)) {
				worse = append(worse, row.name+": "+name)
			}
		}
		fmt.Fprintln(w)
	}
	switch err := w.Flush(); {
	case err != nil:
		return err
	case !good:
		return exitcode.With(exitNotGood, errors.New("a run is not good"))
	case len(worse) > 0:
		return exitcode.With(exitWorse, fmt.Errorf("above %.3f: %q", most, worse))
	}
	return nil
}

func ratioOf(f *bench.File, figure string) (bench.Ratio, bool) {
	for _, r := range f.Ratios {
		if r.Figure == figure {
			return r, true
		}
	}
	return bench.Ratio{}, false
}
