package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/internal/exitcode"
)

const standardLong = `Measures the standard set: every workload in the forms that stand for it, each result in a file of its own in the
directory --out, under the same name every time. A workload that fails does not keep the others from being measured.

  bench standard --vs etcd --nodes 3 --out DIR
  bench standard --vs etcd --nodes 3 --out DIR --resume put txn    # only these, and only what DIR does not have yet
  bench standard --vs etcd --nodes 3 --out DIR --client=shim put txn range

With --client=shim all clients of a run share one: it has a connection to every node by itself.`

func (a *app) standardCommand() *cobra.Command {
	var resume, list bool
	var longest time.Duration
	cmd := &cobra.Command{
		Use:     "standard [WORKLOAD…]",
		Short:   "Measure the standard set",
		Long:    standardLong,
		GroupID: "results",
		RunE: func(cmd *cobra.Command, args []string) error {
			specs, err := standardSet(args, longest)
			if err != nil {
				return err
			}
			if a.flags.client == clientShim {
				for i := range specs {
					specs[i].Conns = 1
				}
			}
			if list {
				for _, s := range specs {
					fmt.Fprintln(a.out, s.Name())
				}
				return nil
			}
			return a.standard(cmd.Context(), specs, resume)
		},
	}
	cmd.Flags().BoolVar(&resume, "resume", false, "leave out what the directory has good results of")
	cmd.Flags().BoolVar(&list, "list", false, "only name what would be measured")
	cmd.Flags().DurationVar(&longest, "at-most", 0, "measure nothing for longer than this; 0: as long as the set says")
	return cmd
}

// standardSet is what is measured of some workloads; of all, if none is named.
func standardSet(workloads []string, longest time.Duration) ([]bench.Spec, error) {
	for _, w := range workloads {
		if _, ok := bench.Lookup(w); !ok {
			return nil, usage("there is no workload %q", w)
		}
	}
	var out []bench.Spec
	for _, d := range bench.Workloads() {
		if len(workloads) > 0 && !slices.Contains(workloads, d.Name) {
			continue
		}
		for _, s := range d.Standard {
			if longest > 0 && s.Duration > longest {
				s.Duration = longest
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// standard measures some specs one after the other.
func (a *app) standard(ctx context.Context, specs []bench.Spec, resume bool) error {
	dir := a.flags.out
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var bad []string
	for i, s := range specs {
		c, vs, err := a.flags.config(s)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, a.flags.stableName(s))
		if old, err := bench.Load(path); resume && err == nil && old.Good {
			continue
		}
		fmt.Fprintf(a.err, "%d of %d: %s\n", i+1, len(specs), s.Name())
		f, err := a.runs(ctx, c, vs, a.flags.pairs)
		if errors.Is(err, bench.ErrInterrupted) || ctx.Err() != nil {
			return bench.ErrInterrupted
		}
		if err != nil {
			fmt.Fprintln(a.err, "Error:", err)
		}
		if f != nil && len(f.Runs) > 0 {
			if err := errors.Join(f.Save(path), a.print(f)); err != nil {
				return err
			}
		}
		if err != nil || !f.Good {
			bad = append(bad, s.Name())
		}
	}
	if len(bad) > 0 {
		return exitcode.With(exitNotGood, fmt.Errorf("%d of %d results are missing or not good: %q", len(bad), len(specs), bad))
	}
	return nil
}

// stableName is where a result of the standard set goes; what is unusual about how it is measured is
// part of it.
func (f *flags) stableName(s bench.Spec) string {
	name := bench.StableName(s.Name())
	if f.client != clientPlain {
		name += "_client=" + f.client
	}
	if f.ranges[0] != rangesUsual {
		name += fmt.Sprintf("_ranges=%d", f.ranges[0])
	}
	if f.serverCPUs > 0 {
		name += fmt.Sprintf("_server-cpus=%g", f.serverCPUs)
	}
	if f.serverWrites > 0 {
		name += fmt.Sprintf("_server-writes=%d", f.serverWrites)
	}
	return name + ".json"
}
