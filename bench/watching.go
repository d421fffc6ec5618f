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
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

// watching are watchers over raw streams, and puts that they have to deliver. An operation is a put
// and ends when the last of its watchers has delivered it.
type watching struct {
	base
	shape   watchShape
	streams []*watchStream
	tallies []tally // by watcher; of the stream's receiver, until that has ended
	counts  []atomic.Int64
	under   deliveries

	standing chan struct{} // a token per watcher that stands
	passed   []chan int64  // by stream: the progress that it told last
	told     []int64       // by stream: the highest progress that it has told; of the stream's receiver
	broken   chan struct{} // closed when one of the streams has ended by itself
	doubtful atomic.Int64  // puts that failed, and may yet be delivered

	owed struct {
		sync.Mutex
		of []tally // what was acknowledged, by the group of watchers that has to deliver it
	}

	connection func(stream int) (grpc.ClientConnInterface, error) // over which a stream is opened
	onAcked    func(rev int64, op uint64)                         // is told every put that was acknowledged; nil: nobody is

	acked  *load.Stopwatch // from put to acknowledgement
	before usages          // when the measured time began
	events int64           // had been delivered then
	setup  map[string]float64
	grown  [][2]float64 // anonymous memory of the servers by how many watchers stand
}

// usages are what all servers have used, and those that clients are connected to.
type usages struct{ all, fronts machine.Usage }

// watchShape is what differs between workloads.
type watchShape struct {
	perPut int                                    // watchers that deliver a put
	span   func(watcher int) (from, until string) // what a watcher watches
	group  func(key int) int                      // of watchers, to which a put of this key goes
	of     func(watcher int) int                  // the group of a watcher
	groups int
}

func newWatching(e *env, shape watchShape) *watching {
	w := &watching{
		base: newBase(e), shape: shape, tallies: make([]tally, e.spec.Watchers), counts: make([]atomic.Int64, e.spec.Streams),
		standing: make(chan struct{}, e.spec.Watchers), acked: &load.Stopwatch{}, setup: map[string]float64{}, told: make([]int64, e.spec.Streams),
	}
	w.connection = func(stream int) (grpc.ClientConnInterface, error) {
		return e.clients[stream%len(e.clients)].ActiveConnection(), nil
	}
	for range e.spec.Streams {
		w.passed = append(w.passed, make(chan int64, 1))
	}
	w.owed.of = make([]tally, shape.groups)
	return w
}

func (w *watching) kinds() []string { return []string{"deliver"} }

// prepare sets up all watchers and looks what they cost the servers.
func (w *watching) prepare(ctx context.Context) error {
	before, err := w.anonymous()
	if err != nil {
		return err
	}
	took, err := w.stand(ctx)
	if err != nil {
		return err
	}
	after, err := w.anonymous()
	if err != nil {
		return err
	}
	w.setup["watchers-set-up/s"] = float64(w.spec.Watchers) / took.Seconds()
	if after > 0 {
		w.grown = append(w.grown, [2]float64{float64(w.spec.Watchers), float64(after)})
		w.setup["anon-B/watcher"] = float64(after-before) / float64(w.spec.Watchers)
	}
	return nil
}

// stand opens all streams and waits until all watchers stand, and tells how long that took.
func (w *watching) stand(ctx context.Context) (took time.Duration, err error) {
	broken := make(chan struct{})
	w.broken = broken
	breakIt := sync.OnceFunc(func() { close(broken) })
	w.streams = make([]*watchStream, w.spec.Streams)
	err = forEach(ctx, dialsAtOnce, w.spec.Streams, func(ctx context.Context, _, s int) error { return w.open(ctx, s, breakIt) })
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = w.setUp(ctx)
	return time.Since(began), err
}

// anonymous is the memory of the servers that clients are connected to.
func (w *watching) anonymous() (int64, error) {
	u, err := w.sys.used(w.sys.fronts())
	return u.Anon, err
}

func (w *watching) open(ctx context.Context, s int, broken func()) error {
	conn, err := w.connection(s)
	if err != nil {
		return err
	}
	stream, err := openStream(ctx, conn, watchFuncs{
		created:  func(int64) error { w.standing <- struct{}{}; return nil },
		events:   func(r *etcdserverpb.WatchResponse) error { return w.deliver(s, r) },
		progress: func(rev int64) error { w.pass(s, rev); return nil },
	})
	if err != nil {
		return err
	}
	w.streams[s] = stream
	context.AfterFunc(stream.grpc.Context(), broken)
	return nil
}

// pass notes what a stream has told of its progress, in place of what it told before.
func (w *watching) pass(stream int, rev int64) {
	w.told[stream] = max(w.told[stream], rev)
	select {
	case <-w.passed[stream]:
	default:
	}
	w.passed[stream] <- rev // its receiver alone sends
}

