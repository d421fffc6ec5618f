package watchfanout

import (
	"slices"
	"testing"
	"time"

	"pontoon/shard"
)

// comers are watches that come, go and come back, each on a stream of its own, while one range is written to, and cut.
type comers struct {
	*world
	truth        *shard.Map
	rev          int64
	all          []*shard.Event
	begun, ended map[shard.RangeID]int // feeds, by the hub's word
	everyone     shard.Span
}

func newComers(t *testing.T, tune func(*Config)) *comers {
	c := &comers{rev: 1, begun: map[shard.RangeID]int{}, ended: map[shard.RangeID]int{}, everyone: shard.Span{Start: []byte("a")}}
	c.world = newWorld(t, func(cfg *Config) {
		cfg.RecentEvents, cfg.RingBytes, cfg.FeedLinger, cfg.Dispatchers = 1, 1<<20, time.Minute, 2
		cfg.Subscribe = func(id shard.RangeID) { c.begun[id]++ }
		cfg.Unsubscribe = func(id shard.RangeID) { c.ended[id]++ }
		if tune != nil {
			tune(cfg)
		}
	})
	c.rmap = mapOf(t, 1, "r2@1", "-")
	c.truth = c.rmap
	return c
}

// write publishes a put, with a border if it is given.
func (c *comers) write(key string, b *shard.Border) {
	c.rev++
	c.current = c.rev
	d := c.truth.Lookup([]byte(key))
	ev := &shard.Event{KV: shard.KeyValue{Key: []byte(key), ModRevision: c.rev}}
	c.all = append(c.all, ev)
	c.store([]*shard.Event{ev})
	c.hub.Publish(d.ID, shard.FeedItem{Closed: c.rev, Generation: d.Generation, Events: []*shard.Event{ev}, Border: b})
}

