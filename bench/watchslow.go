package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
)

var optBlocks = Option{
	Name: "blocks", Usage: "parts of the measured time, without and with the stuck watcher in turn",
	Field: func(s *Spec) any { return &s.Blocks }, In: always(func(s Spec) int { return s.Blocks }),
}

func watchSlowWorkload() Definition {
	defaults := common("watch-slow", func(s *Spec) {
		s.Prefix, s.ValueSize, s.KeySpace, s.Operations = "watched/", 1024, 100, 4000
		s.Watchers, s.Streams, s.Blocks = 100, 10, 4
	})
	return Definition{
		Name:  "watch-slow",
		Short: "A watcher that takes nothing, among many that do",
		Long: `Like watch-fanout, but in every second one of --blocks equal parts of the measured time one more watcher, on a
connection of its own, takes nothing of what it is sent. Latencies are told for both kinds of parts: alone is
without it, beside is with it, and their p99 are compared in p99-beside-to-alone. In the end the watcher of the
last part begins to read, and has to deliver everything, too.` + watchLong,
		Options:  []Option{optWatchers, optStreams, optBlocks, optKeySize, optValueSize, optKeySpace},
		Defaults: defaults,
		Brief: brief(defaults, func(s *Spec) {
			s.Clients, s.Conns, s.KeySpace, s.ValueSize, s.Watchers, s.Duration = 4, 2, 100, 4096, 20, 4*time.Second
		}),
		Standard: standard(defaults, func(s *Spec) { s.Clients, s.Conns, s.KeySpace, s.ValueSize = 4, 4, 100, 1024 }),
		check: func(s Spec) error {
			if s.Blocks < 2 || s.Blocks%2 != 0 || s.Blocks > 1000 {
				return errors.New("--blocks must be even, and between 2 and 1000")
			}
			return checkWatch(s)
		},
		open: func(e *env) workload {
			w := &slow{watching: newFanout(e)}
			w.onAcked = w.noteAcked
			return w
		},
	}
}

// slow is a fan-out with a watcher that is stuck now and then.
type slow struct {
	*watching
	began     time.Time
	first     int64 // number of the first measured operation
	measuring bool

	mu        sync.Mutex
	block     int
	stuck     *stuckWatcher // nil: nobody is
	opening   bool
	meanwhile []acked // what was acknowledged while it is being opened
	kind      [2]load.Stopwatch
}

// acked is a write that was.
type acked struct {
	rev int64
	op  uint64
}

func (w *slow) kinds() []string { return []string{"alone", "beside"} }

func (w *slow) run(ctx context.Context, plan load.Plan) load.Outcome {
	w.began, w.first, w.measuring = time.Now(), plan.First, true
	w.begin()
	return load.Run(ctx, plan, w.do)
}

// part is in which part of the measured time an operation falls.
func (w *slow) part(seq int64) int {
	if !w.measuring {
		return 0
	}
	part := time.Since(w.began) * time.Duration(w.spec.Blocks) / max(w.spec.Duration, 1)
	if w.spec.Duration == 0 {
		part = time.Duration((seq - w.first) * int64(w.spec.Blocks) / max(w.spec.Operations, 1))
	}
	return int(min(max(part, 0), time.Duration(w.spec.Blocks-1)))
}

// turn makes a watcher stuck, or ends it, when a part begins, and tells the kind of the part. Who
// comes first in a part does it; the others need not wait.
func (w *slow) turn(ctx context.Context, seq int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	part := w.part(seq)
	if part <= w.block || w.opening {
		return w.kindNow(), nil
	}
	w.block = part
	if w.stuck != nil {
		w.stuck.end()
		w.stuck = nil
	}
	if part%2 == 0 {
		return 0, nil
	}
	w.opening = true
	w.mu.Unlock()
	stuck, err := w.openStuck(ctx)
	w.mu.Lock()
	w.opening = false
	if err != nil {
		return 0, err
	}
	for _, a := range w.meanwhile {
		stuck.owe(a)
	}
	w.stuck, w.meanwhile = stuck, nil
	return 1, nil
}

func (w *slow) kindNow() int {
	if w.stuck != nil {
		return 1
	}
	return 0
}

// noteAcked keeps what the stuck watcher has to deliver.
func (w *slow) noteAcked(rev int64, op uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.opening:
		w.meanwhile = append(w.meanwhile, acked{rev, op})
	case w.stuck != nil:
		w.stuck.owe(acked{rev, op})
	}
}

