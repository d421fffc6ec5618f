package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"pontoon/test/e2e/harness"
)

// config is what the command line says.
type config struct {
	faults   []string
	duration time.Duration
	nodes    int
	gateways int
	replicas int // of a range
	server   harness.Kind
	binary   string // "": built from this tree
	oracle   string
	clients  int
	pause    time.Duration
	hold     time.Duration
	seed     uint64
	keep     bool
	short    bool
	backups  bool
	secure   bool // TLS with certificates of both sides, and users
}

// errImpossible is returned for faults that this machine does not allow.
var errImpossible = errors.New("not possible here")

func main() {
	cfg, err := parse(os.Args[1:])
	if err == nil {
		err = run(cfg)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errImpossible):
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*config, error) {
	cfg := &config{}
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	names := fs.String("fault", "short", "what is done to the cluster: "+strings.Join(faultNames(), ", ")+", some of them with commas, mixed (all), or short (kill, stop and, where possible, partition)")
	fs.DurationVar(&cfg.duration, "duration", 35*time.Second, "how long faults are injected")
	fs.IntVar(&cfg.nodes, "nodes", 3, "members of the cluster")
	fs.IntVar(&cfg.gateways, "gateways", 0, "gateways in front of them, through which half of the clients work; the fault gateway needs some")
	fs.IntVar(&cfg.replicas, "replicas", 0, "replicas of a range; a minority of them may fail at once (default: as many as nodes, 7 at most)")
	server := fs.String("server", string(harness.Pontoon), "pontoon or etcd")
	fs.StringVar(&cfg.binary, "node", "", "the server's binary; empty: built from this tree, or build/bin/etcd")
	fs.StringVar(&cfg.oracle, "oracle", "lease", "the nodes' --oracle-mode")
	fs.IntVar(&cfg.clients, "clients", 9, "clients at work")
	fs.DurationVar(&cfg.pause, "pause", 5*time.Millisecond, "how long a client rests between two commands")
	fs.DurationVar(&cfg.hold, "hold", 4*time.Second, "how long a fault lasts, on average")
	fs.Uint64Var(&cfg.seed, "seed", uint64(time.Now().UnixNano()), "chooses commands, faults and victims")
	fs.BoolVar(&cfg.keep, "keep", false, "keep data, logs and history in any case")
	fs.BoolVar(&cfg.backups, "backup", false, "save snapshots all the time, and hold each against what a watch has seen")
	fs.BoolVar(&cfg.secure, "secure", false, "TLS with certificates on client and peer ports, and authentication with several users; revoke and quota are possible then")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	cfg.server = harness.Kind(*server)
	if cfg.replicas == 0 {
		cfg.replicas = min(cfg.nodes-(cfg.nodes+1)%2, 7)
	}
	if cfg.server == harness.Etcd {
		cfg.replicas = cfg.nodes
	}
	switch *names {
	case "short":
		cfg.short, cfg.faults = true, []string{"kill", "stop", "partition"}
	case "mixed":
		cfg.faults = faultNames()
		if cfg.nodes <= cfg.replicas { // nobody has room for another's replica
			cfg.faults = slices.DeleteFunc(cfg.faults, func(name string) bool { return name == "move" || name == "metamove" })
		}
		if cfg.gateways == 0 {
			cfg.faults = slices.DeleteFunc(cfg.faults, func(name string) bool { return faultNamed(name).needs.gateways })
		}
		if !cfg.secure { // there are no rights
			cfg.faults = slices.DeleteFunc(cfg.faults, func(name string) bool { return faultNamed(name).needs.users })
		}
	default:
		cfg.faults = strings.Split(*names, ",")
	}
	return cfg, cfg.check()
}

func (cfg *config) check() error {
	for _, name := range cfg.faults {
		if faultNamed(name) == nil {
			return fmt.Errorf("no fault is named %q; there are %s", name, strings.Join(faultNames(), ", "))
		}
	}
	if cfg.nodes < 3 || cfg.nodes > 9 {
		return fmt.Errorf("%d nodes: 3 to 9 are possible", cfg.nodes)
	}
	if cfg.gateways < 0 || cfg.gateways > 4 || cfg.gateways > 0 && cfg.server != harness.Pontoon {
		return fmt.Errorf("%d gateways: 0 to 4 are possible, and none of etcd", cfg.gateways)
	}
	if cfg.replicas < 3 || cfg.replicas > cfg.nodes {
		return fmt.Errorf("%d replicas: 3 to %d are possible", cfg.replicas, cfg.nodes)
	}
	if cfg.secure && cfg.server != harness.Pontoon {
		return errors.New("-secure is for pontoon")
	}
	if cfg.server != harness.Pontoon && cfg.server != harness.Etcd {
		return fmt.Errorf("no server is named %q", cfg.server)
	}
	return nil
}

// slack is how long a run may take beyond its duration: the start, and the judges.
const slack = 4 * time.Minute

func run(cfg *config) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, cfg.duration+slack)
	defer cancel()
	o, err := newOrdeal(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close(err != nil)) }()
	if err := o.start(ctx); err != nil {
		return err
	}
	o.hurt(ctx)
	return o.verdict(ctx)
}
