package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
)

// gatewayEnds bounds how long a gateway takes that is told to stop.
const gatewayEnds = 20 * time.Second

// gateways are those of a site.
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
	return nil
}

// host is the number of a gateway's host.
func (s gateways) host(i int) int { return s.cfg.nodes + 1 + i }

// doors are all through which clients work: nodes, and gateways.
func (s *site) doors() []*harness.Node {
	return append(s.c.Nodes[:len(s.c.Nodes):len(s.c.Nodes)], s.c.Gateways...)
}

// cut drops what a gateway sends to the nodes and what they send to it, or one of both; its clients reach it.
func (s gateways) cut(i int, sent, received bool) {
	for n := range s.cfg.nodes {
		s.lab.Set(s.host(i), n, lab.Link{Cut: sent})
		s.lab.Set(n, s.host(i), lab.Link{Cut: received})
	}
}

// gateway hurts one of the gateways: all ranges take writes through the nodes as if nothing had happened, and who works through the gateway waits or goes
// elsewhere.
func gateway(ctx context.Context, o *ordeal) (*injury, error) {
	i := o.rng.IntN(len(o.c.Gateways))
	g := o.c.Gateways[i]
	in := &injury{healthy: o.c.Nodes}
	again := func(ctx context.Context) error { return startAgain(ctx, []*harness.Node{g}) }
	kinds := 3
	if o.lab != nil {
		kinds = 6
	}
	switch kind := o.rng.IntN(kinds); kind {
	case 0:
		in.text, in.heal = "kill -9 of "+g.Name, again
		return in, g.Kill()
	case 1:
		ctx, cancel := context.WithTimeout(ctx, gatewayEnds)
		defer cancel()
		took, code, err := g.Stop(ctx)
		if err != nil || code > 0 {
			return nil, fmt.Errorf("%s: exit code %d after %v: %w\n%s", g.Name, code, took, err, g.LogTail(20))
		}
		in.text, in.heal = fmt.Sprintf("SIGTERM of %s, gone after %.2f s", g.Name, took.Seconds()), again
	case 2:
		in.text, in.heal = "SIGSTOP of "+g.Name, func(context.Context) error { return g.Signal(syscall.SIGCONT) }
		return in, g.Signal(syscall.SIGSTOP)
	default:
		gateways{&o.site}.cut(i, kind != 4, kind != 5)
		in.text = []string{"cut off from the nodes: ", "heard by the nodes, and hears none: ", "hears the nodes, and is not heard: "}[kind-3] + g.Name
		in.heal = func(context.Context) error { o.lab.Heal(); return nil }
	}
	return in, nil
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
