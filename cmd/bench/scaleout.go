package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/internal/exitcode"
)

const scaleOutLong = `Measures the same workloads on clusters of several sizes, with clients in proportion to nodes, and tells what the largest carries of
what the smallest does. Each server is held to the same part of a processor, with the clients outside, so that a node more is a processor's part
more. The rows:

  put, txn, range   on keys drawn evenly, which are cut into --ranges; put and txn through the shim, too
  hot               reads of one key
  one-range         puts of keys as Kubernetes has them, all in one range at first: the planner cuts and spreads it in the --settle before

  bench scale-out --server-cpus 0.12 --over 3,6,9 --out DIR
  bench scale-out --server-cpus 0.12 --only put,hot --etcd-over 3,5,9    # genuine etcd beside it, on as many nodes as it would have

Exit codes: 0 good; 2 wrong usage; 3 a run is not good.`

// course is one workload of the command.
type course struct {
	name, workload, client string
	shape                  func(*bench.Spec)
	etcd                   bool // it has that row, too
	ranges                 int  // 0: --ranges
	settles                bool // its warm-up is --settle
}

var courses = []course{
	{name: "put", workload: "put", client: clientPlain, etcd: true},
	{name: "put", workload: "put", client: clientShim},
	{name: "txn", workload: "txn", client: clientPlain, etcd: true},
	{name: "txn", workload: "txn", client: clientShim},
	{name: "range", workload: "range", client: clientPlain, etcd: true},
	{name: "hot", workload: "range", client: clientPlain, etcd: true, ranges: 1, shape: func(s *bench.Spec) { s.KeySpace = 1 }},
	{name: "one-range", workload: "put", client: clientPlain, ranges: 1, settles: true, shape: func(s *bench.Spec) {
		s.Prefix = "/registry/pods/default/pod-"
	}},
}

// scaleOut are the flags of the command.
type scaleOut struct {
	over, etcdOver            []int
	duration, warmUp, settle  time.Duration
	keys, clients, conns, cut int
	only                      []string
}

func (a *app) scaleOutCommand() *cobra.Command {
	var o scaleOut
	cmd := &cobra.Command{
		Use:     "scale-out",
		Short:   "Measure what more nodes carry",
		Long:    scaleOutLong,
		GroupID: "results",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.scaleOut(cmd.Context(), o) },
	}
	fs := cmd.Flags()
	fs.IntSliceVar(&o.over, "over", []int{3, 6, 9}, "how many nodes, ascending")
	fs.IntSliceVar(&o.etcdOver, "etcd-over", nil, "how many nodes of genuine etcd; none: it is not measured")
	fs.DurationVar(&o.duration, "duration", 20*time.Second, "how long each run is measured")
	fs.DurationVar(&o.warmUp, "warm-up", 15*time.Second, "run for so long before measuring")
	fs.DurationVar(&o.settle, "settle", 3*time.Minute, "the same for one-range, while the planner works")
	fs.IntVar(&o.keys, "key-space-size", 100_000, "different keys, of all but hot")
	fs.IntVar(&o.clients, "clients-per-node", 228, "how many operations may be on the way at once, for each node")
	fs.IntVar(&o.conns, "conns-per-node", 8, "connections, for each node; the shim has its own")
	fs.IntVar(&o.cut, "cut", 48, "into how many ranges keys are cut that are drawn evenly")
	fs.StringSliceVar(&o.only, "only", nil, "of these rows only")
	return cmd
}

func (o *scaleOut) check() error {
	for _, l := range [][]int{o.over, o.etcdOver} {
		for i, n := range l {
			if n < 1 || n > nodesMax || i > 0 && n <= l[i-1] {
				return usage("numbers of nodes must ascend from 1 to %d: %d", nodesMax, l)
			}
		}
	}
	if len(o.over) < 2 {
		return usage("--over needs two numbers of nodes at least")
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(courses, func(c course) bool { return c.name == name }) {
			return usage("scale-out has no row %q", name)
		}
	}
	return nil
}

