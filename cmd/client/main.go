package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pontoon/internal/exitcode"
	"pontoon/internal/patience"
)

// Exit codes, etcdctl's.
const (
	exitError         = 1
	exitBadConnection = 2
	exitInvalidInput  = 3
	exitBadFeature    = 4
	exitInterrupted   = 5
	exitBadArgs       = 128
)

func badArgs(format string, args ...any) error {
	return exitcode.With(exitBadArgs, fmt.Errorf(format, args...))
}

// takes allows a number of arguments; else the user is told what the command needs.
func takes(least, most int, needs string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return badArgs("%s", needs)
		}
		return nil
	}
}

// app is one run of the client: where it reads and writes, and what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	pause    func(context.Context, time.Duration) error // replaced in tests
	flags    globalFlags
	print    printers
}

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, pause: patience.Pause}
	os.Exit(a.run(context.Background(), os.Args[1:]))
}

// run executes one command and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(a.err, "Error:", err)
	return exitcode.Of(err, exitError)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "client",
		Short:         "Command line client of a Pontoon cluster",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.flagsFromEnv(cmd.InheritedFlags()); err != nil {
				return err
			}
			if !slices.Contains(directModes, a.flags.direct) {
				return badArgs("--direct is %q, want one of %s", a.flags.direct, strings.Join(directModes, ", "))
			}
			return a.choosePrinter()
		},
	}
	a.flags.bind(root.PersistentFlags())
	_ = root.RegisterFlagCompletionFunc("direct", cobra.FixedCompletions(directModes, cobra.ShellCompDirectiveDefault))
	root.AddCommand(
		a.getCommand(), a.putCommand(), a.delCommand(), a.txnCommand(), a.compactCommand(),
		a.watchCommand(), a.leaseCommand(), a.statusCommand(), a.defragCommand(), a.membersCommand(), a.rangesCommand(),
		a.opsCommand(), a.planCommand(), a.nodesCommand(), a.gatewaysCommand(), a.snapshotCommand(), a.versionCommand(),
		a.authCommand(), a.userCommand(), a.roleCommand(),
	)
	_ = root.RegisterFlagCompletionFunc("write-out", cobra.FixedCompletions(outputFormats, cobra.ShellCompDirectiveDefault))
	return root // cobra adds completion
}

// envPrefixes are tried in order: a flag --some-flag is read from PREFIX_SOME_FLAG.
var envPrefixes = []string{"CLIENT_", "ETCDCTL_"}

// flagsFromEnv sets the global flags that the command line does not from the environment.
func (a *app) flagsFromEnv(fs *pflag.FlagSet) error {
	var failed error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil {
			return
		}
		name := strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		for _, p := range envPrefixes {
			v := a.getenv(p + name)
			if v == "" {
				continue
			}
			if err := fs.Set(f.Name, v); err != nil {
				failed = badArgs("invalid value %q of %s%s: %w", v, p, name, err)
			}
			return
		}
	})
	return failed
}
