package main

import (
	"context"
	"fmt"
	"time"

	"pontoon/test/e2e/harness"
)

const (
	// lookTimeout bounds one look at a gateway's metrics: who is cut off or stands still is looked at another time.
	lookTimeout = time.Second
	// behindWithin is how long the last gateway may take until it has its feeds from the first, when nothing hurts either.
	behindWithin = 30 * time.Second
	// listsFrom is the length of a run in which some list must have been answered from memory.
	listsFrom = time.Minute
)

// tier is what the last gateway tells of itself, over all its lives.
type tier struct {
	s      gateways
	pid    int
	last   map[string]float64 // of the process pid
	sum    map[string]float64
	looks  int // that were answered
	behind int // at which it had feeds from the first gateway
}

// mirrorFigures are counters.
var mirrorFigures = []string{"hits_total", "misses_total", "builds_total", "void_total", "audits_total", "wrong_total"}

// look reads what the last gateway tells. A life is lost as far as it was not looked at.
func (t *tier) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	g := t.s.last()
	pid := g.PID()
	all, err := harness.ReadSeries(ctx, g, t.s.http())
	if err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	level, err := all.Value("pontoon_gateway_level")
	if err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	t.looks++
	if level == 2 {
		t.behind++
	}
	if pid != t.pid {
		t.pid, t.last = pid, map[string]float64{}
	}
	for _, name := range mirrorFigures {
		v, err := all.Value("pontoon_gateway_mirror_" + name)
		if err != nil {
			return fmt.Errorf("%s: %w", g.Name, err)
		}
		t.sum[name] += v - t.last[name]
		t.last[name] = v
	}
	return nil
}

// stands waits until the last gateway has its feeds from the first, where it is to.
func (t *tier) stands(ctx context.Context) error {
	return eventually(ctx, behindWithin, func(ctx context.Context) error {
		before := t.behind
		err := t.look(ctx)
		if err == nil && t.behind == before && t.s.chained() {
			err = fmt.Errorf("%s does not have its feeds from %s", t.s.last().Name, t.s.c.Gateways[0].Name)
		}
		return err
	})
}

// beginTier lets the gateways find one another. nil: there are none.
func beginTier(ctx context.Context, s *site) (*tier, error) {
	if s.cfg.gateways == 0 {
		return nil, nil
	}
	t := &tier{s: gateways{s}, sum: map[string]float64{}}
	return t, t.stands(ctx)
}

// along looks at the tier. That nobody answers is the fault's affair.
func (t *tier) along(ctx context.Context) {
	if t != nil {
		_ = t.look(ctx)
	}
}

// judge says what was had by way of two gateways, and from memory.
func (t *tier) judge(ctx context.Context, f *findings) {
	if err := t.stands(ctx); err != nil {
		f.found("in the end: %v", err)
	}
	f.say("%s: %.0f lists answered from memory, %.0f not; %.0f builds of a range's keys, %.0f given up; %.0f comparisons with replicas", t.s.last().Name,
		t.sum["hits_total"], t.sum["misses_total"], t.sum["builds_total"], t.sum["void_total"], t.sum["audits_total"])
	if t.s.chained() {
		f.say("%s had its feeds from %s at %d of %d looks", t.s.last().Name, t.s.c.Gateways[0].Name, t.behind, t.looks)
	}
	if n := t.sum["wrong_total"]; n > 0 {
		f.found("%.0f comparisons of what is in memory with replicas found a difference", n)
	}
	if t.sum["hits_total"] == 0 && t.s.cfg.duration >= listsFrom {
		f.found("no list was answered from memory: the run has not tried what it was to try")
	}
}
