package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

// The ways in which a server ends.
const (
	EndKill  = "kill"
	EndStop  = "stop"
	EndDrain = "drain"
)

var (
	optEnd = Option{
		Name: "way", Usage: "how the server ends: kill (SIGKILL), stop (SIGTERM, all streams at once) or drain (SIGTERM, over --drain-period)",
		Values: []string{EndKill, EndStop, EndDrain},
		Field:  func(s *Spec) any { return &s.Way }, In: always(func(s Spec) string { return s.Way }),
	}
	optCalm = Option{
		Name: "calm", Usage: "how long it is measured before the server ends",
		Field: func(s *Spec) any { return &s.Calm }, In: func(Spec) (any, bool) { return nil, false },
	}
	optDrainPeriod = Option{
		Name: "drain-period", Usage: "over how long a Pontoon ends its streams, with --way drain",
		Field: func(s *Spec) any { return &s.DrainPeriod }, In: func(s Spec) (any, bool) { return s.DrainPeriod, s.Way == EndDrain },
	}
)

// The servers that watchers are connected to: the first stays, the second ends.
const (
	stays, ends = 0, 1
	stormSides  = 2
)

func watchStormWorkload() Definition {
	defaults := common("watch-storm", func(s *Spec) {
		s.Prefix, s.ValueSize, s.KeySpace, s.Operations = "watched/", 256, 100, 0
		s.Watchers, s.Gateways, s.Way, s.Rate = 2000, 2, EndKill, 5
		s.Calm, s.Duration, s.DrainPeriod, s.Timeout = 10*time.Second, 20*time.Second, 30*time.Second, 2*time.Minute
	})
	way := func(way string, gateways int) func(*Spec) {
		return func(s *Spec) {
			s.Clients, s.Conns, s.KeySpace, s.Watchers, s.Prefix = 1, 1, 100, 60, "watched/"
			s.Way, s.Gateways, s.Rate = way, gateways, 50
			s.WarmUp, s.Calm, s.Duration, s.DrainPeriod = 0, 400*time.Millisecond, time.Second, time.Second
		}
	}
	large := func(of string, gateways int) func(*Spec) {
		return func(s *Spec) {
			way(of, gateways)(s)
			s.Watchers, s.Rate, s.Calm, s.Duration, s.DrainPeriod = 2000, 5, 10*time.Second, 20*time.Second, 30*time.Second
		}
	}
	return Definition{
		Name:  "watch-storm",
		Short: "One of two servers ends, and all of its watchers go to the other",
		Long: `Half of --watchers are connected to one server, half to another, each with a stream and a connection of its own, and all watch all keys, of
which --rate are put a second. After --calm one of the servers ends, --way says how, and each of its watchers connects to the other one, as soon as its stream has ended, and
goes on behind the last event that it has delivered. An operation is one of these; its latency is the longest time that it was
without an event (the time between two puts is in that). Others is the same of watchers whose server stays. It is measured for --duration, or until everybody is back. Told are, too, what of
history was read for it, what the nodes use before and until all are back, and when and why streams ended. In the end every watcher must have delivered every put, once, in
order; puts whose outcome is not known are looked for in the store.
The servers are --gateways 2 of a local Pontoon; with --gateways 0, and of other kinds, the first two nodes: then what is stored there ends, too.`,
		Options:  []Option{optWatchers, optEnd, optCalm, optDrainPeriod, optKeySize, optValueSize, optKeySpace, optGateways},
		Defaults: defaults,
		Brief:    brief(defaults, way(EndKill, 2), way(EndStop, 2), way(EndDrain, 2), way(EndKill, 0)),
		Standard: standard(defaults, large(EndKill, 2), large(EndStop, 2), large(EndDrain, 2)),
		check:    checkStorm,
		LeastNodes: func(s Spec, kind string) int {
			if s.Gateways > 0 && kind == TargetPontoon {
				return 1
			}
			return 3 // of which two are the servers
		},
		gateways: func(s Spec) (int, []string) { return s.Gateways, drainArgs(s, TargetPontoon) },
		args:     drainArgs,
		open:     func(e *env) workload { return newWatchStorm(e) },
	}
}

