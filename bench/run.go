package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

// Config is how a workload is measured.
type Config struct {
	Spec   Spec
	Target Target
	Setup  Setup
	// Clients are used instead of clientv3 for targets of a kind.
	Clients map[string]Client
	// Progress is told what happens, from several goroutines; nil: nobody.
	Progress func(Progress)
}

// Progress is a moment of a run.
type Progress struct {
	Target string
	Pair   int
	Phase  string      // what begins; empty: a point of the phase before
	Point  *load.Point // of the measured time
	Of     time.Duration
}

// ErrInterrupted is returned when the context ended a run; what was measured until then comes with it.
var ErrInterrupted = errors.New("interrupted")

// Once measures one run. A run whose figures are not good is no error.
func Once(ctx context.Context, c Config) (*File, error) {
	if err := c.Spec.Validate(); err != nil {
		return nil, err
	}
	f := c.file()
	run, err := c.once(ctx, c.Target, 0)
	if run != nil {
		f.Runs = append(f.Runs, *run)
		f.Good = run.Good
	}
	return f, err
}

func (c Config) file() *File {
	return &File{
		Format: Format, Made: time.Now().UTC(), Version: Version(), Machine: machine.Describe(c.Setup.Dir),
		Name: c.Spec.Name(), Spec: c.Spec,
	}
}

// commit is set by the linker where the Makefile builds.
var commit string

// Version says from which source the program was built.
func Version() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v += " " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			v += " modified"
		}
	}
	return v
}

// once starts a system, measures it and stops it.
func (c Config) once(ctx context.Context, t Target, pair int) (_ *Run, err error) {
	m := &measurement{Config: c, run: &Run{Target: t.String(), Pair: pair}}
	if t.Local() {
		m.say("starting")
	}
	d, _ := Lookup(c.Spec.Workload)
	m.sys, err = start(ctx, t, c.setupFor(d, t.Kind))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", t.Kind, err)
	}
	defer func() { m.blame("the servers did not end well", m.sys.stop()) }()
	clients, err := m.sys.connect(ctx, c.Spec.Conns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll(clients)) }()
	m.run.System = m.sys.info
	e := &env{spec: c.Spec, clients: clients, sys: m.sys, say: m.say}
	for _, cl := range clients {
		e.kvs = append(e.kvs, cl)
	}
	if !t.Local() {
		if err := vacant(ctx, e); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, vacate(ctx, e)) }()
	}
	m.work = d.open(e)
	defer func() { err = errors.Join(err, m.work.close()) }()
	guarded, end := m.sys.guard(ctx)
	defer end()
	if err := m.measure(guarded); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Kind, errors.Join(ended(guarded), err))
	}
	m.blame("a server is missing", ended(guarded))
	if ctx.Err() != nil {
		return m.run, ErrInterrupted
	}
	return m.run, nil
}

// setupFor is how a system of a kind is started for a workload.
func (c Config) setupFor(d Definition, kind string) Setup {
	s := c.Setup
	s.client = c.Clients[kind]
	if kind == TargetPontoon && d.splits != nil {
		s.splits = d.splits(c.Spec, s.Ranges)
	} else if kind == TargetPontoon {
		s.splits = keysOf(c.Spec).splits(s.Ranges)
	}
	if s.Permissions > 0 {
		s.spans = keysOf(c.Spec).splits(s.Permissions)
	}
	if kind == TargetPontoon && d.gateways != nil {
		s.gateways, s.gatewayArgs = d.gateways(c.Spec)
	}
	s.spares = d.spares
	if d.args != nil {
		s.Args = append(d.args(c.Spec, kind), s.Args...)
	}
	return s
}

// measurement is one run under way.
type measurement struct {
	Config
	run  *Run
	sys  *system
	work workload
}

func (m *measurement) say(phase string) {
	if m.Progress != nil {
		m.Progress(Progress{Target: m.run.Target, Pair: m.run.Pair, Phase: phase, Of: m.Spec.Duration})
	}
}

// blame makes an error that no figure stems from a reason why a run is not good.
func (m *measurement) blame(what string, err error) {
	if err != nil {
		m.run.Problems = append(m.run.Problems, fmt.Sprintf("%s: %v", what, err))
		m.run.Good = false
	}
}

func (m *measurement) plan(first int64) load.Plan {
	return load.Plan{
		Workers: m.Spec.Clients, Rate: m.Spec.Rate, Timeout: m.Spec.Timeout, First: first, Kinds: m.work.kinds(),
	}
}

// measure prepares, warms up, measures and verifies.
func (m *measurement) measure(ctx context.Context) error {
	m.say("preparing")
	began := time.Now()
	if err := m.work.prepare(ctx); err != nil {
		return err
	}
	m.run.Prepared = time.Since(began)
	if w, ok := m.work.(repeater); ok {
		m.run.PreparedAgain = w.preparedAgain()
	}
	var warm load.Outcome
	if m.Spec.WarmUp > 0 {
		m.say("warming up")
		plan := m.plan(0)
		plan.Duration = m.Spec.WarmUp
		warm = load.Run(ctx, plan, m.work.do)
	}
	if err := m.measured(ctx, warm.Next); err != nil {
		return err
	}
	if warm.Failed > 0 {
		m.run.Problems = append(m.run.Problems, fmt.Sprintf("%d operations failed in the warm-up: %s", warm.Failed, reasons(warm.Errors)))
	}
	if ctx.Err() != nil {
		m.run.Problems = append(m.run.Problems, "it did not come to an end: nothing was verified")
		return nil
	}
	if err := m.conclude(ctx); err != nil {
		m.run.Problems = append(m.run.Problems, err.Error())
	}
	m.say("verifying")
	wrong, err := m.work.verify(ctx)
	m.run.Problems = append(m.run.Problems, wrong...)
	if err != nil {
		m.run.Problems = append(m.run.Problems, "could not verify: "+err.Error())
	}
	m.run.Good = len(m.run.Problems) == 0
	return nil
}

