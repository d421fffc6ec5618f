package watchfanout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pontoon/shard"
)

// live is a set of ranges under concurrent writers: what is closed is in the list.
type live struct {
	mu     sync.Mutex
	rmap   *shard.Map
	rev    int64
	events []*shard.Event
	hub    *Hub
	order  map[shard.RangeID]*sync.Mutex
}

// AskClose closes what is asked for, and nothing else.
func (l *live) AskClose(_ int64, ranges []shard.RangeID) {
	l.mu.Lock()
	rev := l.rev
	l.mu.Unlock()
	if ranges = slices.Clone(ranges); ranges == nil {
		for d := range l.rmap.All() {
			ranges = append(ranges, d.ID)
		}
	}
	go func() { // as it comes from elsewhere
		for _, id := range ranges {
			l.publish(id, nil, rev)
		}
	}()
}

// publish keeps the order of a range; closed never says more than has been published.
func (l *live) publish(id shard.RangeID, evs []*shard.Event, closed int64) {
	o := l.order[id]
	o.Lock()
	defer o.Unlock()
	l.hub.Publish(id, shard.FeedItem{Events: evs, Closed: closed})
}

func (l *live) Read(_ context.Context, _ shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var evs []*shard.Event
	for rev := from; rev <= to; rev++ {
		e := l.events[rev]
		if coveredBy(spans, e.KV.Key) {
			evs = append(evs, &shard.Event{KV: e.KV})
		}
		if len(evs)*eventOverheadBytes > maxBytes {
			return evs, rev + 1, nil
		}
	}
	return evs, to + 1, nil
}

// write takes a revision and publishes under the range's lock, so that the range's feed has
// the order of revisions, and closes what it can: its own write.
func (l *live) write(key []byte) {
	id := l.rmap.Lookup(key).ID
	o := l.order[id]
	o.Lock()
	defer o.Unlock()
	l.mu.Lock()
	l.rev++
	e := &shard.Event{KV: shard.KeyValue{Key: key, ModRevision: l.rev}}
	l.events = append(l.events, e)
	l.mu.Unlock()
	l.hub.Publish(id, shard.FeedItem{Events: []*shard.Event{e}, Closed: e.Rev()})
}

