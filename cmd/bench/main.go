package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"pontoon/bench"
	"pontoon/internal/exitcode"
	"pontoon/internal/tuning"
	"pontoon/internal/tuning/heap"
)

// Exit codes.
const (
	exitFailed      = 1   // nothing was measured
	exitUsage       = 2   // the command line makes no sense
	exitNotGood     = 3   // measured, but the figures are not good
	exitWorse       = 4   // compared, and something got worse
	exitInterrupted = 130 // by SIGINT or SIGTERM, as shells have it
)

func usage(format string, args ...any) error {
	return exitcode.With(exitUsage, fmt.Errorf(format, args...))
}

// app is one call of the program.
type app struct {
	out, err io.Writer
	terminal bool // err is one
	flags    flags
}

func main() {
	// It holds little and asks much, on the processors that it may share with what it measures: at Go's default it
	// would collect garbage several times a second.
	heap.Keep(tuning.HeapGrowth)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	a := &app{out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stderr)}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(a.err, "Error:", err)
	if errors.Is(err, bench.ErrInterrupted) {
		return exitInterrupted
	}
	return exitcode.Of(err, exitFailed)
}

const rootLong = `bench measures stores that speak etcd v3 through etcd's Go client, and treats all alike.

  bench put --clients 256 --conns 16 --duration 20s --key-space-size 100000 --val-size 256
  bench put --vs etcd --nodes 3 --ranges 16 …    # the same against both, in turn, with ratios
  bench put --nodes 3 --server-cpus 0.12 …       # each server held to 12 % of a processor, the client outside
  bench put --target pontoon=OLD/node --vs pontoon=NEW/node …    # two programs of one kind
  bench range --target endpoints=http://10.0.0.1:2379,http://10.0.0.2:2379

Local clusters are started for every run, with fsync on, and removed after it. Every run is verified: a run
with errors, or after which something that was acknowledged is not there, says so and is not good.

Exit codes: 0 good; 1 nothing was measured; 2 wrong usage; 3 measured, but not good; 130 interrupted.`

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "bench",
		Short:         "Measure stores that speak etcd v3, side by side",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       bench.Version(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no command %q; `bench help` lists them", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.flags.check {
				return a.checkAll(cmd.Context())
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitcode.With(exitUsage, err) })
	a.flags.bindShared(root)
	root.Flags().BoolVar(&a.flags.check, "check", false, "run every workload in seconds, as a test of the targets and of bench")
	root.AddGroup(&cobra.Group{ID: "workloads", Title: "Workloads:"}, &cobra.Group{ID: "results", Title: "Results:"})
	for _, d := range bench.Workloads() {
		root.AddCommand(a.workloadCommand(d))
	}
	root.AddCommand(a.standardCommand(), a.reportCommand(), a.compareCommand(), a.programsCommand(), a.scaleOutCommand())
	return root // cobra adds completion
}
