package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/bench/machine"
	"pontoon/internal/exitcode"
)

func (a *app) workloadCommand(d bench.Definition) *cobra.Command {
	var spec bench.Spec
	cmd := &cobra.Command{
		Use:     d.Name,
		Short:   d.Short,
		Long:    d.Long,
		GroupID: "workloads",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if spec.Duration > 0 && !cmd.Flags().Changed("total") {
				spec.Operations = 0
			}
			c, vs, err := a.flags.config(spec)
			if err != nil {
				return err
			}
			return a.measure(cmd.Context(), c, vs)
		},
	}
	bindSpec(cmd, d, &spec)
	return cmd
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no argument, only flags: %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// measure runs, prints and saves, once for every number of ranges.
func (a *app) measure(ctx context.Context, c bench.Config, vs *bench.Target) error {
	if len(a.flags.ranges) > 1 && filepath.Ext(a.flags.out) == ".json" {
		return usage("--out must be a directory where --ranges has several numbers")
	}
	var files []*bench.File
	for _, n := range a.flags.ranges {
		c.Setup.Ranges = n
		f, err := a.measureOnce(ctx, c, vs)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	var err error
	if len(files) > 1 {
		err = printScale(a.out, files)
	}
	for _, f := range files {
		if err == nil && !f.Good {
			err = exitcode.With(exitNotGood, errors.New("these figures are not good"))
		}
	}
	return err
}

func (a *app) measureOnce(ctx context.Context, c bench.Config, vs *bench.Target) (*bench.File, error) {
	f, err := a.runs(ctx, c, vs, a.flags.pairs)
	if f == nil || len(f.Runs) == 0 {
		return f, err
	}
	if a.flags.goFormat {
		err = errors.Join(err, f.WriteGo(a.out))
	} else {
		err = errors.Join(err, a.print(f))
	}
	path, saveErr := a.save(f)
	if saveErr != nil {
		return f, errors.Join(err, saveErr)
	}
	fmt.Fprintln(a.err, "result:", path)
	return f, err
}

// runs measures one target, or two in pairs.
func (a *app) runs(ctx context.Context, c bench.Config, vs *bench.Target, pairs int) (*bench.File, error) {
	if fs := machine.Describe(c.Setup.Dir).FileSystem; machine.InMemory(fs) && c.Target.Local() {
		fmt.Fprintf(a.err, "warning: %s is on %s, in memory: fsync costs nothing there\n", c.Setup.Dir, fs)
	}
	if !a.flags.quiet {
		p := newProgress(a.err, a.terminal)
		c.Progress = p.show
		defer p.end()
	}
	_, statErr := os.Stat(c.Setup.Dir)
	if os.IsNotExist(statErr) && !c.Setup.Keep {
		defer func() { _ = os.Remove(c.Setup.Dir) }() // if it is empty
	}
	if vs == nil {
		return bench.Once(ctx, c)
	}
	return bench.Paired(ctx, c, *vs, pairs)
}

// save writes the result where --out says.
func (a *app) save(f *bench.File) (string, error) {
	path := a.flags.out
	info, err := os.Stat(path)
	isDir := err == nil && info.IsDir()
	if os.IsNotExist(err) && filepath.Ext(path) != ".json" {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return path, err
		}
		isDir = true
	}
	if isDir {
		path = filepath.Join(path, f.FileName())
	}
	return path, f.Save(path)
}
