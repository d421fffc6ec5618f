package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
)

// needs is what a fault needs besides processes.
type needs struct{ lab, disk, failpoints, ranges, spare, users, gateways bool }

func (n *needs) add(m needs) {
	n.lab, n.disk, n.failpoints, n.ranges = n.lab || m.lab, n.disk || m.disk, n.failpoints || m.failpoints, n.ranges || m.ranges
	n.spare = n.spare || m.spare
}

// fault is a way to hurt a cluster.
type fault struct {
	name   string
	needs  needs
	inject func(ctx context.Context, o *ordeal) (*injury, error)
}

// allFaults returns the table of them.
func allFaults() []*fault {
	return []*fault{
		{"kill", needs{}, kill},
		{"killall", needs{}, killAll},
		{"restart", needs{}, restart},
		{"stop", needs{}, stop},
		{"partition", needs{lab: true}, partition},
		{"wire", needs{lab: true}, wire},
		{"slow", needs{lab: true}, slow},
		{"diskfull", needs{lab: true, disk: true}, diskFull},
		{"clock", needs{failpoints: true}, clock},
		{"fsync", needs{failpoints: true}, failSync},
		{"transfer", needs{failpoints: true}, transfer},
		{"split", needs{ranges: true}, changing("split")},
		{"move", needs{spare: true}, changing("move")},
		{"merge", needs{ranges: true}, changing("merge")},
		{"metamove", needs{spare: true}, changing("metamove")},
		{"member", needs{ranges: true}, member},
		{"defragment", needs{ranges: true}, defragment},
		{"revoke", needs{users: true}, revoking},
		{"quota", needs{users: true}, noSpace},
		{"gateway", needs{gateways: true}, gateway},
	}
}

