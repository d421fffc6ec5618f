package plansim

import (
	"fmt"
	"slices"
	"strings"

	"pontoon/placement"
)

// Report is what a run has come to.
type Report struct {
	Seconds   int
	Ranges    int
	Rounds    int
	Ops       map[placement.Rule]int
	OpsLast   int     // that began in the last hour
	Failed    int     // ops
	Events    int     // that befell nodes
	Longest   int     // seconds for which a replica was missing or too near to another
	Converged int     // seconds until every node was within tolerance for the first time; 0: never
	Replicas  float64 // the largest deviation from the mean at the end, as a share, over nodes that serve
	Bytes     float64
	CPU       float64
}

// String is the report in a few lines.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d s, %d ranges, %d rounds, %d events, %d ops failed, longest repair %d s, converged after %d s, off by %.1f %% of replicas, %.1f %% of bytes, %.1f %% of CPU; ops in the last hour %d; ops:",
		r.Seconds, r.Ranges, r.Rounds, r.Events, r.Failed, r.Longest, r.Converged, 100*r.Replicas, 100*r.Bytes, 100*r.CPU, r.OpsLast)
	for _, rule := range r.rules() {
		fmt.Fprintf(&b, " %v %d", rule, r.Ops[rule])
	}
	return b.String()
}

func (r Report) rules() []placement.Rule {
	var out []placement.Rule
	for rule := range r.Ops {
		out = append(out, rule)
	}
	slices.Sort(out)
	return out
}

// Sim is a run that can be looked at between its seconds.
type Sim struct {
	w     *world
	begun placement.Seconds
}

// New lays out a world.
func New(c Config) *Sim {
	w := newWorld(c)
	meter{w}.sample()
	meter{w}.measureNodes()
	return &Sim{w: w, begun: w.now}
}

// Run lets so many seconds pass. An error is a broken rule, and says how to see it again; nothing can be done with the Sim after it.
func (s *Sim) Run(seconds int) error {
	for range seconds {
		if err := s.w.second(); err != nil {
			return fmt.Errorf("seed %d, second %d: %w\nreplay: %s", s.w.cfg.Seed, s.w.now-s.begun, err, s.w.cfg.Replay())
		}
		if s.w.stats.converged == 0 && s.w.now%30 == 0 && s.Balanced() {
			s.w.stats.converged = s.w.now - s.begun
		}
	}
	return nil
}

// second is a step.
func (w *world) second() error {
	w.now++
	w.proceed()
	fate{w}.befall()
	meter{w}.report(false)
	if w.now%reportEvery == 0 {
		meter{w}.drift()
		meter{w}.sample()
		meter{w}.measureNodes()
	}
	if int(w.now)%w.cfg.PlanEvery == 0 {
		if err := w.round(); err != nil {
			return err
		}
	}
	if w.now%60 == 0 {
		return w.check.state()
	}
	return nil
}

// round asks the planner, and begins what it says.
func (w *world) round() error {
	w.present()
	w.view.Round++
	w.stats.rounds++
	ops := placement.Plan(&w.view, w.cfg.Limits, w.now)
	if err := w.check.plan(ops); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Due() {
			w.begin(op)
		} else {
			w.stats.blocked++
		}
	}
	return nil
}

// Change lets a part of the configuration hold from now on, so that a world can come to rest after it was hurt.
func (s *Sim) Change(edit func(*Config)) { edit(&s.w.cfg) }

// Deviations are the largest ones from the mean, as shares of it, over nodes that serve, by replicas, bytes and CPU as the ranges tell it. What one
// range brings does not count: it cannot be divided.
func (s *Sim) Deviations() [3]float64 {
	w := s.w
	r := &w.view.Ranges
	n := len(w.nodes)
	sums := make([][3]float64, n)
	var most [3]float64
	for i := range r.IDs {
		for k, m := range r.Row(i) {
			if m < 0 {
				continue
			}
			cpu := float64(r.CPU[i])
			if k != int(r.Leaders[i]) {
				cpu *= w.cfg.Limits.Move.FollowerCPU
			}
			for x, v := range [3]float64{1, float64(r.Bytes[i]), cpu} {
				sums[m][x] += v
				most[x] = max(most[x], v)
			}
		}
	}
	var total, worst [3]float64
	serving := 0.0
	for m := range sums {
		if w.serves(m) {
			serving++
			for x, v := range sums[m] {
				total[x] += v
			}
		}
	}
	for m := range sums {
		for x, v := range sums[m] {
			mean := total[x] / serving
			if w.serves(m) && mean > 0 {
				worst[x] = max(worst[x], max(0, max(v-mean, mean-v)-most[x])/mean)
			}
		}
	}
	return worst
}

func (w *world) serves(n int) bool {
	v := &w.view.Nodes[n]
	return v.Liveness == placement.Up && !v.Draining && !v.Removed && !w.nodes[n].gone
}

// Leaving counts the nodes that are to be empty and still hold something.
func (s *Sim) Leaving() int {
	left := 0
	for n := range s.w.nodes {
		if v := &s.w.view.Nodes[n]; (v.Draining || v.Removed) && s.w.holds(int16(n)) {
			left++
		}
	}
	return left
}

// Balanced tells whether every node that serves is within tolerance.
func (s *Sim) Balanced() bool {
	for _, d := range s.Deviations() {
		if d > s.w.cfg.Limits.Move.Tolerance {
			return false
		}
	}
	return true
}

// Report says what has happened so far.
func (s *Sim) Report() Report {
	w := s.w
	d := s.Deviations()
	out := Report{
		Seconds: int(w.now - s.begun), Ranges: w.view.Ranges.Len(), Rounds: w.stats.rounds, Ops: w.stats.ops, Failed: w.stats.failed, Events: w.stats.events,
		Longest: int(w.stats.longest), Converged: int(w.stats.converged), Replicas: d[0], Bytes: d[1], CPU: d[2],
	}
	for _, at := range w.stats.recent {
		if w.now-at < 3600 {
			out.OpsLast++
		}
	}
	return out
}
