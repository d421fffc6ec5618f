package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
	"pontoon/test/history"
)

// prefixes begin the keys of the load, one per range.
var prefixes = []string{"a/", "b/", "c/", "d/", "e/", "f/", "g/", "h/"}

// diskBytes is the size of a node's own disk where disks are filled.
const diskBytes = 768 << 20

// ordeal is a cluster that is being hurt, and everything around it.
type ordeal struct {
	cfg    *config
	rng    *rand.Rand
	faults []*fault
	dir    string
	lab    *lab.Lab // nil: on loopback
	c      *harness.Cluster
	rec    *history.Recorder
	load   *history.Load
	multi  bool // transactions over ranges are there
	began  time.Time

	clients []*clientv3.Client
	wrong   []string // what was found while it ran
	stats   map[string]*stats
	probes  int
	excused map[*harness.Node]time.Time // who may end until when
}

// stats are the figures of one fault.
type stats struct {
	injected int
	under    []time.Duration // until all ranges took writes after the injection
	healed   []time.Duration // the same after the healing
}

func newOrdeal(ctx context.Context, cfg *config) (*ordeal, error) {
	o := &ordeal{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.seed, 1)), rec: history.NewRecorder(), stats: map[string]*stats{}, excused: map[*harness.Node]time.Time{}}
	needs := needs{}
	for _, name := range cfg.faults {
		f := faultNamed(name)
		if why := o.missing(f); why != nil {
			if !cfg.short {
				return nil, fmt.Errorf("%s: %w: %w", name, errImpossible, why)
			}
			fmt.Printf("%s is skipped: %v\n", name, why)
			continue
		}
		needs.add(f.needs)
		o.faults = append(o.faults, f)
	}
	var err error
	if o.dir, err = os.MkdirTemp("", "pontoon-chaos-"); err != nil {
		return nil, err
	}
	if err := o.describe(ctx, needs); err != nil {
		return nil, errors.Join(err, o.close(false))
	}
	return o, nil
}

// missing tells why a fault is not possible.
func (o *ordeal) missing(f *fault) error {
	if f.needs.failpoints && o.cfg.server != harness.Pontoon {
		return errors.New("only Pontoon has failpoints")
	}
	if f.needs.lab {
		return lab.Available()
	}
	return nil
}

// describe prepares hosts and nodes; nothing runs yet.
func (o *ordeal) describe(ctx context.Context, needs needs) error {
	opts := harness.Options{Kind: o.cfg.server, Binary: o.cfg.binary, Dir: o.dir, Nodes: o.cfg.nodes, SplitKeys: prefixes[1:]}
	if o.cfg.server == harness.Pontoon {
		opts.Args = []string{"--oracle-mode=" + o.cfg.oracle, fmt.Sprintf("--replication-factor=%d", o.cfg.replicas)}
	}
	if needs.failpoints {
		opts.Env = []string{"PONTOON_FAILPOINTS=" + o.dir}
	}
	var err error
	if opts.Binary, err = o.build(ctx, needs.failpoints); err != nil {
		return err
	}
	if needs.lab {
		if o.lab, err = lab.New(o.cfg.nodes + 1); err != nil {
			return err
		}
		for _, h := range o.lab.Hosts[:o.cfg.nodes] {
			opts.Places = append(opts.Places, harness.Place{IP: h.String(), Do: h.Do})
		}
	}
	if o.c, err = harness.New(opts); err != nil {
		return err
	}
	for i, n := range o.c.Nodes {
		if needs.disk {
			if err := o.lab.Hosts[i].Disk(n.DataDir, diskBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// build makes the node's binary, unless one was named.
func (o *ordeal) build(ctx context.Context, failpoints bool) (string, error) {
	if o.cfg.binary != "" {
		return filepath.Abs(o.cfg.binary)
	}
	if o.cfg.server == harness.Etcd {
		return filepath.Abs("build/bin/etcd")
	}
	out, args := filepath.Join(o.dir, "node"), []string{"build", "-o"}
	args = append(args, out)
	if failpoints {
		args = append(args, "-tags", "failpoints")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/node")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, b)
	}
	return out, nil
}

// connect makes a client; in a lab it is on the last host.
func (o *ordeal) connect(nodes ...*harness.Node) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		DialTimeout: 5 * time.Second, DialKeepAliveTime: 6 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop(),
	}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, n.ClientURL)
	}
	if o.lab != nil {
		h := o.lab.Hosts[o.cfg.nodes]
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return h.Dial(ctx, strings.TrimPrefix(address, "http://"))
		}))
	}
	return clientv3.New(cfg)
}

