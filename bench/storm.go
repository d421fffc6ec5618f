package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"pontoon/bench/load"
)

// storm is the end of all leases at once.
type storm struct {
	w       *leases
	answers []time.Time // when each lease was renewed for the last time
	stands  chan struct{}

	mu    sync.Mutex
	gone  []time.Time // when each key went
	left  int
	over  chan struct{}
	rev   int64
	began time.Time // when the first lease ended
	ended time.Time // when the last did
}

// conclude lets all leases end at once and measures that.
func (w *leases) conclude(ctx context.Context, r *Run) error {
	w.say("letting leases end")
	wrong, err := w.ledger.compare(ctx, w.kvs[0])
	r.Problems = append(r.Problems, wrong...)
	if err != nil {
		return fmt.Errorf("look for the keys of leases: %w", err)
	}
	s := &storm{
		w: w, answers: make([]time.Time, w.spec.Leases), gone: make([]time.Time, w.spec.Leases), left: w.spec.Leases,
		stands: make(chan struct{}, 1), over: make(chan struct{}),
	}
	stream, err := s.watch(ctx)
	if err != nil {
		return err
	}
	if err := forEach(ctx, w.spec.Clients, w.spec.Leases, s.renew); err != nil {
		return errors.Join(fmt.Errorf("keep leases alive for the last time: %w", err), stream.close())
	}
	puts, err := s.sit(ctx, stream)
	if err := errors.Join(err, stream.close()); err != nil {
		return fmt.Errorf("let leases end: %w", err)
	}
	r.Problems = append(r.Problems, s.report(r)...)
	r.figure("put-in-storm-p50-µs", float64(puts.P50))
	r.figure("put-in-storm-p99-µs", float64(puts.P99))
	return nil
}

// watch watches all keys and returns when the watcher stands.
func (s *storm) watch(ctx context.Context) (*watchStream, error) {
	keys := s.w.ledger.keys
	stream, err := openStream(ctx, s.w.clients[0].ActiveConnection(), watchFuncs{
		created: func(int64) error { s.stands <- struct{}{}; return nil },
		events:  s.take,
	})
	if err != nil {
		return nil, err
	}
	err = stream.watch(&etcdserverpb.WatchCreateRequest{Key: []byte(keys.at(0)), RangeEnd: []byte(keys.end(keys.space - 1))})
	if err == nil {
		select {
		case <-s.stands:
			return stream, nil
		case <-stream.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return nil, errors.Join(fmt.Errorf("watch the keys of leases: %w", err), stream.close())
}

func (s *storm) renew(ctx context.Context, worker, i int) error {
	if err := s.w.keepAlive(ctx, worker, i); err != nil {
		return err
	}
	s.answers[i] = time.Now()
	return nil
}

// take notes which keys have gone.
func (s *storm) take(r *etcdserverpb.WatchResponse) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range r.Events {
		i, ok := s.w.ledger.keys.index(ev.Kv.Key)
		switch {
		case !ok || ev.Type != mvccpb.Event_DELETE:
			return fmt.Errorf("an event of type %v of key %q, while leases end", ev.Type, ev.Kv.Key)
		case !s.gone[i].IsZero():
			return fmt.Errorf("key %q has gone twice", ev.Kv.Key)
		case ev.Kv.ModRevision < s.rev:
			return fmt.Errorf("an event of revision %d after one of revision %d", ev.Kv.ModRevision, s.rev)
		}
		s.rev, s.gone[i] = ev.Kv.ModRevision, now
		if s.left--; s.left == 0 {
			close(s.over)
		}
	}
	return nil
}

// stormPuts is how often somebody else puts a key while leases end.
const stormPuts = 20 * time.Millisecond

// sit waits until all leases have ended, and puts a key of nobody's now and then.
func (s *storm) sit(ctx context.Context, stream *watchStream) (load.Summary, error) {
	spec := s.w.spec
	// A server may let leases end slowly, so that they disturb others less.
	patience := startPatience + time.Duration(spec.Leases)*10*time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, spec.TTL+patience)
	defer cancel()
	tick := time.NewTicker(stormPuts)
	defer tick.Stop()
	var watch load.Stopwatch
	due := time.Now().Add(spec.TTL)
	for n := uint64(0); ; n++ {
		select {
		case <-s.over:
			return watch.Summary(), nil
		case <-stream.ended:
			return watch.Summary(), stream.err
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			return watch.Summary(), fmt.Errorf("%d of %d leases have not ended: %w", s.left, spec.Leases, ctx.Err())
		case <-tick.C:
		}
		began := time.Now()
		if _, err := s.w.kvs[0].Put(ctx, spec.Prefix+"~", s.w.ledger.values.of(n)); err != nil && ctx.Err() == nil {
			return watch.Summary(), fmt.Errorf("put while leases end: %w", err)
		}
		if began.After(due.Add(-time.Second)) {
			watch.Add(time.Since(began))
		}
	}
}

// report tells how late leases ended, and which ended early.
func (s *storm) report(r *Run) []string {
	var p problems
	var lag load.Stopwatch
	for i, gone := range s.gone {
		ttl := s.w.spec.TTL
		if early := time.Unix(0, s.w.renewed[i].Load()).Add(ttl).Sub(gone); early > 0 {
			p.add("lease %x ended %v before its time", s.w.ids[i], early)
		}
		due := s.answers[i].Add(ttl)
		if s.began.IsZero() || due.Before(s.began) {
			s.began = due
		}
		if gone.After(s.ended) {
			s.ended = gone
		}
		lag.Add(max(gone.Sub(due), 0))
	}
	sum := lag.Summary()
	r.figure("expiry-lag-p50-µs", float64(sum.P50))
	r.figure("expiry-lag-p99-µs", float64(sum.P99))
	r.figure("expiry-lag-max-µs", float64(sum.Max))
	if took := s.ended.Sub(s.began); took > 0 {
		r.figure("expired/s", float64(len(s.gone))/took.Seconds())
	}
	return p.all()
}
