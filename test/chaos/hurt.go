package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pontoon/test/e2e/harness"
	"pontoon/test/history"
)

// Limits of a round. What takes longer is wrong, not slow.
const (
	recoveryLimit = 30 * time.Second
	probeTimeout  = 700 * time.Millisecond
	readyLimit    = 60 * time.Second
)

// injury is a fault that has been injected.
type injury struct {
	text    string
	healthy []*harness.Node // through which all ranges must take writes; none: no majority is up
	gone    []*harness.Node // nodes that may end by themselves
	heal    func(ctx context.Context) error
}

// hurt injects faults, one after the other, until the time is over.
func (o *ordeal) hurt(ctx context.Context) {
	end := time.Now().Add(o.cfg.duration)
	o.progress(ctx, 100, "before any fault")
	for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
		f := o.faults[i%len(o.faults)]
		if len(o.faults) > 3 {
			f = o.faults[o.rng.IntN(len(o.faults))]
		}
		o.round(ctx, f)
		if len(o.wrong) > 20 {
			return
		}
	}
}

// round is one fault from its injection to the recovery.
func (o *ordeal) round(ctx context.Context, f *fault) {
	st := o.stats[f.name]
	if st == nil {
		st = &stats{}
		o.stats[f.name] = st
	}
	for _, c := range o.changes { // whatever happens, happens while a range is being cut, moved or merged
		c.along(ctx)
	}
	if o.members != nil && f.name != "member" {
		o.members.along(ctx)
	}
	if o.hunt != nil && f.name != "revoke" {
		o.hunt.along(ctx)
	}
	o.tier.along(ctx)
	began := time.Now()
	in, err := f.inject(ctx, o)
	if err != nil {
		o.found("%s could not be injected: %v", f.name, err)
		return
	}
	st.injected++
	text := ""
	if len(in.healthy) > 0 {
		took, err := o.recovered(ctx, began, in.healthy)
		if err != nil {
			o.found("%s, %s: %v", f.name, in.text, err)
		} else {
			st.under = append(st.under, took)
			text = fmt.Sprintf("all ranges after %.2f s; ", took.Seconds())
			o.progress(ctx, 20, f.name)
		}
	}
	pause(ctx, o.cfg.hold/2+time.Duration(o.rng.Int64N(int64(o.cfg.hold))))
	healed := time.Now()
	if err := in.heal(ctx); err != nil {
		o.found("%s, %s, could not be healed: %v", f.name, in.text, err)
	}
	o.revive(ctx, in.gone)
	o.gatewaysLive(ctx)
	took, err := o.recovered(ctx, healed, o.c.Nodes)
	if err != nil {
		o.found("after %s, %s: %v", f.name, in.text, err)
		return
	}
	st.healed = append(st.healed, took)
	o.say("%-9s %-46s %shealed, all ranges after %.2f s", f.name, in.text, text, took.Seconds())
	o.progress(ctx, 50, "after "+f.name)
	pause(ctx, o.cfg.hold/4)
}

// endsWithin is how long a node may take to end after it has seen a reason.
const endsWithin = 10 * time.Second

// revive starts the nodes that were allowed to end, and reports the others that did.
func (o *ordeal) revive(ctx context.Context, gone []*harness.Node) {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, n := range o.c.Nodes {
		if n.Running() {
			continue
		}
		// Who has just met a full disk may have decided to end, and be at it, when there is space again.
		if !slices.Contains(gone, n) && time.Now().After(o.excused[n]) {
			o.found("%s has ended by itself:\n%s", n.Name, n.LogTail(30))
		}
		if err := n.Start(); err != nil {
			o.found("%s does not start: %v", n.Name, err)
		}
	}
	for _, n := range gone {
		o.excused[n] = time.Now().Add(endsWithin)
	}
	for _, n := range o.c.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			o.found("%v", err)
		}
	}
}

// recovered waits until every range has taken a write through some nodes, and tells how long that
// took since a moment.
func (o *ordeal) recovered(ctx context.Context, since time.Time, through []*harness.Node) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	cl, err := o.connect(through...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	results := make(chan error, len(prefixes))
	for i, p := range prefixes {
		o.probes++
		c, value := o.rec.Client(4000+i, cl), fmt.Sprintf("probe%d", o.probes)
		go func() {
			for n := 0; ; n++ {
				pctx, cancel := context.WithTimeout(ctx, probeTimeout)
				op := c.Do(pctx, history.Cmd{Kind: history.Put, Key: p + "probe", Value: fmt.Sprintf("%s.%d", value, n)})
				cancel()
				switch {
				case op.Fate == history.OK:
					results <- nil
					return
				case ctx.Err() != nil:
					results <- fmt.Errorf("range %s takes no write: %s", p, op.Err)
					return
				}
				pause(ctx, 10*time.Millisecond)
			}
		}()
	}
	var errs []error
	for range prefixes {
		errs = append(errs, <-results)
	}
	return time.Since(since), errors.Join(errs...)
}

// progress waits until the load has got some answers.
func (o *ordeal) progress(ctx context.Context, n int64, when string) {
	from, deadline := o.load.Answered(), time.Now().Add(recoveryLimit)
	for o.load.Answered() < from+n {
		if time.Now().After(deadline) {
			o.found("%s: the clients got %d answers in %v; the last error: %s", when, o.load.Answered()-from, recoveryLimit, o.load.LastError())
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			return
		}
	}
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