// TestConcurrent runs the hub with its goroutines: writers, watchers that come and go, slow
// ones among them. Each must see every write in order.
func TestConcurrent(t *testing.T) {
	const writes, writers, watchers = 3000, 3, 12
	l := &live{rmap: mapOf(t, 1, "r2", "-h", "r3", "h-p", "r4", "p-"), events: make([]*shard.Event, 1), order: map[shard.RangeID]*sync.Mutex{}}
	for d := range l.rmap.All() {
		l.order[d.ID] = &sync.Mutex{}
	}
	l.hub = NewHub(Config{
		History: l, Closer: l, Map: func() *shard.Map { return l.rmap },
		Current: func(context.Context) (shard.Now, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return shard.Now{Revision: l.rev}, nil
		},
		RetryDelay: time.Millisecond, RecentEvents: 50, ReadBytes: 20 * eventOverheadBytes, Dispatchers: 2,
		DeliveryBytes: 100 * eventOverheadBytes, // now and then the reader is taken what waits for it
	})
	defer l.hub.Close()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			for range writes / writers {
				l.write(rndKey(r.IntN(rndKeys)))
			}
		})
	}
	for i := range watchers {
		wg.Go(func() {
			if err := l.follow(i, writes); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// follow reads a watch to the end and compares.
func (l *live) follow(i, writes int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := l.hub.NewStream(StreamOptions{WatcherEvents: 1 + 40*(i%3)})
	defer s.Close()
	span := []string{"-", "a-m", "c", "k-"}[i%4]
	l.mu.Lock()
	start := 1 + rand.Int64N(l.rev+1)
	l.mu.Unlock()
	if err := s.Watch(WatchRequest{Span: parseSpan(span), Start: start}); err != nil {
		return err
	}
	s.RequestProgress(int64(writes))
	var got []*shard.Event
	for told := int64(0); told < int64(writes); {
		select {
		case <-s.Ready():
		case <-ctx.Done():
			return fmt.Errorf("watch %d of %s has %d events, was told %d: %w", i, span, len(got), told, ctx.Err())
		}
		for ds := s.Poll(nil, 2); len(ds) > 0; ds = s.Poll(nil, 2) {
			for _, d := range ds {
				got = append(got, d.Events...)
				if len(d.Events) == 0 {
					told = d.Revision
				}
				d.Events = nil
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events[start:] {
		if !parseSpan(span).Contains(e.KV.Key) {
			continue
		}
		if len(got) == 0 || got[0].Rev() != e.Rev() {
			return fmt.Errorf("watch %d of %s from %d lacks %v", i, span, start, e)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		return fmt.Errorf("watch %d of %s got %d events too many", i, span, len(got))
	}
	return nil
}

// TestWatcher: the one-watcher form, its ends, and the closing of a hub with everything open.
func TestWatcher(t *testing.T) {
	m := mapOf(t, 1, "r2", "-")
	var compact atomic.Int64
	history := &world{stored: map[string][]*shard.Event{}}
	history.store([]*shard.Event{put("a", 3)})
	h := NewHub(Config{
		History: history, Closer: discard{}, Map: func() *shard.Map { return m },
		Current: func(context.Context) (shard.Now, error) {
			return shard.Now{Revision: 1, CompactRevision: compact.Load()}, nil
		},
		WatchersMax: 2,
	})
	ctx, cancel := context.WithCancel(context.Background())
	w, err := h.Watch(ctx, WatchRequest{Span: shard.All, Start: 2})
	if err != nil {
		t.Fatal(err)
	}
	w.RequestProgress(5)
	h.Publish(2, shard.FeedItem{Closed: 1})
	h.Publish(2, shard.FeedItem{Events: []*shard.Event{put("a", 3)}, Closed: 6})
	if b, err := w.Next(ctx); err != nil || len(b.Events) != 1 || b.Revision != 3 {
		t.Fatalf("%+v %v", b, err)
	}
	if b, err := w.Next(ctx); err != nil || len(b.Events) != 0 || b.Revision != 6 || w.Progress() != 6 {
		t.Fatalf("%+v %v, progress %d", b, err, w.Progress())
	}
	cancel()
	if _, err := w.Next(context.Background()); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
	compact.Store(5)
	old, err := h.Watch(context.Background(), WatchRequest{Span: shard.All, Start: 4})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := old.Next(context.Background()); err != nil || b.CompactRevision != 5 {
		t.Fatalf("%+v %v", b, err)
	}
	if _, err := old.Next(context.Background()); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
	s := h.NewStream(StreamOptions{})
	for id := range int64(3) {
		if err = s.Watch(WatchRequest{ID: id, Start: 7}); id < 2 && err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(err, shard.ErrTooManyRequests) {
		t.Fatal(err)
	}
	h.Close()
	if err := s.Watch(WatchRequest{ID: 9, Start: 7}); !errors.Is(err, shard.ErrStopped) {
		t.Fatal(err)
	}
}

// TestAsksAgainForTheLowest: hazard 18 for progress: requests that never rest do not starve.
func TestAsksAgainForTheLowest(t *testing.T) {
	var open progressRequests
	for rev := int64(1); rev < 100; rev++ {
		open = open.with(rev)
	}
	if len(open) != requestsMax || open[0] != 1 || open.highest() != 99 {
		t.Fatal(open)
	}
	if open = open.above(98); len(open) != 1 {
		t.Fatal(open)
	}
}

// TestAWatchIsToldOfBeforeItsEnd: once Close or Cancel can see a watch, its dispatcher has been told of it.
func TestAWatchIsToldOfBeforeItsEnd(t *testing.T) {
	w := newWorld(t, nil)
	s := w.hub.NewStream(StreamOptions{})
	one := &watch{st: s, id: 1}
	one.setSpan(shard.All)
	if err := s.insert(one); err != nil {
		t.Fatal(err)
	}
	s.Close()
	w.settle()
	if st := w.hub.Stats(); st.Lanes != 0 || s.newest != nil {
		t.Errorf("%+v, watches left: %v", st, s.newest != nil)
	}
	if err := s.insert(&watch{st: s, id: 2}); !errors.Is(err, shard.ErrStopped) {
		t.Errorf("a watch of a closed stream: %v", err)
	}
}

// TestWatchBesideClose: whichever comes first, nothing of the stream is left.
func TestWatchBesideClose(t *testing.T) {
	m := mapOf(t, 1, "r2", "-")
	h := NewHub(Config{
		History: &world{}, Closer: discard{}, Map: func() *shard.Map { return m },
		Current: func(context.Context) (shard.Now, error) { return shard.Now{Revision: 1}, nil },
	})
	defer h.Close()
	for range 2000 {
		s := h.NewStream(StreamOptions{})
		var wg sync.WaitGroup
		for id := range int64(2) {
			wg.Go(func() { _ = s.Watch(WatchRequest{ID: id, Span: shard.All, Start: 2, FromNow: id == 0}) })
		}
		wg.Go(s.Close)
		wg.Wait()
	}
	deadline := time.After(10 * time.Second)
	for h.Stats().Lanes > 0 {
		select {
		case <-deadline:
			t.Fatalf("%+v", h.Stats())
		default:
			runtime.Gosched()
		}
	}
}
