package watchfanout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pontoon/shard"
)

// TestASplitReadsNoHistory: a range with thousands of watches is cut again and again, while the map follows before or behind
// its borders. All watches stay live, and nobody reads history.
func TestASplitReadsNoHistory(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { cutManyTimes(t, rand.New(rand.NewPCG(seed, 7))) })
	}
}

func cutManyTimes(t *testing.T, r *rand.Rand) {
	const watches, keys, cuts = 3000, 26, 12
	w := newWorld(t, func(c *Config) { c.Dispatchers = 1 + r.IntN(3) })
	w.rmap = mapOf(t, 1, "r2@1", "-")
	truth := w.rmap
	var all []*shard.Event
	rev := int64(1)
	publish := func(id shard.RangeID, d shard.Descriptor, key int, b *shard.Border) {
		rev++
		item := shard.FeedItem{Closed: rev, Generation: d.Generation, Border: b, Events: []*shard.Event{{KV: shard.KeyValue{Key: rndKey(key), ModRevision: rev}}}}
		all = append(all, item.Events...)
		w.store(item.Events)
		w.hub.Publish(id, item)
	}
	w.hub.Publish(2, shard.FeedItem{Closed: rev, Generation: 1, Gap: true})

	type watched struct {
		s    *Stream
		span shard.Span
		got  []*shard.Event
	}
	var ws []*watched
	for range watches {
		a := r.IntN(keys)
		x := &watched{s: w.hub.NewStream(StreamOptions{}), span: shard.Span{Start: rndKey(a), End: rndKey(a + 1 + r.IntN(keys-a))}}
		switch r.IntN(4) {
		case 0:
			x.span = shard.Point(rndKey(a))
		case 1:
			x.span.End = nil
		}
		ws = append(ws, x)
		if err := x.s.Watch(WatchRequest{ID: 1, Span: x.span, Start: 2}); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	before := w.hub.Stats()
	if before.SlowWatchers != 0 {
		t.Fatalf("at the start: %+v", before)
	}
	for id := shard.RangeID(3); id < 3+cuts; {
		at := 1 + r.IntN(keys-1)
		d := truth.Lookup(rndKey(at))
		if string(d.Span.Start) == string(rndKey(at)) {
			publish(d.ID, d, at, nil)
			continue
		}
		next, err := truth.Split(d.ID, rndKey(at), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		truth = next
		if r.IntN(3) == 0 {
			w.rmap = truth
			w.hub.MapChanged()
		}
		if r.IntN(2) == 0 {
			w.settle()
		}
		publish(d.ID, d, at, &shard.Border{At: rndKey(at), Child: id, Generation: d.Generation + 1})
		for range r.IntN(4) {
			key := r.IntN(keys)
			d := truth.Lookup(rndKey(key))
			publish(d.ID, d, key, nil)
		}
		id++
	}
	for d := range truth.All() {
		w.hub.Publish(d.ID, shard.FeedItem{Closed: rev, Generation: d.Generation})
	}
	w.rmap = truth
	w.hub.MapChanged()
	w.settle()
	after := w.hub.Stats()
	if after.ReadsTotal != before.ReadsTotal || after.DemotedTotal != 0 || after.SlowWatchers != 0 || after.LateTotal != 0 {
		t.Errorf("before: %+v\nafter:  %+v", before, after)
	}
	if after.CutTotal < cuts {
		t.Errorf("%d lanes were cut in %d splits", after.CutTotal, cuts)
	}
	for _, x := range ws {
		for got := x.s.Poll(nil, 100); len(got) > 0; got = x.s.Poll(nil, 100) {
			for _, d := range got {
				x.got = append(x.got, d.Events...)
			}
		}
		want := slices.Clone(all)
		want = slices.DeleteFunc(want, func(e *shard.Event) bool { return !x.span.Contains(e.KV.Key) })
		if !slices.Equal(x.got, want) {
			t.Fatalf("watch of %v:\n got  %v\n want %v", x.span, textsOf(x.got), textsOf(want))
		}
	}
}

// cutting is a key space that is cut again and again while it is written to, with the map on another way than the feeds.
type cutting struct {
	hub    *Hub
	rmap   atomic.Pointer[shard.Map]
	closes chan struct{}
	reads  atomic.Int64

	mu     sync.Mutex
	truth  *shard.Map
	order  map[shard.RangeID]*sync.Mutex // one item of a range at a time; locked under mu
	rev    int64
	events []*shard.Event
}

// AskClose implements Closer.
func (c *cutting) AskClose(int64, []shard.RangeID) {
	select {
	case c.closes <- struct{}{}:
	default:
	}
}

// Read implements History.
func (c *cutting) Read(context.Context, shard.RangeID, []shard.Span, int64, int64, int) ([]*shard.Event, int64, error) {
	c.reads.Add(1)
	return nil, 0, shard.ErrUnavailable
}

// publish makes an item under mu and hands it out, in the order of its range.
func (c *cutting) publish(item func() (shard.Descriptor, shard.FeedItem)) {
	c.mu.Lock()
	d, it := item()
	o := c.order[d.ID]
	o.Lock()
	defer o.Unlock()
	c.mu.Unlock()
	it.Generation = d.Generation
	c.hub.Publish(d.ID, it)
}

func (c *cutting) write(key []byte) {
	c.publish(func() (shard.Descriptor, shard.FeedItem) {
		c.rev++
		e := &shard.Event{KV: shard.KeyValue{Key: key, ModRevision: c.rev}}
		c.events = append(c.events, e)
		return c.truth.Lookup(key), shard.FeedItem{Events: []*shard.Event{e}, Closed: c.rev}
	})
}

func (c *cutting) close() {
	c.mu.Lock()
	m := c.truth
	c.mu.Unlock()
	for d := range m.All() {
		c.publish(func() (shard.Descriptor, shard.FeedItem) {
			now, _ := c.truth.Get(d.ID)
			return now, shard.FeedItem{Closed: c.rev}
		})
	}
}

// split returns the map behind it. The child's first item comes after the border: it waits for its order.
func (c *cutting) split(t *testing.T, at []byte, child shard.RangeID) *shard.Map {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.truth.Lookup(at)
	next, err := c.truth.Split(d.ID, at, child, nil)
	if err != nil {
		t.Error(err)
		return c.truth
	}
	o := c.order[d.ID]
	o.Lock()
	defer o.Unlock()
	c.truth, c.order[child] = next, new(sync.Mutex)
	c.hub.Publish(d.ID, shard.FeedItem{Closed: c.rev, Generation: d.Generation, Border: &shard.Border{At: at, Child: child, Generation: d.Generation + 1}})
	return next
}

// TestSplitsUnderWriters: the hub's goroutines, writers, splits and the map's way run beside one another; every watch gets
// every event once, in order, and nobody reads history.
func TestSplitsUnderWriters(t *testing.T) {
	const writers, each, watches = 4, 1500, 60
	const roomy = 1 << 30 // a reader that is slow is not what is tried here
	c := &cutting{closes: make(chan struct{}, 1), order: map[shard.RangeID]*sync.Mutex{2: {}}, rev: 1}
	c.truth = mapOf(t, 1, "r2@1", "-")
	c.rmap.Store(c.truth)
	c.hub = NewHub(Config{
		History: c, Closer: c, Map: c.rmap.Load, Dispatchers: 3, InboxEvents: roomy, InboxBytes: roomy, PendingEvents: roomy, PendingBytes: roomy,
		Current: func(context.Context) (shard.Now, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return shard.Now{Revision: c.rev}, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var background, readers sync.WaitGroup
	background.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.closes:
				c.close()
			}
		}
	})
	const last = 2 + writers*each // one more write tells the watches that all is there
	var streams []*Stream
	got, spans := make([][]*shard.Event, watches), make([]shard.Span, watches)
	for i := range watches {
		key := rndKey(i % 26)
		span := shard.Span{Start: key, End: rndKey(i%26 + 1 + i%5)}
		switch i % 4 {
		case 0:
			span = shard.All
		case 1:
			span.End = nil
		}
		spans[i] = span
		w := &Watcher{id: 1, st: c.hub.NewStream(StreamOptions{WatcherEvents: roomy, WatcherBytes: roomy, StreamEvents: roomy, StreamBytes: roomy})}
		if err := w.st.Watch(WatchRequest{ID: 1, Span: span, Start: 2, FromNow: true}); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, w.st)
		readers.Go(func() {
			defer w.st.Close()
			for done := false; !done; {
				w.RequestProgress(last)
				b, err := w.Next(ctx)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				got[i] = append(got[i], b.Events...)
				done = b.Revision >= last
			}
		})
	}
	c.close() // the feed has begun: everything is live once that is known to be whole
	for _, st := range streams {
		for _, live := st.Progress(); !live; _, live = st.Progress() {
			c.close()
		}
	}
	var work sync.WaitGroup
	for i := range writers {
		work.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for range each {
				c.write(rndKey(r.IntN(26)))
			}
		})
	}
	work.Go(func() {
		r := rand.New(rand.NewPCG(9, 9))
		for i, at := range r.Perm(24) {
			m := c.split(t, rndKey(at+1), shard.RangeID(3+i))
			if r.IntN(2) == 0 {
				c.rmap.Store(m.WithVersion(m.Version()))
				c.hub.MapChanged()
			}
		}
	})
	work.Wait()
	c.write([]byte("zz"))
	c.close()
	readers.Wait()
	cancel()
	background.Wait()
	stats := c.hub.Stats()
	c.hub.Close()
	if c.reads.Load() > 0 || stats.CutTotal < 24 || stats.LateTotal > 0 {
		t.Errorf("%d reads of history; %+v", c.reads.Load(), stats)
	}
	for i := range got {
		want := slices.DeleteFunc(slices.Clone(c.events), func(e *shard.Event) bool { return !spans[i].Contains(e.KV.Key) })
		if !slices.Equal(got[i], want) {
			t.Errorf("watch of %v has %d events, not the %d that there are", spans[i], len(got[i]), len(want))
		}
	}
}
