package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
)

// gatewayEnds bounds how long a gateway takes that is told to stop.
const gatewayEnds = 20 * time.Second

// mirrored are prefixes of the load whose lists the last gateway answers from memory. Rights to one of them come and go.
var mirrored = prefixes[1:7]

// gateways are those of a site. The last of several has its feeds from the first, and mirrors: who works through it works through two levels, and has its
// lists from what came by them.
type gateways struct{ *site }

// add describes them. In a lab each has a host of its own, behind that of the clients.
func (s gateways) add() error {
	for i := range s.cfg.gateways {
		place := harness.Place{}
		if s.lab != nil {
			h := s.lab.Hosts[s.host(i)]
			place = harness.Place{IP: h.String(), Do: h.Do}
		}
		var args []string
		if s.security != nil {
			args = s.security.args
		}
		if _, err := s.c.AddGatewayAt(place, fmt.Sprintf("g%d", i+1), args...); err != nil {
			return err
		}
	}
	if s.cfg.gateways == 0 {
		return nil
	}
	last := s.last()
	last.Args = append(last.Args, "--mirror-prefixes="+strings.Join(mirrored, ","), "--mirror-history=10s", "--mirror-audit-interval=2s")
	if !s.chained() {
		return nil
	}
	if err := s.c.PassesOn(s.c.Gateways[0]); err != nil {
		return err
	}
	last.Behind(s.c.Gateways[0])
	return nil
}

func (s gateways) last() *harness.Node { return s.c.Gateways[len(s.c.Gateways)-1] }

// chained reports whether one is behind another.
func (s gateways) chained() bool { return s.cfg.gateways > 1 }

// host is the number of a gateway's host.
func (s gateways) host(i int) int { return s.cfg.nodes + 1 + i }

// doors are all through which clients work: nodes, and gateways.
func (s *site) doors() []*harness.Node {
	return append(s.c.Nodes[:len(s.c.Nodes):len(s.c.Nodes)], s.c.Gateways...)
}

// cut drops what some gateways send to some hosts, or what these send to them, or both. Clients reach all.
func (s gateways) cut(gs []*harness.Node, from []int, sent, received bool) {
	for _, g := range gs {
		at := s.host(slices.Index(s.c.Gateways, g))
		for _, h := range from {
			if h != at {
				s.lab.Set(at, h, lab.Link{Cut: sent})
				s.lab.Set(h, at, lab.Link{Cut: received})
			}
		}
	}
}

// others are hosts from which gateways may be cut off: the nodes', where one is behind another those of the gateways, or all.
func (s gateways) others(r *rand.Rand) (hosts []int, whose string) {
	whose = "the nodes"
	first, end := 0, s.cfg.nodes
	if s.chained() {
		switch r.IntN(3) {
		case 1:
			first, end, whose = s.host(0), s.host(s.cfg.gateways), "each other"
		case 2:
			end, whose = s.host(s.cfg.gateways), "the nodes and each other"
		}
	}
	for h := first; h < end; h++ {
		if h != s.cfg.nodes { // the clients'
			hosts = append(hosts, h)
		}
	}
	return hosts, whose
}

// gateway hurts one of the gateways, now and then all of them: all ranges take writes through the nodes as if nothing had happened, and who works through
// them waits or goes elsewhere.
func gateway(ctx context.Context, o *ordeal) (*injury, error) {
	i := o.rng.IntN(len(o.c.Gateways))
	gs := o.c.Gateways[i : i+1]
	if o.rng.IntN(4) == 0 {
		gs = o.c.Gateways
	}
	in := &injury{healthy: o.c.Nodes, text: nodeNames(gs)}
	again := func(ctx context.Context) error { return startAgain(ctx, gs) }
	kinds := 3
	if o.lab != nil {
		kinds = 6
	}
	switch kind := o.rng.IntN(kinds); kind {
	case 0:
		in.text, in.heal = "kill -9 of "+in.text, again
		return in, each(gs, (*harness.Node).Kill)
	case 1:
		took, err := endAll(ctx, gs)
		in.text, in.heal = fmt.Sprintf("SIGTERM of %s, gone after %.2f s", in.text, took.Seconds()), again
		return in, err
	case 2:
		in.text = "SIGSTOP of " + in.text
		in.heal = func(context.Context) error { return each(gs, signalling(syscall.SIGCONT)) }
		return in, each(gs, signalling(syscall.SIGSTOP))
	default:
		hosts, whose := gateways{&o.site}.others(o.rng)
		gateways{&o.site}.cut(gs, hosts, kind != 4, kind != 5)
		in.text = fmt.Sprintf([]string{"%s cut off from %s", "%s deaf to %s", "%s unheard by %s"}[kind-3], in.text, whose)
		in.heal = func(context.Context) error { o.lab.Heal(); return nil }
	}
	return in, nil
}

// each does something to all of some processes.
func each(ns []*harness.Node, do func(*harness.Node) error) error {
	var errs []error
	for _, n := range ns {
		errs = append(errs, do(n))
	}
	return errors.Join(errs...)
}

func signalling(sig syscall.Signal) func(*harness.Node) error {
	return func(n *harness.Node) error { return n.Signal(sig) }
}

// endAll stops gateways in the planned way, all at once. It tells how long the slowest took.
func endAll(ctx context.Context, gs []*harness.Node) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, gatewayEnds)
	defer cancel()
	began, ends := time.Now(), make(chan error, len(gs))
	for _, g := range gs {
		go func() {
			took, code, err := g.Stop(ctx)
			if err == nil && code > 0 {
				err = errors.New("that is an error")
			}
			if err != nil {
				err = fmt.Errorf("%s: exit code %d after %v: %w\n%s", g.Name, code, took, err, g.LogTail(20))
			}
			ends <- err
		}()
	}
	var errs []error
	for range gs {
		errs = append(errs, <-ends)
	}
	return time.Since(began), errors.Join(errs...)
}

// gatewaysLive reports gateways that have ended by themselves, and starts them again.
func (o *ordeal) gatewaysLive(ctx context.Context) {
	for _, g := range o.c.Gateways {
		if g.Running() {
			continue
		}
		o.found("%s has ended by itself:\n%s", g.Name, g.LogTail(30))
		if err := startAgain(ctx, []*harness.Node{g}); err != nil {
			o.found("%s does not start: %v", g.Name, err)
		}
	}
}

// kill ends those that run.
func (s gateways) kill() error {
	var errs []error
	for _, g := range s.c.Gateways {
		if g.Running() {
			errs = append(errs, g.Kill())
		}
	}
	return errors.Join(errs...)
}