func faultNamed(name string) *fault {
	all := allFaults()
	if i := slices.IndexFunc(all, func(f *fault) bool { return f.name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

func anyNamed(fs []*fault, name string) bool {
	return slices.ContainsFunc(fs, func(f *fault) bool { return f.name == name })
}

func names(fs []*fault) (out []string) {
	for _, f := range fs {
		out = append(out, f.name)
	}
	return out
}

func faultNames() []string { return names(allFaults()) }

// victims are as many nodes as a majority can spare, or fewer; now and then the oracle's is one.
func (o *ordeal) victims(ctx context.Context) []*harness.Node {
	n := 1 + o.rng.IntN((o.cfg.replicas-1)/2) // every range keeps a majority
	var out []*harness.Node
	if o.rng.IntN(3) == 0 {
		if l := o.leader(ctx); l != nil {
			out = append(out, l)
		}
	}
	for len(out) < n {
		if v := o.any(); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// leader is the node that Status names: the meta group's leader, where the oracle is.
func (o *ordeal) leader(ctx context.Context) *harness.Node {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cl, err := o.connect(o.any())
	if err != nil {
		return nil
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	st, err := cl.Status(ctx, cl.Endpoints()[0])
	if err != nil {
		return nil
	}
	members, err := cl.MemberList(ctx)
	if err != nil {
		return nil
	}
	for _, m := range members.Members {
		for _, n := range o.c.Nodes {
			if m.ID == st.Leader && m.Name == n.Name {
				return n
			}
		}
	}
	return nil
}

func nodeNames(ns []*harness.Node) string {
	var out []string
	for _, n := range ns {
		out = append(out, n.Name)
	}
	return strings.Join(out, " and ")
}

// startAgain starts nodes and waits until they serve.
func startAgain(ctx context.Context, ns []*harness.Node) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var errs []error
	for _, n := range ns {
		errs = append(errs, n.Start())
	}
	for _, n := range ns {
		errs = append(errs, n.WaitReady(ctx))
	}
	return errors.Join(errs...)
}

func kill(ctx context.Context, o *ordeal) (*injury, error) {
	vs := o.victims(ctx)
	for _, v := range vs {
		if err := v.Kill(); err != nil {
			return nil, err
		}
	}
	return &injury{
		text: "kill -9 of " + nodeNames(vs), healthy: o.without(vs...),
		heal: func(ctx context.Context) error { return startAgain(ctx, vs) },
	}, nil
}

func killAll(_ context.Context, o *ordeal) (*injury, error) {
	return &injury{
		text: "kill -9 of all at once", heal: func(ctx context.Context) error { return startAgain(ctx, o.c.Nodes) },
	}, o.c.KillAll()
}

func restart(ctx context.Context, o *ordeal) (*injury, error) {
	v := o.any()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	took, code, err := v.Stop(ctx)
	if err != nil || code > 0 {
		return nil, fmt.Errorf("%s: exit code %d after %v: %w\n%s", v.Name, code, took, err, v.LogTail(20))
	}
	return &injury{
		text: fmt.Sprintf("SIGTERM of %s, gone after %.2f s", v.Name, took.Seconds()), healthy: o.without(v),
		heal: func(ctx context.Context) error { return startAgain(ctx, []*harness.Node{v}) },
	}, nil
}

func stop(ctx context.Context, o *ordeal) (*injury, error) {
	vs := o.victims(ctx)
	for _, v := range vs {
		if err := v.Signal(syscall.SIGSTOP); err != nil {
			return nil, err
		}
	}
	return &injury{text: "SIGSTOP of " + nodeNames(vs), healthy: o.without(vs...), heal: func(context.Context) error {
		var errs []error
		for _, v := range vs {
			errs = append(errs, v.Signal(syscall.SIGCONT))
		}
		return errors.Join(errs...)
	}}, nil
}

// partition cuts wires between hosts: all of some nodes, those of the oracle's node, one
// direction, or those of a pair.
func partition(ctx context.Context, o *ordeal) (*injury, error) {
	in := &injury{heal: func(context.Context) error { o.lab.Heal(); return nil }}
	vs := o.victims(ctx)
	switch kind := o.rng.IntN(6); kind {
	case 0, 1, 2:
		out, back := kind != 1, kind != 2
		o.cut(vs, out, back)
		in.text, in.healthy = []string{"cut off: ", "deaf in nothing, unheard: ", "deaf: "}[kind]+nodeNames(vs), o.without(vs...)
		if kind == 1 {
			in.text = "hears nobody: " + nodeNames(vs)
		} else if kind == 2 {
			in.text = "heard by nobody: " + nodeNames(vs)
		}
	case 3:
		if l := o.leader(ctx); l != nil {
			vs = []*harness.Node{l}
		}
		o.cut(vs, true, true)
		in.text, in.healthy = "cut off, the oracle's: "+nodeNames(vs), o.without(vs...)
	case 4:
		o.cut(vs, true, true)
		for _, v := range vs { // its clients, too
			o.lab.Set(o.index(v), o.cfg.nodes, lab.Link{Cut: true})
			o.lab.Set(o.cfg.nodes, o.index(v), lab.Link{Cut: true})
		}
		in.text, in.healthy = "cut off, clients too: "+nodeNames(vs), o.without(vs...)
	case 5:
		a := o.any()
		b := o.without(a)[o.rng.IntN(o.cfg.nodes-1)]
		o.lab.Set(o.index(a), o.index(b), lab.Link{Cut: true})
		o.lab.Set(o.index(b), o.index(a), lab.Link{Cut: true})
		in.text, in.healthy = fmt.Sprintf("no wire between %s and %s", a.Name, b.Name), o.without(a, b)
	}
	return in, nil
}

// wire cuts the wire between the oracle's node and another, which both still reach the third: what the
// other leads cannot ask for revisions the direct way, and nobody has a reason to depose it.
func wire(ctx context.Context, o *ordeal) (*injury, error) {
	a := o.leader(ctx)
	if a == nil {
		a = o.any()
	}
	b := o.without(a)[o.rng.IntN(o.cfg.nodes-1)]
	out, back := true, true
	switch o.rng.IntN(3) {
	case 1:
		back = false
	case 2:
		out = false
	}
	o.lab.Set(o.index(a), o.index(b), lab.Link{Cut: out})
	o.lab.Set(o.index(b), o.index(a), lab.Link{Cut: back})
	return &injury{
		text:    fmt.Sprintf("no wire from the oracle's %s to %s (%v) and back (%v)", a.Name, b.Name, out, back),
		healthy: o.without(a, b), heal: func(context.Context) error { o.lab.Heal(); return nil },
	}, nil
}

// slow makes the wires of one node, or all, late, lossy and narrow.
func slow(_ context.Context, o *ordeal) (*injury, error) {
	link := lab.Link{
		Delay: time.Duration(5+o.rng.IntN(95)) * time.Millisecond, Loss: float64(o.rng.IntN(4)) / 100,
		Rate: []float64{0, 300_000, 2_000_000}[o.rng.IntN(3)],
	}
	v, whom := o.any(), "all wires"
	all := o.rng.IntN(2) == 0
	for i, a := range o.c.Nodes {
		for j, b := range o.c.Nodes {
			if i != j && (all || a == v || b == v) {
				o.lab.Set(i, j, link)
			}
		}
	}
	if !all {
		whom = "wires of " + v.Name
	}
	return &injury{
		text:    fmt.Sprintf("%s: %v, %.0f%% lost, %.1f MB/s", whom, link.Delay, 100*link.Loss, link.Rate/1e6),
		healthy: o.c.Nodes, heal: func(context.Context) error { o.lab.Heal(); return nil },
	}, nil
}

// diskFull leaves a node without a byte. It may go on for as long as it writes nothing, or end.
func diskFull(_ context.Context, o *ordeal) (*injury, error) {
	v := o.any()
	h := o.lab.Hosts[o.index(v)]
	in := &injury{text: "disk full on " + v.Name, healthy: o.without(v), gone: []*harness.Node{v}}
	in.heal = func(context.Context) error { return h.ClearDisk(v.DataDir) }
	return in, h.FillDisk(v.DataDir)
}

// clock makes one node's clock jump ahead, as after a suspended machine; where the oracle trusts no
// clock, also back.
func clock(ctx context.Context, o *ordeal) (*injury, error) {
	v := o.any()
	if l := o.leader(ctx); l != nil && o.rng.IntN(2) == 0 {
		v = l
	}
	by := time.Duration(1+o.rng.IntN(100)) * 200 * time.Millisecond
	if o.cfg.oracle == "quorum" && o.rng.IntN(2) == 0 {
		by = -by
	}
	in := &injury{text: fmt.Sprintf("the clock of %s jumps by %v", v.Name, by), healthy: o.c.Nodes, heal: func(context.Context) error { return nil }}
	return in, o.post(ctx, v, "clock?by="+by.String())
}

// failSync makes a node's fsyncs fail: it must stop by itself.
func failSync(ctx context.Context, o *ordeal) (*injury, error) {
	v := o.any()
	if err := o.post(ctx, v, "sync?fail=true"); err != nil {
		return nil, err
	}
	in := &injury{text: "no fsync succeeds on " + v.Name, healthy: o.without(v), gone: []*harness.Node{v}}
	in.heal = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		code, err := v.WaitExit(ctx)
		if err == nil && code == 0 {
			err = errors.New("the exit code is 0")
		}
		return err
	}
	return in, nil
}

// transfer lets nodes give their leads away, one every second.
func transfer(ctx context.Context, o *ordeal) (*injury, error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	first := o.rng.IntN(o.cfg.nodes)
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			// It fails where the lead could not be moved in time, which is the node's affair.
			_ = o.post(ctx, o.c.Nodes[(first+i)%o.cfg.nodes], "transfer")
			pause(ctx, time.Second)
		}
	}()
	return &injury{text: "leads move every second", healthy: o.c.Nodes, heal: func(context.Context) error {
		cancel()
		<-done
		return nil
	}}, nil
}