// setUp creates the watchers on all streams at once and waits until all stand.
func (w *watching) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpPatience)
	defer cancel()
	errs := make(chan error, len(w.streams))
	for s := range w.streams {
		go func() { errs <- w.createOn(s) }()
	}
	var failed error
	for range w.streams {
		failed = errors.Join(failed, <-errs)
	}
	for n := 0; n < w.spec.Watchers && failed == nil; n++ {
		if n%max(1, w.spec.Watchers/grownMax) == 0 {
			w.grow(n)
		}
		select {
		case <-w.standing:
		case <-w.broken:
			failed = errors.New("a watch stream has ended")
		case <-ctx.Done():
			failed = fmt.Errorf("%d of %d watchers stand: %w", n, w.spec.Watchers, ctx.Err())
		}
	}
	if failed != nil {
		return fmt.Errorf("set up watchers: %w", errors.Join(failed, w.reason()))
	}
	return nil
}

// grownMax is about how often memory is looked at while watchers are set up.
const grownMax = 20

// grow notes the memory of the servers when so many watchers stand; of those that were not started here
// nothing is known.
func (w *watching) grow(watchers int) {
	if anon, err := w.anonymous(); err == nil && anon > 0 {
		w.grown = append(w.grown, [2]float64{float64(watchers), float64(anon)})
	}
}

// setUpPatience bounds how long all watchers may take to stand.
const setUpPatience = 10 * time.Minute

func (w *watching) createOn(stream int) error {
	for i := stream; i < w.spec.Watchers; i += len(w.streams) {
		from, until := w.shape.span(i)
		r := &etcdserverpb.WatchCreateRequest{Key: []byte(from), RangeEnd: []byte(until), WatchId: int64(i) + 1}
		if err := w.streams[stream].watch(r); err != nil {
			return err
		}
	}
	return nil
}

// deliver takes the events of one response.
func (w *watching) deliver(stream int, r *etcdserverpb.WatchResponse) error {
	i := int(r.WatchId) - 1
	if i < 0 || i >= w.spec.Watchers || i%len(w.counts) != stream {
		return fmt.Errorf("events of watcher %d, which is none of this stream's", r.WatchId)
	}
	for _, ev := range r.Events {
		if err := w.event(i, ev); err != nil {
			return fmt.Errorf("watcher %d: %w", r.WatchId, err)
		}
		if ev.Kv.ModRevision <= w.told[stream] {
			return fmt.Errorf("watcher %d: an event of revision %d after the stream had told that everything up to %d was delivered",
				r.WatchId, ev.Kv.ModRevision, w.told[stream])
		}
	}
	w.counts[stream].Add(int64(len(r.Events)))
	return nil
}

// event checks one event of a watcher and counts it.
func (w *watching) event(watcher int, ev *mvccpb.Event) error {
	op, err := w.vetEvent(&w.tallies[watcher], w.shape.of(watcher), ev)
	if err == nil {
		w.under.arrived(op)
	}
	return err
}

// vetPut checks that an event is a put of ours.
func (b base) vetPut(ev *mvccpb.Event) (op uint64, key int, err error) {
	if ev.Type != mvccpb.Event_PUT {
		return 0, 0, fmt.Errorf("an event of type %v where everything was put", ev.Type)
	}
	key, ok := b.ledger.keys.index(ev.Kv.Key)
	if !ok {
		return 0, 0, fmt.Errorf("an event of key %q, which was never written", ev.Kv.Key)
	}
	op, err = b.ledger.values.writer(ev.Kv.Value)
	if err == nil && !b.ledger.wrote(op, key) {
		err = fmt.Errorf("the event of key %q at revision %d holds a value that was written to another", ev.Kv.Key, ev.Kv.ModRevision)
	}
	return op, key, err
}

// vetEvent checks that an event is the watcher's to deliver, and newer than the one before.
func (w *watching) vetEvent(t *tally, group int, ev *mvccpb.Event) (op uint64, err error) {
	op, key, err := w.vetPut(ev)
	if err != nil {
		return 0, err
	}
	if w.shape.group(key) != group {
		return 0, fmt.Errorf("an event of key %q, which it does not watch", ev.Kv.Key)
	}
	if ev.Kv.ModRevision <= t.rev {
		return 0, fmt.Errorf("an event of revision %d after one of revision %d", ev.Kv.ModRevision, t.rev)
	}
	t.add(ev.Kv.ModRevision, op)
	return op, nil
}

func (w *watching) do(ctx context.Context, worker int, seq int64) (int, error) {
	op, i := uint64(seq), w.ledger.keys.pick(seq)
	d := w.under.expect(op, w.shape.perPut)
	defer w.under.forget(op)
	began := time.Now()
	resp, err := w.kv(worker).Put(ctx, w.ledger.keys.at(i), w.ledger.values.of(op))
	if err != nil {
		w.doubtful.Add(1)
		return 0, err
	}
	w.acked.Add(time.Since(began))
	w.ledger.acked(i, resp.Header.Revision, op)
	w.owed.Lock()
	w.owed.of[w.shape.group(i)].add(resp.Header.Revision, op)
	w.owed.Unlock()
	if w.onAcked != nil {
		w.onAcked(resp.Header.Revision, op)
	}
	return 0, d.wait(ctx, w.broken)
}

