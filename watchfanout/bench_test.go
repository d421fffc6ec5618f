package watchfanout

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pontoon/shard"
)

// quietHub is a hub whose ranges are driven by the benchmark, on its own goroutine.
func quietHub(b *testing.B, m *shard.Map) *Hub {
	w := &world{t: b}
	h := newHub(Config{
		History: w, Closer: discard{}, Map: func() *shard.Map { return m },
		Current:     func(context.Context) (shard.Now, error) { return shard.Now{Revision: 1}, nil },
		AfterFunc:   func(time.Duration, func()) {},
		Dispatchers: 1,
	})
	h.readers, h.clerk = newPool(0), newPool(0)
	return h
}

type discard struct{}

func (discard) AskClose(int64, []shard.RangeID) {}

// begin has every range say that it is closed at 1.
func begin(h *Hub, m *shard.Map) {
	for d := range m.All() {
		h.Publish(d.ID, shard.FeedItem{Closed: 1})
	}
	rest(h)
}

// rest lets the hub do all that there is to do.
func rest(h *Hub) {
	for h.dispatchers[0].round() || h.clerk.runOne() || h.readers.runOne() {
	}
}

func put(key string, rev int64) *shard.Event {
	e := shard.NewEvents(1)[0]
	e.KV = shard.KeyValue{Key: []byte(key), Value: make([]byte, 256), ModRevision: rev, CreateRevision: rev, Version: 1}
	return e
}

// BenchmarkSingleKeys publishes to one of 10,000 watchers of one key each.
func BenchmarkSingleKeys(b *testing.B) {
	const watchers = 10_000
	m := mapOf(b, 1, "r2", "-")
	h := quietHub(b, m)
	begin(h, m)
	s := h.NewStream(StreamOptions{})
	keys := make([]string, watchers)
	for i := range keys {
		keys[i] = fmt.Sprintf("/registry/pods/default/pod-%05d", i)
		if err := s.Watch(WatchRequest{ID: int64(i), Span: shard.Point([]byte(keys[i])), Start: 2}); err != nil {
			b.Fatal(err)
		}
	}
	rest(h)
	benchmarkPublish(b, h, []*Stream{s}, func(rev int64) *shard.Event { return put(keys[int(rev)%watchers], rev) })
}

// BenchmarkPrefix publishes to 1,000 watchers of one prefix, each on a stream of its own; an op
// is 1,000 deliveries.
func BenchmarkPrefix(b *testing.B) {
	m := mapOf(b, 1, "r2", "-")
	h := quietHub(b, m)
	begin(h, m)
	streams := make([]*Stream, 1000)
	for i := range streams {
		streams[i] = h.NewStream(StreamOptions{})
		if err := streams[i].Watch(WatchRequest{Span: parseSpan("/registry/pods/-/registry/pods0"), Start: 2}); err != nil {
			b.Fatal(err)
		}
	}
	rest(h)
	benchmarkPublish(b, h, streams, func(rev int64) *shard.Event { return put("/registry/pods/default/pod", rev) })
}

func benchmarkPublish(b *testing.B, h *Hub, streams []*Stream, event func(rev int64) *shard.Event) {
	var got []Delivery
	rev := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		rev++
		h.Publish(2, shard.FeedItem{Events: []*shard.Event{event(rev)}, Closed: rev})
		h.dispatchers[0].round()
		for _, s := range streams {
			got = s.Poll(got[:0], 64)
		}
	}
	if s := h.Stats(); s.DemotedTotal > 0 || s.EventsTotal == 0 {
		b.Fatalf("not the live path: %+v", s)
	}
}

// BenchmarkWide publishes to a watcher of everything over 1,000 ranges that are all closed at
// each revision, as one message per pair of nodes does it.
func BenchmarkWide(b *testing.B) {
	const ranges = 1000
	args := []string{}
	for i := range ranges {
		start, end := fmt.Sprintf("k%04d", i), fmt.Sprintf("k%04d", i+1)
		if i == 0 {
			start = ""
		}
		if i == ranges-1 {
			end = ""
		}
		args = append(args, fmt.Sprintf("r%d", i+2), start+"-"+end)
	}
	m := mapOf(b, 1, args...)
	h := quietHub(b, m)
	begin(h, m)
	s := h.NewStream(StreamOptions{})
	if err := s.Watch(WatchRequest{Start: 2}); err != nil {
		b.Fatal(err)
	}
	rest(h)
	rev := int64(1)
	var got []Delivery
	b.ReportAllocs()
	for b.Loop() {
		rev++
		for i := range ranges {
			item := shard.FeedItem{Closed: rev}
			if i == int(rev)%ranges {
				item.Events = []*shard.Event{put(fmt.Sprintf("k%04d", i), rev)}
			}
			h.Publish(shard.RangeID(i+2), item)
		}
		h.dispatchers[0].round()
		got = s.Poll(got[:0], 64)
		if len(got) != 1 {
			b.Fatal(got)
		}
	}
}

// BenchmarkBorder: a range with many live watches, of one key each, is cut in the middle: how long its dispatcher stands.
func BenchmarkBorder(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				w := newWorld(b, nil)
				w.rmap = mapOf(b, 1, "r2@1", "-")
				w.hub.Publish(2, shard.FeedItem{Closed: 1, Generation: 1, Gap: true})
				var s *Stream
				for i := range n {
					if i%100 == 0 {
						s = w.hub.NewStream(StreamOptions{})
					}
					if err := s.Watch(WatchRequest{ID: int64(i), Span: shard.Point(fmt.Appendf(nil, "k%08d", i)), Start: 2, FromNow: true}); err != nil {
						b.Fatal(err)
					}
				}
				w.settle()
				if st := w.hub.Stats(); st.SlowWatchers > 0 {
					b.Fatalf("%+v", st)
				}
				at := fmt.Appendf(nil, "k%08d", n/2)
				b.StartTimer()
				w.hub.Publish(2, shard.FeedItem{Closed: 2, Generation: 1, Border: &shard.Border{At: at, Child: 3, Generation: 2}})
				w.hub.dispatchers[0].round()
			}
		})
	}
}
