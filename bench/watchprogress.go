package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/bench/load"
)

var optPutRate = Option{
	Name: "put-rate", Usage: "puts per second that are due beside what is measured; 0: none",
	Field: func(s *Spec) any { return &s.PutRate }, In: func(s Spec) (any, bool) { return s.PutRate, s.PutRate > 0 },
}

// putWorkers is how many of the puts beside may be under way at once.
const putWorkers = 64

func watchProgressWorkload() Definition {
	defaults := common("watch-progress", func(s *Spec) {
		s.Prefix, s.ValueSize, s.KeySpace, s.Operations = "watched/", 256, 1000, 0
		s.Streams, s.Clients, s.Conns, s.Rate = 100, 100, 16, 1000
		s.Duration, s.WarmUp, s.Timeout = 10*time.Second, 2*time.Second, 10*time.Second
	})
	small := func(s *Spec) {
		s.Prefix, s.KeySpace, s.Streams, s.Clients, s.Conns, s.Rate = "watched/", 100, 10, 10, 4, 100
	}
	hundred := func(s *Spec) { s.Clients, s.Conns, s.KeySpace = 100, 16, 1000 }
	busy := func(s *Spec) { hundred(s); s.PutRate = 1000 }
	return Definition{
		Name:  "watch-progress",
		Short: "Streams that ask again and again how far they are",
		Long: `There are --streams watch streams, each with one watcher, which share the keys: each watches an equal part of them. Every operation
asks a stream, in turn, for its progress and ends with the answer; with the defaults 100 streams are each asked every 100 ms, as kube-apiservers
do. --put-rate has keys put meanwhile, at random, which the watchers have to deliver. --ranges 1000 has the parts lie in ten ranges each.
Every event of a watcher is held to what was acknowledged, and none may come after a progress that covers it. Pontoon's answers, moreover,
must cover every put that was acknowledged before the question; how many do not is told of others (older-answers/op), for which that is no fault. Told are
the processor time of the servers, of nodes and gateways apart, and what the answers cost within a Pontoon: questions to its oracle, and fences.`,
		Options:  []Option{optStreams, optPutRate, optKeySize, optValueSize, optKeySpace, optGateways},
		Defaults: defaults,
		Brief: brief(defaults, small,
			func(s *Spec) { small(s); s.PutRate = 100 },
			func(s *Spec) { small(s); s.PutRate, s.Gateways = 100, 1 }),
		Standard: standard(defaults, hundred, busy,
			func(s *Spec) { hundred(s); s.Gateways = 1 },
			func(s *Spec) { busy(s); s.Gateways = 1 }),
		check: func(s Spec) error {
			switch {
			case s.Duration == 0 && s.PutRate > 0:
				return errors.New("--put-rate needs --duration")
			case s.PutRate < 0:
				return errors.New("--put-rate must not be negative")
			case s.KeySpace < s.Streams:
				return errors.New("--key-space-size must be at least --streams: each watches keys of its own")
			}
			s.Watchers = s.Streams
			return checkWatch(s)
		},
		gateways: plainGateways,
		open:     func(e *env) workload { return newProgress(e) },
	}
}

// newProgress has a stream for each watcher.
func newProgress(e *env) *watchProgress {
	e.spec.Watchers = e.spec.Streams
	w := &watchProgress{slots: make([]sync.Mutex, e.spec.Streams)}
	parts, keys := e.spec.Streams, keysOf(e.spec)
	first := func(part int) int { return part * keys.space / parts }
	w.watching = newWatching(e, watchShape{
		perPut: 1, groups: parts,
		span:  func(i int) (string, string) { return keys.at(first(i)), keys.end(first(i+1) - 1) },
		group: func(key int) int { return ((key+1)*parts - 1) / keys.space },
		of:    func(watcher int) int { return watcher },
	})
	w.onAcked = func(rev int64, _ uint64) { raise(&w.latest, rev) }
	w.demands = e.sys.info.Kind == TargetPontoon
	return w
}

// raise makes a value at least v.
func raise(x *atomic.Int64, v int64) {
	for {
		old := x.Load()
		if old >= v || x.CompareAndSwap(old, v) {
			return
		}
	}
}