func checkStorm(s Spec) error {
	switch {
	case s.Watchers < stormSides || s.Watchers > stormSides*connsMax:
		return fmt.Errorf("--watchers must be between %d and %d, each has a connection", stormSides, stormSides*connsMax)
	case s.Rate <= 0:
		return errors.New("--rate must be above 0: watchers are without events when none come")
	case s.Clients != 1 || s.Conns != 1 || s.WarmUp > 0:
		return errors.New("--clients and --conns must be 1, and --warm-up 0: puts are due at --rate")
	case s.Calm <= 0 || s.Calm >= s.Duration || s.Timeout == 0:
		return errors.New("--calm must be above 0 and below --duration, and --timeout above 0")
	case s.Prefix == "":
		return errors.New("--prefix must not be empty: it is what is watched")
	case s.Gateways != 0 && s.Gateways != stormSides:
		return fmt.Errorf("--gateways must be %d, or 0", stormSides)
	}
	return nil
}

// drainArgs are flags of a Pontoon by which it ends as a spec says.
func drainArgs(s Spec, kind string) []string {
	if kind != TargetPontoon {
		return nil
	}
	if s.Way != EndDrain {
		s.DrainPeriod = 0
	}
	return []string{fmt.Sprintf("--drain-period=%s", s.DrainPeriod)}
}

// watchStorm is such a change.
type watchStorm struct {
	base
	// end ends the server whose watchers go.
	end func(ctx context.Context) error

	from     int64 // the revision from which on all watch
	watchers []*stormWatcher
	all      sync.WaitGroup // of those that follow
	cancel   context.CancelFunc
	back     chan struct{} // a token for each that had to go and delivers again

	began atomic.Pointer[time.Time] // when the server began to end
	anon  float64                   // of the servers for each watcher

	mu       sync.Mutex
	acked    map[int64]uint64 // what was acknowledged, by revision
	latest   int64            // of it the newest
	doubtful map[string]int64 // puts that failed, by why
	puts     load.Stopwatch

	figures map[string]float64
}

func newWatchStorm(e *env) *watchStorm {
	w := &watchStorm{base: newBase(e), acked: map[int64]uint64{}, doubtful: map[string]int64{}, back: make(chan struct{}, e.spec.Watchers), figures: map[string]float64{}}
	w.end = func(ctx context.Context) error {
		return e.sys.end(ctx, e.sys.fronts()[ends], e.spec.Way == EndKill)
	}
	return w
}

func (w *watchStorm) kinds() []string { return []string{"back"} }

// do is not called: run is.
func (w *watchStorm) do(context.Context, int, int64) (int, error) {
	return 0, errors.New("a storm is no row of operations")
}

// dialsAtOnce is how many connections are made at the same time before anything is measured.
const dialsAtOnce = 32

// prepare has all watchers stand.
func (w *watchStorm) prepare(ctx context.Context) error {
	if len(w.sys.info.Endpoints) < stormSides {
		return fmt.Errorf("there must be %d servers", stormSides)
	}
	resp, err := w.kvs[0].Get(ctx, w.ledger.keys.at(0))
	if err != nil {
		return err
	}
	w.from = resp.Header.Revision + 1
	before, err := w.sys.used(w.sys.fronts())
	if err != nil {
		return err
	}
	follow, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = cancel
	for i := range w.spec.Watchers {
		w.watchers = append(w.watchers, &stormWatcher{w: w, at: i % stormSides, home: i % stormSides})
	}
	err = forEach(ctx, dialsAtOnce, w.spec.Watchers, func(ctx context.Context, _, i int) error { return w.watchers[i].connect(ctx) })
	if err != nil {
		return fmt.Errorf("set up watchers: %w", err)
	}
	for _, x := range w.watchers {
		w.all.Go(func() { x.follow(follow) })
	}
	after, err := w.sys.used(w.sys.fronts())
	w.anon = float64(after.Anon-before.Anon) / float64(w.spec.Watchers)
	return err
}

