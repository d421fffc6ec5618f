package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pontoon/bench/machine"
	"pontoon/test/e2e/harness"
)

// gatewaysMax bounds the gateways of a local cluster: more would measure the machine.
const gatewaysMax = 15

var optGateways = Option{
	Name: "gateways", Usage: "gateways in front of a local Pontoon's nodes, through which all clients go; 0: none. Servers of other kinds have none",
	Field: func(s *Spec) any { return &s.Gateways }, In: func(s Spec) (any, bool) { return s.Gateways, s.Gateways > 0 },
}

func checkGateways(s Spec) error {
	if s.Gateways < 0 || s.Gateways > gatewaysMax {
		return fmt.Errorf("--gateways must be between 0 and %d", gatewaysMax)
	}
	return nil
}

// plainGateways are as many as a spec asks for, as they are.
func plainGateways(s Spec) (n int, args []string) { return s.Gateways, nil }

// addGateways starts gateways in front of nodes that serve.
func (s *system) addGateways(ctx context.Context) error {
	for i := range s.setup.gateways {
		g, err := s.cluster.AddGateway(fmt.Sprintf("g%d", i+1), slices.Concat(s.guards.args(), s.setup.gatewayArgs)...)
		if err != nil {
			return err
		}
		if err := g.Start(); err != nil {
			return err
		}
	}
	for _, g := range s.cluster.Gateways {
		if err := g.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stopGateways ends the gateways, those that do not end in time with SIGKILL.
func (s *system) stopGateways() error {
	ctx, cancel := context.WithTimeout(context.Background(), restartPatience)
	defer cancel()
	var errs []error
	for _, g := range s.cluster.Gateways {
		if !g.Running() {
			continue
		}
		if _, _, err := g.Stop(ctx); err != nil {
			errs = append(errs, err, g.Kill())
		}
	}
	return errors.Join(errs...)
}

func pidsOf(nodes []*harness.Node) []int {
	var out []int
	for _, n := range nodes {
		if pid := n.PID(); pid != 0 {
			out = append(out, pid)
		}
	}
	return out
}

// apart tells what nodes and gateways use, each by themselves.
type apart []part

type part struct {
	name   string
	pids   func() []int
	used   func() (machine.Usage, error)
	began  time.Time
	before machine.Usage
	memory *machine.Sampler
}

// apart begins to look; nil where there are no gateways.
func (s *system) apart() (apart, error) {
	if s.cluster == nil || len(s.cluster.Gateways) == 0 {
		return nil, nil
	}
	var a apart
	for name, of := range map[string][]*harness.Node{"nodes": s.cluster.Nodes, "gateways": s.cluster.Gateways} {
		a = append(a, part{
			name: name, pids: func() []int { return pidsOf(of) }, used: func() (machine.Usage, error) { return s.used(of) }, began: time.Now(),
		})
	}
	for i := range a {
		var err error
		if a[i].before, err = a[i].used(); err != nil {
			return nil, err
		}
	}
	for i := range a {
		a[i].memory = machine.Follow(a[i].pids, samplesEvery)
	}
	return a, nil
}

// report ends it, and adds what was seen to a run of so many operations.
func (a apart) report(r *Run, operations int64) error {
	var errs []error
	for _, p := range a {
		anon, _ := p.memory.Stop()
		after, err := p.used()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cpu := after.CPU - p.before.CPU
		if operations > 0 {
			r.figure(p.name+"-cpu-µs/op", float64(cpu.Microseconds())/float64(operations))
		}
		r.figure(p.name+"-cpu-cores", cpu.Seconds()/time.Since(p.began).Seconds())
		r.figure(p.name+"-peak-anon-B", float64(anon))
		r.figure(p.name+"-peak-rss-B", float64(after.PeakRSS))
	}
	return errors.Join(errs...)
}

// fronts are the servers that clients are connected to.
func (s *system) fronts() []*harness.Node {
	if s.cluster == nil || len(s.cluster.Gateways) == 0 {
		return s.servers()
	}
	return s.cluster.Gateways
}

// used adds up what some servers have used. Of one that was ended on purpose it is what it had used until then.
func (s *system) used(of []*harness.Node) (sum machine.Usage, err error) {
	s.restarting.Lock()
	defer s.restarting.Unlock()
	var pids []int
	for _, n := range of {
		if before, gone := s.away[n]; gone {
			sum.CPU, sum.Written = sum.CPU+before.CPU, sum.Written+before.Written
		} else {
			pids = append(pids, n.PID())
		}
	}
	live, err := machine.Processes(pids)
	return sum.Add(live), err
}

// end ends one server on purpose and for good, with SIGKILL, or as its operator would, and then waits for its end.
func (s *system) end(ctx context.Context, n *harness.Node, kill bool) error {
	note := func() error {
		u, err := machine.Processes([]int{n.PID()})
		if err == nil {
			s.restarting.Lock()
			if s.away == nil {
				s.away = map[*harness.Node]machine.Usage{}
			}
			s.away[n] = u
			s.restarting.Unlock()
		}
		return err
	}
	if err := note(); err != nil {
		return err
	}
	if kill {
		return n.Kill()
	}
	if err := n.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	for n.Running() && ctx.Err() == nil {
		wait(ctx, samplesEvery)
		_ = note() // it may have ended
	}
	code, err := n.WaitExit(ctx)
	if err == nil && code != 0 && s.target.Kind == TargetPontoon { // etcd ends by the signal itself
		err = fmt.Errorf("%s has ended with exit code %d", n.Name, code)
	}
	return err
}

// figureOf adds up a metric without labels over some servers; those that do not have it count nothing.
func (s *system) figureOf(ctx context.Context, of []*harness.Node, name string) (sum float64) {
	for _, n := range of {
		if v, err := s.metric(ctx, n, name); err == nil {
			sum += v
		}
	}
	return sum
}

// Metrics of a gateway.
const (
	mirrorKeys = "pontoon_gateway_mirror_keys"
	mirrorHits = "pontoon_gateway_mirror_hits_total"
)

// awaitMirrors waits until every gateway mirrors so many keys.
func (s *system) awaitMirrors(ctx context.Context, keys int) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, g := range s.cluster.Gateways {
		for {
			n, err := s.metric(ctx, g, mirrorKeys)
			if err == nil && n >= float64(keys) {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s mirrors %.0f of %d keys: %w", g.Name, n, keys, errors.Join(ctx.Err(), err))
			}
			wait(ctx, 50*time.Millisecond)
		}
	}
	return nil
}

// mirrorHits is how many lists the gateways have answered from memory.
func (s *system) mirrorHits(ctx context.Context) (hits float64, err error) {
	for _, g := range s.cluster.Gateways {
		n, err := s.metric(ctx, g, mirrorHits)
		if err != nil {
			return 0, err
		}
		hits += n
	}
	return hits, nil
}

// metric reads one that has no labels.
func (s *system) metric(ctx context.Context, of *harness.Node, name string) (v float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, of.ClientURL+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Close = true // what is measured has no connection more for it
	resp, err := s.guards.http().Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return findMetric(resp.Body, name)
}

// findMetric looks for a metric without labels in Prometheus's text format.
func findMetric(in io.Reader, name string) (float64, error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(rest, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("there is no metric %s", name), lines.Err())
}
