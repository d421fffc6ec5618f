package watchfanout

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