// run puts, ends the server, and waits until its watchers are back.
func (w *watchStorm) run(ctx context.Context, plan load.Plan) load.Outcome {
	out := load.Outcome{Began: time.Now(), Errors: map[string]int64{}}
	fail := func(what string, err error) {
		if err != nil {
			out.Failed++
			out.Errors[fmt.Sprintf("%s: %v", what, err)]++
		}
	}
	stop, puts := make(chan struct{}), sync.WaitGroup{}
	puts.Go(func() { fail("put", w.putAll(ctx, plan.Timeout, stop)) })
	calm := w.look(ctx)
	w.say("calm")
	wait(ctx, w.spec.Calm)
	storm := w.look(ctx)

	w.say(w.spec.Way)
	began := time.Now()
	w.began.Store(&began)
	patient, cancel := context.WithTimeout(ctx, plan.Timeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.end(patient) }()
	back := w.comeBack(patient)
	took := time.Since(began)
	wait(ctx, min(lookLeast, w.spec.Duration-w.spec.Calm)-took)
	after := w.look(ctx)
	fail("end the server", <-ended)
	if lost := w.spec.Watchers/stormSides - back; lost > 0 {
		fail(fmt.Sprintf("%d watchers", lost), errors.New("they do not deliver again"))
	}
	wait(ctx, time.Until(out.Began.Add(plan.Duration)))
	close(stop)
	puts.Wait()

	out.Done, out.Elapsed, out.Interrupted = int64(back), time.Since(out.Began), ctx.Err() != nil
	var others load.Summary
	out.Latency, others = w.pauses()
	out.Kinds = map[string]load.Summary{"back": out.Latency, "others": others}
	w.tell(calm, storm, after, took)
	return out
}

// lookLeast is how long it is looked at least what servers use: their time is known to 10 ms.
const lookLeast = 2 * time.Second

// comeBack counts those that have come back, until all have.
func (w *watchStorm) comeBack(ctx context.Context) (n int) {
	for ; n < w.spec.Watchers/stormSides; n++ {
		select {
		case <-w.back:
		case <-ctx.Done():
			return n
		}
	}
	return n
}

// stormLook is what the servers had used at a moment.
type stormLook struct {
	at                time.Time
	nodes, front      machine.Usage
	history, fromRing float64
	broken            float64 // links to others
}

func (w *watchStorm) look(ctx context.Context) (l stormLook) {
	l.at = time.Now()
	if w.sys.cluster == nil {
		return l
	}
	l.nodes, _ = w.sys.used(w.sys.cluster.Nodes) // without it there are figures less
	fronts := w.sys.fronts()
	l.front, _ = w.sys.used(fronts[:ends])
	live := w.sys.cluster.Nodes // but the front that ends
	if w.spec.Gateways == 0 {
		live = live[stormSides:]
	}
	live = slices.Concat(live, fronts[:ends])
	l.history = w.sys.figureOf(ctx, live, "pontoon_watch_history_reads_total")
	l.fromRing = w.sys.figureOf(ctx, live, "pontoon_watch_ring_reads_total")
	l.broken = w.sys.figureOf(ctx, live, "pontoon_watch_feed_failures_total")
	return l
}

// since is how many cores nodes, and the server that stays, have used since another look.
func (l stormLook) since(k stormLook) (nodes, front float64) {
	took := l.at.Sub(k.at).Seconds()
	return (l.nodes.CPU - k.nodes.CPU).Seconds() / took, (l.front.CPU - k.front.CPU).Seconds() / took
}