// come opens so many watches from a revision on.
func (c *comers) come(t *testing.T, many int, start int64) (out []*Stream) {
	t.Helper()
	for range many {
		s := c.hub.NewStream(StreamOptions{})
		if err := s.Watch(WatchRequest{ID: 1, Span: c.everyone, Start: start}); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	c.settle()
	return out
}

// expect polls watches and closes them: each is to get all that was written from a revision on.
func (c *comers) expect(t *testing.T, ss []*Stream, start int64) {
	t.Helper()
	c.settle()
	i := slices.IndexFunc(c.all, func(e *shard.Event) bool { return e.Rev() >= start })
	if i < 0 {
		i = len(c.all)
	}
	for _, s := range ss {
		var got []*shard.Event
		for ds := s.Poll(nil, 100); len(ds) > 0; ds = s.Poll(nil, 100) {
			for _, d := range ds {
				got = append(got, d.Events...)
			}
		}
		if !slices.Equal(textsOf(got), textsOf(c.all[i:])) {
			t.Fatalf("from %d: got %v, want %v", start, textsOf(got), textsOf(c.all[i:]))
		}
		s.Close()
	}
	c.settle()
}

func (c *comers) reads() int64 { return c.hub.Stats().ReadsTotal }

// TestComingBackReadsNoHistory: a thousand watches that all go, and come back from where they were, read no history, also when their range was cut while
// nobody watched it; the feed went on meanwhile.
func TestComingBackReadsNoHistory(t *testing.T) {
	const many = 1000
	c := newComers(t, nil)
	c.hub.Publish(2, shard.FeedItem{Closed: 1, Generation: 1})
	ss := c.come(t, many, 2)
	for range 20 {
		c.write("b", nil)
	}
	c.expect(t, ss, 2)
	before, start := c.reads(), c.rev+1
	for range 20 {
		c.write("c", nil)
	}
	c.expect(t, c.come(t, many, start), start)
	if got := c.reads() - before; got != 0 || c.hub.Stats().SparedTotal == 0 {
		t.Errorf("%d reads of history for %d watches that came back", got, many)
	}

	start = c.rev - 9
	next, err := c.truth.Split(2, []byte("m"), 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.write("n", &shard.Border{At: []byte("m"), Child: 3, Generation: 2})
	c.truth, c.rmap = next, next
	c.hub.MapChanged()
	c.settle()
	for range 10 {
		c.write("n", nil)
		c.write("d", nil)
	}
	for d := range c.truth.All() {
		c.hub.Publish(d.ID, shard.FeedItem{Closed: c.rev, Generation: d.Generation})
	}
	c.expect(t, c.come(t, many, start), start)
	if got := c.reads() - before; got != 0 {
		t.Errorf("%d reads of history for %d watches that came back behind a border", got, many)
	}
	if c.begun[2] != 1 || c.begun[3] != 1 || len(c.ended) != 0 {
		t.Errorf("feeds began %v, ended %v", c.begun, c.ended)
	}

	c.fire() // nobody has come back for long
	c.settle()
	if c.ended[2] != 1 || c.ended[3] != 1 || c.hub.Stats().RingBytes != 0 {
		t.Errorf("feeds ended %v; %d bytes are remembered of them", c.ended, c.hub.Stats().RingBytes)
	}
	ss = c.come(t, 1, start)
	for d := range c.truth.All() {
		c.hub.Publish(d.ID, shard.FeedItem{Closed: c.rev, Generation: d.Generation})
	}
	c.expect(t, ss, start)
	if c.reads() == before {
		t.Error("a feed that has begun anew is taken for whole")
	}
}

// TestARingKnowsItsHoles: who comes back from before a gap reads history, and who comes from behind it does not.
func TestARingKnowsItsHoles(t *testing.T) {
	c := newComers(t, nil)
	c.hub.Publish(2, shard.FeedItem{Closed: 1, Generation: 1})
	ss := c.come(t, 1, 2)
	c.write("b", nil)
	c.write("c", nil)
	c.rev++ // which the feed does not bring
	c.current = c.rev
	lost := &shard.Event{KV: shard.KeyValue{Key: []byte("x"), ModRevision: c.rev}}
	c.all = append(c.all, lost)
	c.store([]*shard.Event{lost})
	c.hub.Publish(2, shard.FeedItem{Closed: c.rev, Generation: 1, Gap: true})
	c.settle()
	behind := c.rev + 1
	for range 5 {
		c.write("d", nil)
	}
	c.expect(t, ss, 2)
	before := c.reads()
	c.expect(t, c.come(t, 1, behind), behind)
	if c.reads() != before {
		t.Error("one from behind the gap has read history")
	}
	c.expect(t, c.come(t, 1, 3), 3)
	if c.reads() == before {
		t.Error("one from before the gap has read no history")
	}
}

// TestRingsAreBounded: what is remembered of all feeds has a bound, the oldest of any goes first, and all of it goes after a while.
func TestRingsAreBounded(t *testing.T) {
	const each = 10
	c := newComers(t, func(cfg *Config) { cfg.RingBytes = 2 * each * (eventOverheadBytes + 1) })
	c.rmap = mapOf(t, 2, "r2@1", "-m", "r3@1", "m-")
	c.truth = c.rmap
	c.hub.MapChanged()
	for d := range c.truth.All() {
		c.hub.Publish(d.ID, shard.FeedItem{Closed: 1, Generation: 1})
	}
	ss := c.come(t, 1, 2)
	for range each {
		c.write("b", nil)
	}
	for range 3 * each {
		c.write("n", nil)
		if got := c.hub.Stats().RingBytes; got > 2*each*(eventOverheadBytes+1) {
			t.Fatalf("%d bytes are remembered", got)
		}
	}
	if n := c.hub.feeds.get(2).ring.items.Len(); n != 0 {
		t.Errorf("%d items of the range that is idle are kept", n)
	}
	if n := c.hub.feeds.get(3).ring.items.Len(); n != 2*each {
		t.Errorf("%d items of the other are, want %d", n, 2*each)
	}
	c.hub.Publish(2, shard.FeedItem{Closed: c.rev, Generation: 1})
	c.expect(t, ss, 2)
	for range 2 * ringEras {
		c.fire()
	}
	if got := c.hub.Stats().RingBytes; got != 0 {
		t.Errorf("%d bytes are remembered for ever", got)
	}
}
