package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pontoon/bench"
	"pontoon/bench/quota"
	"pontoon/internal/exitcode"
)

// flags are what the command line says, apart from a workload's own.
type flags struct {
	target, vs      string
	nodes           int
	ranges          []int
	client          string
	pairs           int
	dir             string
	keep            bool
	pontoon, etcd   string
	serverArgs      []string
	serverCPUs      float64
	serverWrites    int
	tls             bool
	permissions     int
	out             string
	quiet           bool
	goFormat, check bool
}

var targets = []string{bench.TargetPontoon, bench.TargetEtcd, bench.TargetEndpoints + "="}

// nodesMax bounds the nodes of a local cluster: more would measure the machine.
const nodesMax = 15

// permissionsMax bounds what one user is granted, which takes a change each.
const permissionsMax = 10_000

// writesUnset says that the command line does not hold servers to a number of writes, nor frees them of it.
const writesUnset = -1

// rangesUsual is into how many ranges Pontoon's keys are cut by default.
const rangesUsual = 16

// bindShared binds the flags of every command that measures.
func (f *flags) bindShared(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&f.target, "target", bench.TargetPontoon, "what to measure: pontoon or etcd, either with =PROGRAM, or endpoints=URL,…")
	fs.StringVar(&f.vs, "vs", "", "measure this target, too, in turn with the first, and print ratios")
	fs.IntVar(&f.pairs, "pairs", 3, "with --vs: how many pairs of runs")
	fs.IntVar(&f.nodes, "nodes", 1, fmt.Sprintf("nodes of a local cluster, at most %d", nodesMax))
	fs.IntSliceVar(&f.ranges, "ranges", []int{rangesUsual}, "into how many ranges a local Pontoon's keys are cut; several numbers: the same with each in turn")
	fs.StringVar(&f.client, "client", clientPlain, "through which Pontoon and endpoints are measured: clientv3, or shim (Pontoon's routing client in its place)")
	fs.StringVar(&f.dir, "dir", "bench-data", "directory for data and logs of local clusters; should be on a disk")
	fs.BoolVar(&f.keep, "keep", false, "keep data and logs of local clusters")
	fs.StringVar(&f.pontoon, "pontoon-binary", "", "Pontoon's node (default: node beside this program, else in $PATH)")
	fs.StringVar(&f.etcd, "etcd-binary", "", "etcd's server (default: beside this program, ../build/bin, else in $PATH)")
	fs.StringArrayVar(&f.serverArgs, "server-arg", nil, "a flag for every local server of whatever kind, such as --snapshot-count=10000; may be repeated")
	fs.Float64Var(&f.serverCPUs, "server-cpus", 0, "hold every local server to so many processors, such as 0.12, in a control group of its own, and its clients to none (Linux, root); 0: no limit")
	fs.IntVar(&f.serverWrites, "server-writes", writesUnset, "let every local server write to its disk so many times a second, in a control group of its own (Linux, root); 0: no limit (default 0, but of slow-disk)")
	fs.Lookup("server-writes").DefValue = "0"
	fs.BoolVar(&f.tls, "tls", false, "give local servers and their clients certificates, which every port asks for")
	fs.IntVar(&f.permissions, "permissions", 0, fmt.Sprintf("turn authentication on in local servers, and be a user with so many permissions, at most %d, that cover all keys together; 0: no authentication", permissionsMax))
	fs.StringVarP(&f.out, "out", "o", "bench-results", "JSON file for the result, or a directory for a new file")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	fs.BoolVar(&f.goFormat, "go", false, "print Go's benchmark format, for benchstat, instead of a table")
	_ = cmd.RegisterFlagCompletionFunc("target", cobra.FixedCompletions(targets, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	_ = cmd.RegisterFlagCompletionFunc("vs", cobra.FixedCompletions(targets, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	_ = cmd.RegisterFlagCompletionFunc("nodes", cobra.FixedCompletions([]string{"1", "3", "5", "9"}, cobra.ShellCompDirectiveNoFileComp))
}

// bindSpec binds a workload's flags; those that it does not look at do not exist for it.
func bindSpec(cmd *cobra.Command, d bench.Definition, s *bench.Spec) {
	*s = d.Defaults
	fs := cmd.Flags()
	fs.IntVar(&s.Clients, "clients", s.Clients, "how many operations may be on the way at once")
	fs.IntVar(&s.Conns, "conns", s.Conns, "connections that the clients share, to the endpoints in turn; to all of them, if there are more endpoints")
	fs.Int64Var(&s.Operations, "total", s.Operations, "operations to measure; 0: as many as --duration allows")
	fs.DurationVar(&s.Duration, "duration", s.Duration, "how long to measure; unless --total is given, too, instead of its default")
	fs.DurationVar(&s.WarmUp, "warm-up", s.WarmUp, "run for so long before measuring")
	fs.Float64Var(&s.Rate, "rate", s.Rate, "operations per second that are due (open loop, latency from when they are due); 0: closed loop")
	fs.DurationVar(&s.Timeout, "timeout", s.Timeout, "an operation that takes longer has failed; 0: none has")
	fs.Uint64Var(&s.Seed, "seed", s.Seed, "from which keys and values are drawn")
	fs.StringVar(&s.Prefix, "prefix", s.Prefix, `what all keys begin with, not counted in --key-size (default "bench/" with endpoints)`)
	for _, o := range d.Options {
		bindOption(fs, o, s)
		if len(o.Values) > 0 {
			_ = cmd.RegisterFlagCompletionFunc(o.Name, cobra.FixedCompletions(o.Values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

func bindOption(fs *pflag.FlagSet, o bench.Option, s *bench.Spec) {
	switch to := o.Field(s).(type) {
	case *int:
		fs.IntVar(to, o.Name, *to, o.Usage)
	case *float64:
		fs.Float64Var(to, o.Name, *to, o.Usage)
	case *bool:
		fs.BoolVar(to, o.Name, *to, o.Usage)
	case *string:
		fs.StringVar(to, o.Name, *to, o.Usage)
	case *time.Duration:
		fs.DurationVar(to, o.Name, *to, o.Usage)
	default:
		panic(fmt.Sprintf("option %s has a type without flags: %T", o.Name, to))
	}
}

// bounded holds against their bounds what local servers are started with.
func (f *flags) bounded() error {
	if f.nodes < 1 || f.nodes > nodesMax {
		return usage("--nodes is %d, want 1 to %d", f.nodes, nodesMax)
	}
	if len(f.ranges) == 0 || slices.Min(f.ranges) < 1 {
		return usage("--ranges is %d, want at least 1", f.ranges)
	}
	if f.serverCPUs != 0 && !(f.serverCPUs >= quota.CPUsMin) {
		return usage("--server-cpus is %g, want 0 or at least %g", f.serverCPUs, quota.CPUsMin)
	}
	if f.permissions < 0 || f.permissions > permissionsMax {
		return usage("--permissions is %d, want 0 to %d", f.permissions, permissionsMax)
	}
	if f.permissions > 0 && f.client == clientShim {
		return usage("--permissions are a user's, and --client=shim has no way for users")
	}
	return nil
}

// config turns flags and a spec into what is measured.
func (f *flags) config(s bench.Spec) (c bench.Config, vs *bench.Target, err error) {
	if err := f.bounded(); err != nil {
		return c, nil, err
	}
	writes := f.serverWrites
	if d, ok := bench.Lookup(s.Workload); ok && writes == writesUnset {
		writes = d.ServerWrites
	}
	if writes < 0 {
		return c, nil, usage("--server-writes is %d, want 0 or more", writes)
	}
	if s.Gateways > 0 && (f.serverCPUs != 0 || writes > 0) {
		return c, nil, usage("--server-cpus and --server-writes hold nodes, and not the --gateways in front of them")
	}
	clients, err := clientsOf(f.client)
	if err != nil {
		return c, nil, err
	}
	t, err := bench.ParseTarget(f.target)
	if err != nil {
		return c, nil, usage("--target: %w", err)
	}
	all := []bench.Target{t}
	if f.vs != "" {
		other, err := bench.ParseTarget(f.vs)
		if err != nil {
			return c, nil, usage("--vs: %w", err)
		}
		vs = &other
		all = append(all, other)
	}
	c = bench.Config{Spec: s, Target: t, Clients: clients, Setup: bench.Setup{
		Nodes: f.nodes, Ranges: f.ranges[0], Dir: f.dir, Keep: f.keep, Args: f.serverArgs, Binaries: map[string]string{},
		ServerCPUs: f.serverCPUs, ServerWrites: writes, TLS: f.tls, Permissions: f.permissions,
	}}
	for _, t := range all {
		if !t.Local() {
			if f.serverCPUs != 0 || f.serverWrites > 0 {
				return c, nil, usage("--server-cpus and --server-writes hold servers that are started here, not endpoints")
			}
			if f.tls || f.permissions > 0 {
				return c, nil, usage("--tls and --permissions are of servers that are started here, not of endpoints")
			}
			if s.Gateways > 0 {
				return c, nil, usage("--gateways are put in front of nodes that are started here, not of endpoints")
			}
			c.Setup.ServerWrites = 0
			if c.Spec.Prefix == "" {
				c.Spec.Prefix = "bench/"
			}
			continue
		}
		if t.Program != "" {
			if _, err := exec.LookPath(t.Program); err != nil {
				return c, nil, usage("the target %s: %w", t, err)
			}
			continue
		}
		if c.Setup.Binaries[t.Kind], err = f.binary(t.Kind); err != nil {
			return c, nil, err
		}
	}
	if err := c.Spec.Validate(); err != nil {
		return c, nil, exitcode.With(exitUsage, err)
	}
	return c, vs, nil
}

// binary finds a server's program.
func (f *flags) binary(kind string) (string, error) {
	name, given, hint := "node", f.pontoon, "`make build` builds it"
	if kind == bench.TargetEtcd {
		name, given, hint = "etcd", f.etcd, "`make etcd-tools` builds it"
	}
	if given != "" {
		if _, err := exec.LookPath(given); err != nil {
			return "", usage("--%s-binary: %w", kind, err)
		}
		return given, nil
	}
	if self, err := os.Executable(); err == nil {
		here := filepath.Dir(self)
		for _, p := range []string{filepath.Join(here, name), filepath.Join(here, "..", "build", "bin", name)} {
			if _, err := exec.LookPath(p); err == nil {
				return filepath.Clean(p), nil
			}
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no program for %s: %w; %s, or name it with --%s-binary", kind, err, hint, kind)
	}
	return p, nil
}