// spec is what a course measures on so many nodes.
func (o *scaleOut) spec(c course, nodes int) bench.Spec {
	d, _ := bench.Lookup(c.workload)
	s := d.Defaults
	s.Operations, s.Duration, s.WarmUp = 0, o.duration, o.warmUp
	s.KeySpace, s.ValueSize = o.keys, 256
	s.Clients, s.Conns = o.clients*nodes, min(o.conns, o.clients)*nodes
	if c.client == clientShim {
		s.Conns = 1
	}
	if c.settles {
		s.WarmUp = o.settle
	}
	if c.shape != nil {
		c.shape(&s)
	}
	return s
}

func (a *app) scaleOut(ctx context.Context, o scaleOut) error {
	if err := o.check(); err != nil {
		return err
	}
	if filepath.Ext(a.flags.out) == ".json" {
		return usage("--out must be a directory: there are several results")
	}
	var rows []scaleOutRow
	for _, c := range courses {
		if len(o.only) > 0 && !slices.Contains(o.only, c.name) {
			continue
		}
		for _, kind := range []string{bench.TargetPontoon, bench.TargetEtcd} {
			over := o.over
			if kind == bench.TargetEtcd {
				if over = o.etcdOver; !c.etcd {
					continue
				}
			}
			row := scaleOutRow{course: c, kind: kind}
			for _, n := range over {
				run, err := a.scaleOutRun(ctx, o, c, kind, n)
				if err != nil {
					return err
				}
				row.runs = append(row.runs, run)
			}
			if len(row.runs) > 0 {
				rows = append(rows, row)
			}
		}
	}
	return tellScaleOut(a.out, rows)
}

func (a *app) scaleOutRun(ctx context.Context, o scaleOut, c course, kind string, nodes int) (bench.Run, error) {
	f := a.flags
	f.target, f.vs, f.client, f.nodes = kind, "", c.client, nodes
	f.ranges = []int{o.cut}
	if c.ranges > 0 {
		f.ranges = []int{c.ranges}
	}
	config, _, err := f.config(o.spec(c, nodes))
	if err != nil {
		return bench.Run{}, err
	}
	fmt.Fprintf(a.err, "%s by %s on %d nodes of %s\n", c.name, c.client, nodes, kind)
	file, err := a.measureOnce(ctx, config, nil)
	if err != nil {
		return bench.Run{}, err
	}
	return file.Runs[0], nil
}

// scaleOutRow is a course on one kind of servers, over numbers of nodes.
type scaleOutRow struct {
	course course
	kind   string
	runs   []bench.Run
}

// tellScaleOut prints a line for each row.
func tellScaleOut(out io.Writer, rows []scaleOutRow) error {
	fmt.Fprintln(out, "\noperations a second over nodes; CPU is the servers' per operation, and what was used of what they were held to")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tclient\tservers\tnodes\tops/s\t× fewest\tp50 ms\tp99 ms\tCPU µs\tused")
	good := true
	for _, row := range rows {
		for i, r := range row.runs {
			good = good && r.Good
			if !r.Good {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\tnot good\n", row.course.name, row.course.client, row.kind, r.System.Nodes)
				continue
			}
			times := ""
			if i > 0 && row.runs[0].Good && row.runs[0].Rate > 0 {
				times = strconv.FormatFloat(r.Rate/row.runs[0].Rate, 'f', 2, 64)
			}
			cpu := 0.0
			if r.Servers != nil {
				cpu = r.Servers.CPUPerOp
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.0f\t%s\t%.1f\t%.1f\t%.0f\t%.0f %%\n", row.course.name, row.course.client, row.kind, r.System.Nodes,
				r.Rate, times, float64(r.Latency.P50)/1e3, float64(r.Latency.P99)/1e3, cpu, 100*r.QuotaUsed())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !good {
		return exitcode.With(exitNotGood, errors.New("a run is not good"))
	}
	return nil
}