func (m *measurement) conclude(ctx context.Context) error {
	if c, ok := m.work.(concluder); ok {
		return c.conclude(ctx, m.run)
	}
	return nil
}

// samplesEvery is how often memory is looked at.
const samplesEvery = 200 * time.Millisecond

// measured is the part that counts.
func (m *measurement) measured(ctx context.Context, next int64) error {
	m.say("measuring")
	plan := m.plan(next)
	plan.Duration, plan.Operations = m.Spec.Duration, m.Spec.Operations
	if m.Progress != nil {
		plan.Progress = func(p load.Point) {
			m.Progress(Progress{Target: m.run.Target, Pair: m.run.Pair, Point: &p, Of: m.Spec.Duration})
		}
	}
	before, err := m.look()
	if err != nil {
		return err
	}
	apart, err := m.sys.apart()
	if err != nil {
		return err
	}
	sampler := machine.Follow(m.sys.pids, samplesEvery)
	var out load.Outcome
	if r, ok := m.work.(runner); ok {
		out = r.run(ctx, plan)
	} else {
		out = load.Run(ctx, plan, m.work.do)
	}
	anon, samples := sampler.Stop()
	m.take(out)
	if err := apart.report(m.run, out.Done); err != nil {
		m.run.Problems = append(m.run.Problems, "a process has ended: "+err.Error())
	}
	after, err := m.look()
	if err != nil {
		m.run.Problems = append(m.run.Problems, "a process has ended: "+err.Error())
		return nil
	}
	m.run.Client = consumption(before.own, after.own, 0, out.Done)
	if !m.sys.target.Local() {
		return nil
	}
	if !lacks(before.pids, after.pids) || !lacks(after.pids, before.pids) { // servers have ended for good or joined, but none was replaced
		m.run.Others = after.others(before) / out.Elapsed.Seconds()
	} else { // the workload started them anew: what the first ones used is not known any more
		before.servers, after.servers = machine.Usage{}, machine.Usage{PeakRSS: after.servers.PeakRSS}
	}
	m.run.Servers, m.run.Memory = consumption(before.servers, after.servers, anon, out.Done), samples
	return nil
}

// lacks reports whether one of some processes is not among all.
func lacks(all, some []int) bool {
	return slices.ContainsFunc(some, func(pid int) bool { return !slices.Contains(all, pid) })
}

// look is what has been used until now.
type look struct {
	pids         []int
	servers, own machine.Usage
	busy         time.Duration
}

func (m *measurement) look() (l look, err error) {
	l.pids = m.sys.pids()
	if l.servers, err = m.sys.used(m.sys.servers()); err != nil {
		return l, err
	}
	if l.own, err = machine.Self(); err != nil {
		return l, err
	}
	l.busy, err = machine.Busy()
	return l, err
}

// others is the CPU time, in seconds, that nobody of us has used since before.
func (l look) others(before look) float64 {
	ours := l.servers.CPU - before.servers.CPU + l.own.CPU - before.own.CPU
	return max(0, (l.busy - before.busy - ours).Seconds())
}

// take puts the outcome into the run and judges it.
func (m *measurement) take(out load.Outcome) {
	r := m.run
	r.Began, r.Elapsed = out.Began.UTC(), out.Elapsed
	r.Operations, r.Failed, r.Unstarted, r.Errors = out.Done, out.Failed, out.Unstarted, out.Errors
	r.Rate = float64(out.Done) / out.Elapsed.Seconds()
	r.Corrected, r.Latency, r.Points = m.Spec.Rate > 0, out.Latency, out.Points
	if len(out.Kinds) > 1 {
		r.Kinds = out.Kinds
	}
	m.work.report(r)
	if out.Failed > 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("%d operations failed: %s", out.Failed, reasons(out.Errors)))
	}
	if out.Unstarted > 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("the rate was not held: %d operations that were due never began", out.Unstarted))
	}
	if out.Done == 0 {
		r.Problems = append(r.Problems, "no operation succeeded")
	}
}

// reasonsMax is how many different errors a message names.
const reasonsMax = 3

// reasons are the messages of all counts together, the most frequent first, with how often each came where
// there are several.
func reasons(counts ...map[string]int64) string {
	errs := map[string]int64{}
	for _, c := range counts {
		for msg, n := range c {
			errs[msg] += n
		}
	}
	msgs := slices.SortedFunc(maps.Keys(errs), func(a, b string) int {
		return cmp.Or(cmp.Compare(errs[b], errs[a]), cmp.Compare(a, b))
	})
	if len(msgs) == 1 {
		return msgs[0]
	}
	var out []string
	for _, msg := range msgs[:min(len(msgs), reasonsMax)] {
		out = append(out, fmt.Sprintf("%s (%d times)", msg, errs[msg]))
	}
	if n := len(msgs) - reasonsMax; n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(out, "; ")
}

// vacant makes sure that a cluster that others may use has nothing where the workload's keys go.
func vacant(ctx context.Context, e *env) error {
	resp, err := e.kvs[0].Get(ctx, e.spec.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("look for keys: %w", err)
	}
	if resp.Count > 0 {
		return fmt.Errorf("there are %d keys under %q already; choose another --prefix", resp.Count, e.spec.Prefix)
	}
	return nil
}

// vacate removes the workload's keys again, also after an interruption.
func vacate(ctx context.Context, e *env) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startPatience)
	defer cancel()
	if _, err := e.kvs[0].Delete(ctx, e.spec.Prefix, clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("remove the keys under %q: %w", e.spec.Prefix, err)
	}
	return nil
}