// tell makes the figures.
func (w *watchStorm) tell(calm, storm, after stormLook, took time.Duration) {
	w.figures["all-back-µs"] = float64(took.Microseconds())
	if w.spec.Way == EndDrain {
		w.tellEnds()
	}
	if w.sys.cluster == nil {
		return
	}
	w.figures["anon-B/watcher"] = w.anon
	w.figures["nodes-calm-cpu-cores"], w.figures["staying-calm-cpu-cores"] = storm.since(calm)
	w.figures["nodes-storm-cpu-cores"], w.figures["staying-storm-cpu-cores"] = after.since(storm)
	if w.sys.target.Kind == TargetPontoon {
		had := float64(w.spec.Watchers / stormSides)
		w.figures["history-reads/op"] = (after.history - storm.history) / had
		w.figures["ring-reads/op"] = (after.fromRing - storm.fromRing) / had
		w.figures["links-broken"] = after.broken - storm.broken
	}
}

// tellEnds tells how evenly streams ended: the largest distance of a quarter of the time from a quarter of the streams, as a part of that.
func (w *watchStorm) tellEnds() {
	var at []time.Duration
	for _, x := range w.watchers {
		x.mu.Lock()
		if !x.ended.IsZero() {
			at = append(at, x.ended.Sub(*w.began.Load()))
		}
		x.mu.Unlock()
	}
	if len(at) == 0 {
		return
	}
	slices.Sort(at)
	first, whole := at[0], at[len(at)-1]-at[0]
	var quarters [4]float64
	for _, t := range at {
		quarters[min(int(4*(t-first)/max(whole, 1)), 3)]++
	}
	var off float64
	for _, n := range quarters {
		even := float64(len(at)) / 4
		off = max(off, max(n-even, even-n)/even)
	}
	w.figures["drain-uneven"] = off
	w.figures["drain-µs"] = float64(whole.Microseconds())
}

// pauses are the longest times without an event, of those that had to go, and of the others.
func (w *watchStorm) pauses() (gone, others load.Summary) {
	var of [stormSides]load.Stopwatch
	for _, x := range w.watchers {
		x.mu.Lock()
		of[x.home].Add(x.pause)
		x.mu.Unlock()
	}
	return of[ends].Summary(), of[stays].Summary()
}

// putAll puts at the rate until it is told to stop, through the server that stays. What fails may yet have been written: it is looked for in the end.
func (w *watchStorm) putAll(ctx context.Context, timeout time.Duration, stop <-chan struct{}) error {
	c, err := w.sys.dial(stays)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all of its puts are over
	var g errgroup.Group
	g.SetLimit(putWorkers)
	due := time.NewTicker(time.Duration(float64(time.Second) / w.spec.Rate))
	defer due.Stop()
	for op := uint64(0); ; op++ {
		select {
		case <-stop:
			return g.Wait()
		case <-ctx.Done():
			return errors.Join(ctx.Err(), g.Wait())
		case <-due.C:
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			i, began := w.ledger.keys.pick(int64(op)), time.Now()
			resp, err := c.Put(ctx, w.ledger.keys.at(i), w.ledger.values.of(op))
			if err == nil {
				w.ledger.acked(i, resp.Header.Revision, op)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if err != nil {
				w.doubtful[err.Error()]++
				return nil
			}
			w.puts.Add(time.Since(began))
			w.acked[resp.Header.Revision] = op
			w.latest = max(w.latest, resp.Header.Revision)
			return nil
		})
	}
}

// settle waits until every watcher has delivered everything up to a revision.
func (w *watchStorm) settle(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, settlePatience(w.spec))
	defer cancel()
	for i, x := range w.watchers {
		for x.seenRev() < rev {
			if ctx.Err() != nil {
				return fmt.Errorf("watcher %d has delivered up to revision %d of %d", i+1, x.seenRev(), rev)
			}
			wait(ctx, 5*time.Millisecond)
		}
	}
	return nil
}

func (w *watchStorm) report(r *Run) {
	for name, v := range w.figures {
		r.figure(name, v)
	}
	puts := w.puts.Summary()
	r.figure("put-p50-µs", float64(puts.P50))
	r.figure("put-p99-µs", float64(puts.P99))
	r.figure("puts-in-doubt", float64(w.inDoubt()))
}