// watchProgress are streams that are asked for their progress.
type watchProgress struct {
	*watching
	slots   []sync.Mutex // by stream: held while it is asked
	latest  atomic.Int64 // the newest revision that was acknowledged
	demands bool         // an answer must cover what was acknowledged before its question

	older, again atomic.Int64 // answers that did not; questions that were repeated
	puts         load.Outcome // beside
	within       map[string]float64
}

func (w *watchProgress) kinds() []string { return []string{"progress"} }

// do asks a stream. It is called by itself while the servers warm up.
func (w *watchProgress) do(ctx context.Context, _ int, seq int64) (int, error) {
	stream := int(seq % int64(w.spec.Streams))
	w.slots[stream].Lock()
	defer w.slots[stream].Unlock()
	known := w.latest.Load()
	rev, err := w.askOnce(ctx, stream)
	if err != nil {
		return 0, err
	}
	if rev < known {
		w.older.Add(1)
		if w.demands {
			return 0, fmt.Errorf("wrong answer: progress at revision %d after revision %d was acknowledged", rev, known)
		}
	}
	return 0, nil
}

// askOnce asks a stream and returns its answer. A server may leave that out while the watcher is behind, so that it is asked again.
func (w *watchProgress) askOnce(ctx context.Context, stream int) (int64, error) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		if err := w.streams[stream].askProgress(); err != nil {
			return 0, err
		}
		select {
		case rev := <-w.passed[stream]:
			return rev, nil
		case <-again.C:
			w.again.Add(1)
		case <-w.broken:
			return 0, errors.Join(errors.New("a watch stream has ended"), w.reason())
		case <-ctx.Done():
			return 0, fmt.Errorf("stream %d does not tell its progress: %w", stream, ctx.Err())
		}
	}
}

// innerMetrics are what answers cost within a Pontoon, by the figure that tells of it.
var innerMetrics = map[string]string{
	"oracle-questions/op": "pontoon_oracle_questions_total",
	"fences/op":           "pontoon_fences_total",
}

func (w *watchProgress) inner(ctx context.Context) map[string]float64 {
	out := map[string]float64{}
	for figure, name := range innerMetrics {
		out[figure] = w.sys.figureOf(ctx, w.sys.servers(), name)
	}
	return out
}

// run asks, and puts beside.
func (w *watchProgress) run(ctx context.Context, plan load.Plan) load.Outcome {
	w.begin()
	w.older.Store(0) // what came while the servers warmed up
	w.again.Store(0)
	before := w.inner(ctx)
	var beside sync.WaitGroup
	if w.spec.PutRate > 0 {
		puts := load.Plan{Workers: putWorkers, Rate: w.spec.PutRate, Duration: plan.Duration, Timeout: plan.Timeout, Kinds: []string{"put"}}
		beside.Go(func() { w.puts = load.Run(ctx, puts, w.watching.do) })
	}
	out := load.Run(ctx, plan, w.do)
	beside.Wait()
	w.within = w.inner(ctx)
	for figure, v := range before {
		w.within[figure] -= v
	}
	return out
}

func (w *watchProgress) report(r *Run) {
	if w.spec.PutRate > 0 {
		w.watching.report(r)
		r.figure("puts/s", float64(w.puts.Done)/r.Elapsed.Seconds())
		r.figure("delivered-p50-µs", float64(w.puts.Latency.P50))
		r.figure("delivered-p99-µs", float64(w.puts.Latency.P99))
	}
	if r.Operations == 0 {
		return
	}
	r.figure("older-answers/op", float64(w.older.Load())/float64(r.Operations))
	r.figure("repeated-questions/op", float64(w.again.Load())/float64(r.Operations))
	for figure, v := range w.within {
		if w.demands {
			r.figure(figure, v/float64(r.Operations))
		}
	}
	if now, err := w.usage(); err == nil && now.CPU > w.before.all.CPU {
		r.figure("servers-cpu-cores", (now.CPU-w.before.all.CPU).Seconds()/r.Elapsed.Seconds())
	}
}

func (w *watchProgress) verify(ctx context.Context) ([]string, error) {
	var p problems
	if w.puts.Failed > 0 || w.puts.Unstarted > 0 {
		p.add("of the puts beside %d failed, and %d that were due never began: %s", w.puts.Failed, w.puts.Unstarted, reasons(w.puts.Errors))
	}
	more, err := w.watching.verify(ctx)
	return append(p.all(), more...), err
}
