package bench

import (
	"context"
	"fmt"
	"time"

	"pontoon/bench/load"
)

// run measures with the nodes that there are at first.
func (w *k8s) run(ctx context.Context, plan load.Plan) load.Outcome {
	settle := w.plan(plan, w.spec.Step/5)
	warm := load.Run(ctx, settle, w.do)
	w.lag.Store(&lags{})
	next := w.plan(plan, plan.Duration)
	next.First = warm.Next
	next.Operations, next.Progress = plan.Operations, plan.Progress
	out := load.Run(ctx, next, w.do)
	out.Failed += warm.Failed
	for msg, n := range warm.Errors {
		out.Errors[msg] += n
	}
	return out
}

// plan is the load of the nodes that there are.
func (w *k8s) plan(like load.Plan, d time.Duration) load.Plan {
	var rate float64
	for _, r := range w.rates {
		rate += r
	}
	return load.Plan{Workers: like.Workers, Rate: rate, Duration: d, First: like.First, Timeout: like.Timeout, Kinds: like.Kinds}
}

func (w *k8s) report(r *Run) {
	r.Corrected = true
	lag := w.lag.Load()
	if r.Kinds == nil {
		r.Kinds = map[string]load.Summary{}
	}
	r.Kinds[kindDeliver], r.Kinds[kindProgress] = lag.deliver.Summary(), lag.progress.Summary()
}

// conclude adds nodes until there are too many.
func (w *k8s) conclude(ctx context.Context, r *Run) error {
	if w.spec.K8sNodesMax == 0 {
		return nil
	}
	steps := &nodeRamp{next: w.spec.K8sNodes, limit: w.spec.K8sNodesMax}
	series := map[string]*Series{}
	plan := load.Plan{Workers: w.spec.Clients, Timeout: min(w.spec.Timeout, 10*w.spec.Limit), Kinds: w.kinds(), First: 1 << 40}
	for steps.next > 0 && ctx.Err() == nil {
		n := steps.next
		if err := w.grow(ctx, n); err != nil {
			return err
		}
		w.say(fmt.Sprintf("%d nodes", n))
		worst, why := w.step(ctx, &plan)
		for kind, p99 := range worst {
			s := series[kind]
			if s == nil {
				s = &Series{Name: "p99: " + kind, X: "nodes", Y: "µs"}
				series[kind] = s
			}
			s.Points = append(s.Points, [2]float64{float64(n), float64(p99)})
		}
		if why != "" {
			w.say(fmt.Sprintf("%d nodes not held: %s", n, why))
		}
		steps.judge(why == "", near(worst, w.spec.Limit))
	}
	for _, kind := range append(w.kinds(), kindDeliver, kindProgress) {
		if s := series[kind]; s != nil {
			r.Series = append(r.Series, *s)
		}
	}
	r.figure("most-nodes", float64(steps.held))
	if steps.held == 0 {
		return fmt.Errorf("not even %d nodes were held", w.spec.K8sNodes)
	}
	return nil
}

// step measures one number of nodes: the p99 of everything in microseconds, and why it was not held.
func (w *k8s) step(ctx context.Context, plan *load.Plan) (p99 map[string]int64, why string) {
	settle := load.Run(ctx, w.plan(*plan, w.spec.Step/5), w.do)
	plan.First = settle.Next
	w.lag.Store(&lags{})
	out := load.Run(ctx, w.plan(*plan, w.spec.Step), w.do)
	plan.First = out.Next
	lag := w.lag.Load()
	p99 = map[string]int64{kindDeliver: lag.deliver.Summary().P99, kindProgress: lag.progress.Summary().P99}
	for kind, s := range out.Kinds {
		p99[kind] = s.P99
	}
	switch {
	case settle.Failed > 0 || out.Failed > 0:
		why = fmt.Sprintf("%d requests failed: %s", settle.Failed+out.Failed, reasons(settle.Errors, out.Errors))
	case settle.Unstarted > 0 || out.Unstarted > 0:
		why = fmt.Sprintf("%d requests never began", settle.Unstarted+out.Unstarted)
	}
	for _, f := range w.feeds {
		if waited := f.waiting(); waited > w.spec.Limit {
			why = fmt.Sprintf("a read of the watch cache waits for %v", waited.Round(time.Millisecond))
		}
	}
	for _, kind := range append(w.kinds(), kindDeliver, kindProgress) {
		if us := p99[kind]; us > w.spec.Limit.Microseconds() {
			why = fmt.Sprintf("p99 of %s is %v", kind, time.Duration(us)*time.Microsecond)
		}
	}
	return p99, why
}

// near tells whether a p99 comes near the limit: queues grow fast from there, twice as many nodes are too many.
func near(p99 map[string]int64, limit time.Duration) bool {
	for _, us := range p99 {
		if us > limit.Microseconds()/20 {
			return true
		}
	}
	return false
}

// nodeRamp decides with how many nodes to go on.
type nodeRamp struct {
	next  int // 0: it is over
	limit int
	held  int  // the highest number that was
	again bool // next is tried for the second time
}

// judge takes the result of next: a number that was not held is tried once more, because others may
// have been on the machine.
func (r *nodeRamp) judge(held, near bool) {
	switch {
	case held && r.next == r.limit:
		r.held, r.next = r.next, 0
	case held && near:
		r.held, r.next, r.again = r.next, min(r.next+(r.next+3)/4, r.limit), false
	case held:
		r.held, r.next, r.again = r.next, min(2*r.next, r.limit), false
	case r.again:
		r.next = 0
	default:
		r.again = true
	}
}
