package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"pontoon/bench"
	"pontoon/internal/exitcode"
)

// checksAtOnce is how many short runs go on at the same time: their figures mean nothing, and most of
// their time is spent on starting and stopping servers.
const checksAtOnce = 4

// checkAll runs the short forms of all workloads against the targets, and prints no figures.
func (a *app) checkAll(ctx context.Context) error {
	var configs []bench.Config
	for _, d := range bench.Workloads() {
		for _, spec := range d.Brief {
			c, vs, err := a.flags.config(spec)
			if err != nil {
				return err
			}
			c.Setup.ServerWrites = max(a.flags.serverWrites, 0) // what is checked is not how fast it is
			add := func(target bench.Target) {
				c := c
				c.Target = target
				if d.LeastNodes != nil {
					c.Setup.Nodes = max(c.Setup.Nodes, d.LeastNodes(spec, target.Kind))
				}
				configs = append(configs, c)
			}
			add(c.Target)
			if vs != nil {
				add(*vs)
			}
		}
	}
	results := make([]chan checked, len(configs))
	for i := range results {
		results[i] = make(chan checked, 1)
	}
	var g errgroup.Group
	g.SetLimit(checksAtOnce + 1)
	g.Go(func() error { return a.collect(results) })
	for i, c := range configs {
		g.Go(func() error {
			f, err := bench.Once(ctx, c)
			results[i] <- checked{c, f, err}
			return nil
		})
	}
	return g.Wait()
}

// checked is what came of a short run.
type checked struct {
	config bench.Config
	file   *bench.File
	err    error
}

// collect prints results in their order as they come.
func (a *app) collect(results []chan checked) error {
	bad := 0
	for _, ch := range results {
		r := <-ch
		word, ops := "good", int64(0)
		var problems []string
		if r.err != nil {
			word, problems = "BAD ", []string{r.err.Error()}
		} else if len(r.file.Runs) > 0 {
			run := r.file.Runs[0]
			ops, problems = run.Operations, run.Problems
			if !run.Good {
				word = "BAD "
			}
		}
		fmt.Fprintf(a.out, "%s  %-9s %s: %d operations\n", word, r.config.Target, r.config.Spec.Name(), ops)
		for _, p := range problems {
			fmt.Fprintln(a.out, "     ", p)
		}
		if word != "good" {
			bad++
		}
	}
	if bad > 0 {
		return exitcode.With(exitNotGood, fmt.Errorf("%d of %d runs are not good", bad, len(results)))
	}
	fmt.Fprintf(a.out, "all %d runs are good\n", len(results))
	return nil
}