func (w *slow) do(ctx context.Context, worker int, seq int64) (int, error) {
	kind, err := w.turn(ctx, seq)
	if err != nil {
		return kind, err
	}
	began := time.Now()
	if _, err = w.watching.do(ctx, worker, seq); err == nil && w.measuring {
		w.kind[kind].Add(time.Since(began))
	}
	return kind, err
}

func (w *slow) report(r *Run) {
	w.watching.report(r)
	if alone := w.kind[0].Summary().P99; alone > 0 {
		r.figure("p99-beside-to-alone", float64(w.kind[1].Summary().P99)/float64(alone))
	}
}

// verify lets the stuck watcher go on and waits until it has delivered everything.
func (w *slow) verify(ctx context.Context) ([]string, error) {
	var p problems
	if w.doubtful.Load() > 0 {
		return w.watching.verify(ctx)
	}
	if w.stuck == nil {
		p.add("no watcher was stuck in the end: the measured time was too short for %d parts", w.spec.Blocks)
	} else if err := w.stuck.resume(ctx); err != nil {
		p.add("the stuck watcher, when it went on: %v", err)
	}
	more, err := w.watching.verify(ctx)
	return append(p.all(), more...), err
}

func (w *slow) close() error {
	if w.stuck != nil {
		w.stuck.end()
	}
	return w.watching.close()
}

// stuckWatcher is one that takes nothing until it is told to.
type stuckWatcher struct {
	client *clientv3.Client
	stream *watchStream
	on     chan struct{} // closed: it goes on
	stands chan struct{}
	from   int64      // the revision from which it watches
	owed   tally      // what was acknowledged from there on
	seen   tally      // what it has delivered; of the stream's receiver, until that has ended
	at     chan int64 // gets the revision that it has come to, after it went on
}

func (s *stuckWatcher) owe(a acked) {
	if a.rev >= s.from {
		s.owed.add(a.rev, a.op)
	}
}

// openStuck sets up a watcher of everything that is put from now on.
func (w *slow) openStuck(ctx context.Context) (*stuckWatcher, error) {
	client, err := w.sys.dial(0)
	if err != nil {
		return nil, err
	}
	s := &stuckWatcher{client: client, on: make(chan struct{}), stands: make(chan struct{}, 1), at: make(chan int64, 1)}
	now, err := client.Get(ctx, w.spec.Prefix)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the stuck watcher: %w", err), client.Close())
	}
	s.from = now.Header.Revision + 1
	s.stream, err = openStream(ctx, client.ActiveConnection(), watchFuncs{
		created: func(int64) error { s.stands <- struct{}{}; return nil },
		events:  func(r *etcdserverpb.WatchResponse) error { return s.take(w, r) },
		progress: func(rev int64) error {
			s.tell(rev)
			return nil
		},
	})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	err = s.stream.watch(&etcdserverpb.WatchCreateRequest{
		Key: []byte(w.spec.Prefix), RangeEnd: []byte(prefixEnd(w.spec.Prefix)), StartRevision: s.from,
	})
	if err == nil {
		select {
		case <-s.stands:
		case <-s.stream.ended:
			err = s.stream.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		s.end()
		return nil, fmt.Errorf("set up the stuck watcher: %w", err)
	}
	return s, nil
}

// take takes nothing before it is told to.
func (s *stuckWatcher) take(w *slow, r *etcdserverpb.WatchResponse) error {
	select {
	case <-s.on:
	case <-s.stream.grpc.Context().Done():
		return errClosed
	}
	for _, ev := range r.Events {
		if _, err := w.vetEvent(&s.seen, 0, ev); err != nil {
			return err
		}
	}
	s.tell(s.seen.rev)
	return nil
}

// tell says how far it has come, in place of what it said before.
func (s *stuckWatcher) tell(rev int64) {
	select {
	case <-s.at:
	default:
	}
	s.at <- rev // the receiver alone sends
}

// resume lets it go on until it has delivered the last revision, and compares.
func (s *stuckWatcher) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	close(s.on)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	err := s.stream.askProgress()
	for at := int64(0); at < s.owed.rev && err == nil; {
		select {
		case at = <-s.at:
		case <-again.C:
			err = s.stream.askProgress()
		case <-s.stream.ended:
			return s.stream.err
		case <-ctx.Done():
			return fmt.Errorf("it has come to revision %d of %d: %w", at, s.owed.rev, ctx.Err())
		}
	}
	if err := errors.Join(err, s.stream.close()); err != nil {
		return err
	}
	return s.seen.compare(s.owed)
}

func (s *stuckWatcher) end() {
	if s.stream != nil {
		_ = s.stream.close() // how it ended was told by resume, or does not matter
	}
	_ = s.client.Close()
}
