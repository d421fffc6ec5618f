package host

import (
	"context"
	"time"

	"pontoon/internal/tuning/processors"
	"pontoon/shard/replica"
)

// unitMax bounds what one unit of work of a range may have cost, in ns of processor time: a node also works for clients of ranges that
// others lead, and the ranges here are not to blame for that.
const unitMax = 100_000

// loaded is a replica whose load is looked at.
type loaded interface {
	LoadUnits() float64
	LoadSeen(seconds, unit, processor float64)
}

// loads looks at what the ranges of a node do, once a window. The processor time that the process has used is shared out among them by what they have
// counted: so a request costs a few additions, and no look at a clock.
type loads struct {
	each  func(func(loaded))
	now   func() time.Time
	used  func() time.Duration
	limit func() float64 // of processors; 0: none

	last     time.Time
	lastUsed time.Duration
}

func newLoads(r *ranges) *loads {
	each := func(fn func(loaded)) { r.each(func(rep *replica.Replica) { fn(rep) }) }
	return &loads{each: each, now: bootClock, used: processors.Used, limit: processors.Machine().Limit, last: bootClock(), lastUsed: processors.Used()}
}

// run looks until ctx ends.
func (l *loads) run(ctx context.Context) {
	t := time.NewTicker(replica.LoadWindow * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.look()
		case <-ctx.Done():
			return
		}
	}
}

// look ends a window.
func (l *loads) look() {
	now, used := l.now(), l.used()
	seconds, spent := now.Sub(l.last).Seconds(), float64(used-l.lastUsed)
	l.last, l.lastUsed = now, used
	if seconds <= 0 {
		return
	}
	var reps []loaded
	units := 0.0
	l.each(func(r loaded) {
		reps = append(reps, r)
		units += r.LoadUnits()
	})
	unit := min(max(spent, 0)/max(units, 1), unitMax)
	processor := min(coresOf(l.limit()), 1)
	for _, r := range reps {
		r.LoadSeen(seconds, unit, processor)
	}
}
