package load

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// failuresMax ends a run: what fails this often is not worth measuring further.
const failuresMax = 1000

// timerSlack is how late the runtime may wake a worker that waited for its operation to be due
// before that counts as latency of the server.
const timerSlack = time.Millisecond

// Op performs operation number seq and tells which of the plan's kinds it was. It is called by
// many workers at once, never twice with the same number.
type Op func(ctx context.Context, worker int, seq int64) (kind int, err error)

// Plan says how operations are run.
type Plan struct {
	// Workers is how many operations may be on the way at once.
	Workers int
	// Rate is how many operations per second are due, over all workers; 0 runs the closed loop.
	Rate float64
	// Duration bounds when operations begin, Operations how many do; at least one is not 0.
	Duration   time.Duration
	Operations int64
	// First is the number of the first operation.
	First int64
	// Timeout bounds one operation; 0: not.
	Timeout time.Duration
	// Kinds name the kinds of operations; latencies are kept for each.
	Kinds []string
	// Interval is how often a Point is made; 0: a second.
	Interval time.Duration
	// Progress gets every point as it is made, from one goroutine; nil: nobody.
	Progress func(Point)
}

// patience is how long after the end of the duration late operations of an open loop may still
// begin.
func (p Plan) patience() time.Duration { return max(p.Duration/2, time.Second) }

// Outcome is what came of a run.
type Outcome struct {
	Began   time.Time
	Elapsed time.Duration // until the last operation ended
	// Done succeeded, Failed did not. Unstarted were due in an open loop and never began.
	Done, Failed, Unstarted int64
	Errors                  map[string]int64 // by message, a limited number of them
	Latency                 Summary          // of those that succeeded
	Kinds                   map[string]Summary
	Points                  []Point
	Next                    int64 // no operation had this number or a higher one
	Interrupted             bool  // by the context or too many failures
}

// errEnough is the cause of a run's end by failures.
var errEnough = errors.New("load: too many failures")

// run is one call of Run.
type run struct {
	plan      Plan
	op        Op
	rec       *recorder
	start     time.Time
	next      atomic.Int64
	done      atomic.Int64
	failed    atomic.Int64
	unstarted atomic.Int64
	end       context.CancelCauseFunc
}

// Run runs operations as planned and returns when all have ended.
func Run(ctx context.Context, plan Plan, op Op) Outcome {
	if plan.Interval == 0 {
		plan.Interval = time.Second
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &run{plan: plan, op: op, rec: newRecorder(max(len(plan.Kinds), 1)), start: time.Now(), end: end}
	stop, points := r.follow()
	var wg sync.WaitGroup
	for w := range plan.Workers {
		wg.Go(func() { r.work(ctx, w) })
	}
	wg.Wait()
	elapsed := time.Since(r.start)
	stop()
	o := Outcome{
		Began: r.start, Elapsed: elapsed,
		Done: r.done.Load(), Failed: r.failed.Load(), Unstarted: r.unstarted.Load(),
		Errors: r.rec.errorCounts(), Latency: r.rec.summary(), Kinds: map[string]Summary{},
		Points: <-points, Next: plan.First + r.next.Load(), Interrupted: ctx.Err() != nil,
	}
	for i, name := range plan.Kinds {
		o.Kinds[name] = r.rec.summaryOf(i)
	}
	return o
}

// work is one worker.
func (r *run) work(ctx context.Context, worker int) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		i := r.next.Add(1) - 1
		if r.plan.Operations > 0 && i >= r.plan.Operations {
			return
		}
		from, ok := r.await(ctx, timer, i)
		if !ok {
			return
		}
		if !from.IsZero() {
			r.one(ctx, worker, i, from)
		}
	}
}

// await waits until operation i may begin and returns the moment from which its latency counts:
// none if it comes too late to begin at all. It is not ok if the operation is not in the plan.
func (r *run) await(ctx context.Context, timer *time.Timer, i int64) (from time.Time, ok bool) {
	now := time.Now()
	if r.plan.Rate <= 0 {
		return now, r.plan.Duration == 0 || now.Sub(r.start) < r.plan.Duration
	}
	offset := time.Duration(float64(i) / r.plan.Rate * float64(time.Second))
	if r.plan.Duration > 0 && offset >= r.plan.Duration {
		return now, false
	}
	due := r.start.Add(offset)
	if wait := due.Sub(now); wait > 0 {
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return now, false
		}
		if now = time.Now(); now.Sub(due) <= timerSlack {
			return now, true // the worker was there in time, only the clock's hand was slow
		}
	} else if r.plan.Duration > 0 && now.Sub(r.start) > r.plan.Duration+r.plan.patience() {
		r.unstarted.Add(1)
		return time.Time{}, true
	}
	return due, true
}

// one performs an operation and records it.
func (r *run) one(ctx context.Context, worker int, i int64, from time.Time) {
	opCtx, cancel := ctx, context.CancelFunc(func() {})
	if r.plan.Timeout > 0 {
		opCtx, cancel = context.WithTimeout(ctx, r.plan.Timeout)
	}
	kind, err := r.op(opCtx, worker, r.plan.First+i)
	took := time.Since(from)
	cancel()
	if err == nil {
		r.done.Add(1)
		r.rec.record(worker, kind, took)
		return
	}
	if ctx.Err() != nil {
		return // ended with the run
	}
	r.rec.fail(worker, err)
	if r.failed.Add(1) >= failuresMax {
		r.end(errEnough)
	}
}

// follow makes a point per interval until stop is called; then it hands over all of them.
func (r *run) follow() (stop func(), points <-chan []Point) {
	ended := make(chan struct{})
	out := make(chan []Point, 1)
	go func() {
		ticker := time.NewTicker(r.plan.Interval)
		defer ticker.Stop()
		var all []Point
		last := r.start
		for {
			select {
			case <-ended:
				out <- all
				return
			case now := <-ticker.C:
				p := r.rec.cut(now.Sub(r.start), now.Sub(last))
				p.Failed = r.failed.Load()
				last = now
				all = append(all, p)
				if r.plan.Progress != nil {
					r.plan.Progress(p)
				}
			}
		}
	}()
	return func() { close(ended) }, out
}