// verify holds all watchers against the history of the store, and that against what was acknowledged.
func (w *watchStorm) verify(ctx context.Context) ([]string, error) {
	var p problems
	truth, writes, err := w.history(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.settle(ctx, truth.rev); err != nil {
		p.add("%v", err)
	}
	w.finish()
	for rev, op := range w.acked {
		if got, ok := writes[rev]; !ok || got != op {
			p.add("operation %d was acknowledged at revision %d, and is not there", op, rev)
		}
	}
	for i, x := range w.watchers {
		if err := x.seen.compare(truth); err != nil {
			p.add("watcher %d: %v", i+1, err)
		}
		if x.wrong != nil {
			p.add("watcher %d: %v", i+1, x.wrong)
		}
	}
	w.vetEnds(&p)
	if n := w.inDoubt(); n > 0 {
		if w.spec.Gateways > 0 && w.sys.target.Kind == TargetPontoon {
			p.add("%d puts failed through a gateway that stays: %s", n, reasons(w.doubtful))
		}
		return p.all(), nil
	}
	more, err := w.ledger.compare(ctx, w.kvs[0])
	return append(p.all(), more...), err
}

// history reads everything that was written since the watchers began, by a watcher of its own.
func (w *watchStorm) history(ctx context.Context) (truth tally, writes map[int64]uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience(w.spec))
	defer cancel()
	writes = map[int64]uint64{}
	c, err := w.sys.dial(stays)
	if err != nil {
		return truth, nil, err
	}
	defer func() { err = errors.Join(err, closeAll([]*clientv3.Client{c})) }()
	passed := make(chan int64, 1)
	s, err := openStream(ctx, c.ActiveConnection(), watchFuncs{
		created: func(int64) error { return nil },
		events: func(r *etcdserverpb.WatchResponse) error {
			for _, ev := range r.Events {
				op, _, err := w.vetPut(ev)
				if err != nil {
					return err
				}
				truth.add(ev.Kv.ModRevision, op)
				writes[ev.Kv.ModRevision] = op
			}
			return nil
		},
		progress: func(rev int64) error { passed <- rev; return nil },
	})
	if err != nil {
		return truth, nil, err
	}
	if err := s.watch(w.request(w.from)); err != nil {
		return truth, nil, errors.Join(err, s.close())
	}
	for rev := int64(0); rev < w.latest; {
		if err := s.askProgress(); err != nil {
			return truth, nil, errors.Join(err, s.close())
		}
		select {
		case rev = <-passed:
		case <-time.After(time.Second):
		case <-s.ended:
			return truth, nil, s.err
		case <-ctx.Done():
			return truth, nil, errors.Join(ctx.Err(), s.close())
		}
	}
	return truth, writes, s.close()
}

// inDoubt is how many puts have failed.
func (w *watchStorm) inDoubt() (n int64) {
	for _, of := range w.doubtful {
		n += of
	}
	return n
}

// vetEnds judges why streams ended: of a server that was drained only in the way that clients of etcd go on after.
func (w *watchStorm) vetEnds(p *problems) {
	why := map[string]int64{}
	for _, x := range w.watchers {
		if x.why != "" && x.why != unavailable {
			why[x.why]++
		}
	}
	if len(why) > 0 && w.sys.target.Kind == TargetPontoon {
		p.add("streams ended with something else than Unavailable: %s", reasons(why))
	}
}

// request is that of every watcher.
func (w *watchStorm) request(from int64) *etcdserverpb.WatchCreateRequest {
	return &etcdserverpb.WatchCreateRequest{
		Key: []byte(w.spec.Prefix), RangeEnd: []byte(prefixEnd(w.spec.Prefix)), StartRevision: from, WatchId: 1,
	}
}

// finish ends all streams; what they have seen is settled then.
func (w *watchStorm) finish() {
	if w.cancel != nil {
		w.cancel()
	}
	w.all.Wait()
}

func (w *watchStorm) close() error {
	w.finish()
	var errs []error
	for _, x := range w.watchers {
		errs = append(errs, x.disconnect())
	}
	return errors.Join(errs...)
}