func (w *watching) delivered() (n int64) {
	for i := range w.counts {
		n += w.counts[i].Load()
	}
	return n
}

// run measures: what was delivered before does not count.
func (w *watching) run(ctx context.Context, plan load.Plan) load.Outcome {
	w.begin()
	return load.Run(ctx, plan, w.do)
}

func (w *watching) begin() {
	w.acked, w.events = &load.Stopwatch{}, w.delivered()
	w.before.all, _ = w.usage() // without them there are figures less
	w.before.fronts, _ = w.sys.used(w.sys.fronts())
}

func (w *watching) report(r *Run) {
	events := float64(w.delivered() - w.events)
	r.figure("events/s", events/r.Elapsed.Seconds())
	r.figure("put-p50-µs", float64(w.acked.Summary().P50))
	r.figure("put-p99-µs", float64(w.acked.Summary().P99))
	for name, v := range w.setup {
		r.figure(name, v)
	}
	if len(w.grown) > 1 {
		r.Series = append(r.Series, Series{Name: "Memory over watchers", X: "watchers", Y: "B", Points: w.grown})
	}
	if now, err := w.usage(); err == nil && w.before.all.CPU > 0 && now.CPU > w.before.all.CPU {
		r.figure("events/cpu-s", events/(now.CPU-w.before.all.CPU).Seconds())
	}
	fronts, err := w.sys.used(w.sys.fronts())
	if cpu := fronts.CPU - w.before.fronts.CPU; err == nil && w.spec.Gateways > 0 && cpu > 0 {
		r.figure("events/gateways-cpu-s", events/cpu.Seconds())
	}
}

// verify waits until the streams say that there is nothing more to come, and compares.
func (w *watching) verify(ctx context.Context) ([]string, error) {
	var p problems
	if err := w.settle(ctx); err != nil {
		p.add("%v", err)
	}
	if err := w.closeStreams(); err != nil {
		p.add("%v", err)
	}
	if n := w.doubtful.Load(); n > 0 {
		p.add("%d puts failed and may have been delivered: nothing is held against what was acknowledged", n)
		return p.all(), nil
	}
	for i, t := range w.tallies {
		if err := t.compare(w.owed.of[w.shape.of(i)]); err != nil {
			p.add("watcher %d: %v", i+1, err)
		}
	}
	more, err := w.base.verify(ctx)
	return append(p.all(), more...), err
}

// settle asks every stream for its progress until it names the latest revision that was
// acknowledged: what had to be delivered before has then arrived. A server may leave out the answer
// while a watcher is behind, so it is asked again.
func (w *watching) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settlePatience(w.spec))
	defer cancel()
	var latest int64
	for _, t := range w.owed.of {
		latest = max(latest, t.rev)
	}
	for i := range w.streams {
		if err := w.settleStream(ctx, i, latest); err != nil {
			return errors.Join(err, w.reason())
		}
	}
	return nil
}

// settlePatience is how long watchers may take in the end.
func settlePatience(s Spec) time.Duration {
	if s.Timeout == 0 {
		return startPatience
	}
	return min(startPatience, 4*s.Timeout)
}

func (w *watching) settleStream(ctx context.Context, i int, latest int64) error {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		if err := w.streams[i].askProgress(); err != nil {
			return err
		}
		select {
		case rev := <-w.passed[i]:
			if rev >= latest {
				return nil
			}
		case <-again.C:
		case <-w.broken:
			return errors.New("a watch stream has ended")
		case <-ctx.Done():
			return fmt.Errorf("stream %d does not come to revision %d: %w", i, latest, ctx.Err())
		}
	}
}

// reason is why streams have ended by themselves.
func (w *watching) reason() error {
	for _, s := range w.streams {
		if s == nil {
			continue
		}
		select {
		case <-s.ended:
			return s.err
		default:
		}
	}
	return nil
}

// closeStreams ends all streams and returns why some had ended before.
func (w *watching) closeStreams() error {
	var errs []error
	streams := slices.DeleteFunc(w.streams, func(s *watchStream) bool { return s == nil }) // not all could be opened
	for _, s := range streams {
		s.cancel()
	}
	for _, s := range streams {
		errs = append(errs, s.close())
	}
	w.streams = nil
	return errors.Join(errs...)
}

func (w *watching) close() error {
	_ = w.closeStreams() // verify has told, or something else went wrong first
	return nil
}

// prefixEnd is the first key behind all that begin with a prefix.
func prefixEnd(prefix string) string { return clientv3.GetPrefixRangeEnd(prefix) }