// start starts nodes and load. A client out of three knows all nodes, the others one each: an
// answer from a node that was left behind must not be lost among better ones.
func (o *ordeal) start(ctx context.Context) error {
	fmt.Printf("%d nodes, faults %v, seed %d, %s in %s\n", o.cfg.nodes, names(o.faults), o.cfg.seed, o.cfg.server, o.dir)
	sctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := o.c.Start(sctx); err != nil {
		return err
	}
	var watching []*clientv3.Client
	for i := range o.cfg.clients {
		at := o.c.Nodes
		if i%3 != 2 {
			at = []*harness.Node{o.c.Nodes[i%o.cfg.nodes]}
		}
		cl, err := o.connect(at...)
		if err != nil {
			return err
		}
		o.clients = append(o.clients, cl)
	}
	for _, n := range o.c.Nodes {
		cl, err := o.connect(n)
		if err != nil {
			return err
		}
		watching = append(watching, cl)
	}
	if err := o.askMulti(sctx, watching[0]); err != nil {
		return err
	}
	o.load = history.NewLoad(o.rec, o.clients, history.LoadConfig{
		Prefixes: prefixes, MultiRange: o.multi, Pause: o.cfg.pause, Compact: 5 * time.Second, Seed: o.cfg.seed,
	})
	o.clients = append(o.clients, watching...)
	o.load.Start(ctx, watching)
	o.began = time.Now()
	return nil
}

// askMulti finds out whether transactions over ranges are there.
func (o *ordeal) askMulti(ctx context.Context, cl *clientv3.Client) error {
	c := o.rec.Client(5000, cl)
	op := c.Do(ctx, history.Cmd{Kind: history.Txn, Then: []history.Cmd{
		{Kind: history.Put, Key: prefixes[0] + "first", Value: "first.a"}, {Kind: history.Put, Key: prefixes[1] + "first", Value: "first.b"},
	}})
	switch {
	case op.Fate == history.OK:
		o.multi = true
	case op.Fate == history.Refused && strings.Contains(op.Err, "Unimplemented"):
		fmt.Println("transactions over several ranges are not there yet: each stays within one, and a lease may end in parts")
	default:
		return fmt.Errorf("the first transaction: %s", op.Err)
	}
	return nil
}

// found notes something that is wrong.
func (o *ordeal) found(format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf(format, args...))
	o.say("WRONG: "+format, args...)
}

func (o *ordeal) say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(o.began).Seconds(), fmt.Sprintf(format, args...))
}

// close ends everything; data and logs go unless something is wrong.
func (o *ordeal) close(failed bool) error {
	var errs []error
	for _, cl := range o.clients {
		_ = cl.Close() // it may be in the middle of anything
	}
	if o.c != nil {
		for _, n := range o.c.Nodes {
			if n.Running() {
				errs = append(errs, n.Kill())
			}
		}
	}
	if o.lab != nil {
		o.lab.Close()
	}
	if failed || o.cfg.keep {
		fmt.Println("kept:", o.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(o.dir))...)
}

// without are the nodes that are not among some.
func (o *ordeal) without(hurt ...*harness.Node) []*harness.Node {
	return slices.DeleteFunc(slices.Clone(o.c.Nodes), func(n *harness.Node) bool { return slices.Contains(hurt, n) })
}

// any picks a node.
func (o *ordeal) any() *harness.Node { return o.c.Nodes[o.rng.IntN(len(o.c.Nodes))] }

// index is a node's number, which is also its host's.
func (o *ordeal) index(n *harness.Node) int { return slices.Index(o.c.Nodes, n) }
