package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

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
	site
	findings
	rng    *rand.Rand
	faults []*fault
	rec    *history.Recorder
	load   *history.Load
	multi  bool // transactions over ranges are there

	clients []*clientv3.Client
	stats   map[string]*stats
	probes  int
	excused map[*harness.Node]time.Time // who may end until when
	changes []*changer
	members *members // nil: nobody comes and goes
	backups *backups // nil: nobody saves snapshots
	hunt    *hunt    // nil: there are no users
	tier    *tier    // nil: there are no gateways
}

// stats are the figures of one fault.
type stats struct {
	injected int
	under    []time.Duration // until all ranges took writes after the injection
	healed   []time.Duration // the same after the healing
}

func newOrdeal(ctx context.Context, cfg *config) (*ordeal, error) {
	o := &ordeal{site: site{cfg: cfg}, rng: rand.New(rand.NewPCG(cfg.seed, 1)), rec: history.NewRecorder(), stats: map[string]*stats{}, excused: map[*harness.Node]time.Time{}}
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
		needs.lab = needs.lab || f.needs.gateways && lab.Available() == nil // to cut gateways off
		o.faults = append(o.faults, f)
	}
	var err error
	if o.dir, err = os.MkdirTemp("", "pontoon-chaos-"); err != nil {
		return nil, err
	}
	if err := o.describe(ctx, needs); err != nil {
		return nil, errors.Join(err, o.close(false))
	}
	o.changes = o.changers(o.faults)
	if anyNamed(o.faults, "member") {
		guests, err := o.describeGuests()
		if err != nil {
			return nil, errors.Join(err, o.close(false))
		}
		o.members = newMembers(&o.site, guests)
	}
	return o, nil
}

// missing tells why a fault is not possible.
func (o *ordeal) missing(f *fault) error {
	if f.needs.failpoints && o.cfg.server != harness.Pontoon {
		return errors.New("only Pontoon has failpoints")
	}
	if f.needs.ranges && o.cfg.server != harness.Pontoon {
		return errors.New("only Pontoon has ranges")
	}
	if f.needs.spare && (o.cfg.server != harness.Pontoon || o.cfg.nodes <= o.cfg.replicas) {
		return errors.New("replicas move where there are more nodes than a range has replicas: see -nodes and -replicas")
	}
	if f.needs.gateways && o.cfg.gateways == 0 {
		return errors.New("there are gateways with -gateways alone")
	}
	if f.needs.users && !o.cfg.secure {
		return errors.New("there are users with -secure alone")
	}
	if f.name == "member" {
		if _, err := exec.LookPath(etcdctl); err != nil {
			return fmt.Errorf("members are added by etcdctl: %w: `make etcd-tools` builds it, and chaos is run in the project's directory", err)
		}
	}
	if f.needs.lab {
		return lab.Available()
	}
	return nil
}

// start starts nodes and load. A client out of three knows all nodes and gateways, the others one each: an
// answer from one that was left behind must not be lost among better ones. Where there are gateways, half of those know one of them, and
// of those that watch, too.
func (o *ordeal) start(ctx context.Context) error {
	fmt.Printf("%d nodes, faults %v, seed %d, %s in %s\n", o.cfg.nodes, names(o.faults), o.cfg.seed, o.cfg.server, o.dir)
	sctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := o.c.Start(sctx); err != nil {
		return err
	}
	if err := startAgain(sctx, o.c.Gateways); err != nil {
		return err
	}
	if o.security != nil {
		if err := o.users(sctx); err != nil {
			return err
		}
	}
	var watching []*clientv3.Client
	through := 0 // gateways alone
	for i := range o.cfg.clients {
		at := o.doors()
		switch {
		case i%3 == 2:
		case (i/3+i%3)%2 == 1 && o.cfg.gateways > 0:
			at = []*harness.Node{o.c.Gateways[o.cfg.gateways-1-through/2%o.cfg.gateways]} // the first two know the last
			through++
		default:
			at = []*harness.Node{o.c.Nodes[i%o.cfg.nodes]}
		}
		cl, err := o.worker(i, at...)
		if err != nil {
			return err
		}
		o.clients = append(o.clients, cl)
	}
	for _, n := range o.doors() {
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
	if o.cfg.backups {
		cl, err := o.connect(o.doors()...)
		if err != nil {
			return err
		}
		o.clients = append(o.clients, cl)
		o.backups = &backups{s: &o.site, rng: rand.New(rand.NewPCG(o.cfg.seed, 3))}
		o.backups.begin(ctx, cl)
	}
	o.load.Start(ctx, watching)
	o.began = time.Now()
	var err error
	if o.tier, err = beginTier(sctx, &o.site); err != nil {
		return err
	}
	if o.security != nil {
		o.hunt = &hunt{o: o, rng: rand.New(rand.NewPCG(o.cfg.seed, 4))}
		return o.hunt.begin(ctx)
	}
	return nil
}

// worker makes a client of the load. Where there are users, one of three is root, who compacts; the others may do what the load does, and no more.
func (s *site) worker(i int, at ...*harness.Node) (*clientv3.Client, error) {
	switch {
	case s.security == nil:
		return s.connect(at...)
	case i%3 == 0:
		return s.connectAs(rootUser, at...)
	}
	return s.connectAs(workerUser, at...)
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
		errs = append(errs, gateways{&o.site}.kill())
	}
	if o.members != nil {
		errs = append(errs, o.members.kill())
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

// any picks a node.
func (o *ordeal) any() *harness.Node { return o.c.Nodes[o.rng.IntN(len(o.c.Nodes))] }

// all are the processes that there are or were, guests too.
func (o *ordeal) all() []*harness.Node {
	if o.members == nil {
		return o.doors()
	}
	return append(o.doors(), o.members.came...)
}
