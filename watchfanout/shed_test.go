package watchfanout

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pontoon/shard"
)

// crowd is a hub with streams that all watch everything.
type crowd struct {
	*world
	all []*Stream
	rev int64
}

func newCrowd(t *testing.T, streams int, tune func(*Config), o StreamOptions) *crowd {
	c := &crowd{world: newWorld(t, tune), rev: 1}
	c.current = 1
	for range streams {
		c.all = append(c.all, c.hub.NewStream(o))
	}
	for _, s := range c.all {
		if err := s.Watch(WatchRequest{ID: 1, Span: shard.All, Start: 2, FromNow: true}); err != nil {
			t.Fatal(err)
		}
	}
	c.settle()
	c.hub.Publish(2, shard.FeedItem{Closed: 1})
	c.settle()
	return c
}

// put publishes an event of so many bytes.
func (c *crowd) put(bytes int) {
	c.rev++
	e := shard.NewEvents(1)[0]
	e.KV = shard.KeyValue{Key: fmt.Appendf(nil, "%06d", c.rev), Value: []byte(strings.Repeat("v", bytes-6)), ModRevision: c.rev}
	c.store([]*shard.Event{e})
	c.hub.Publish(2, shard.FeedItem{Events: []*shard.Event{e}, Closed: c.rev})
	c.settle()
}

// takes reads all that a stream has, until there is no more, and returns the revisions of the events.
func (c *crowd) takes(s *Stream) (revs []int64) {
	for _, d := range c.reads(s) {
		for _, e := range d.Events {
			revs = append(revs, e.Rev())
		}
	}
	return revs
}

// reads is takes for all deliveries. A reader that finds nothing has come all the same, and is brought what was taken from it.
func (c *crowd) reads(s *Stream) (all []Delivery) {
	for nothing := 0; nothing < 2; {
		got := s.Poll(nil, 100)
		if len(got) == 0 {
			nothing++
		}
		all = append(all, got...)
		c.settle()
	}
	return all
}

func consecutive(revs []int64, from, to int64) bool {
	for _, r := range revs {
		if r != from {
			return false
		}
		from++
	}
	return from == to+1
}

const kib = 1 << 10

// TestCountedOnce: an event that a thousand wait for takes as much as one that one waits for, but for their places in the queues.
func TestCountedOnce(t *testing.T) {
	c := newCrowd(t, 1000, nil, StreamOptions{})
	c.put(100 * kib)
	if got, want := c.hub.Stats().DeliveryBytes, int64(1000*entryBytes+eventOverheadBytes+200*kib); got != want {
		t.Errorf("%d bytes wait, want %d", got, want)
	}
	for i, s := range c.all {
		if i%2 == 0 {
			s.Close()
		} else {
			c.takes(s)
		}
	}
	if got := c.hub.Stats().DeliveryBytes; got != 0 {
		t.Errorf("%d bytes wait for nobody", got)
	}
}

// TestDeliveryIsBounded: readers that take nothing hold no more together than there is room for. They lose nothing: whoever takes again gets all there was.
// Nobody else notices.
func TestDeliveryIsBounded(t *testing.T) {
	const room = 1 << 20
	c := newCrowd(t, 10, func(cfg *Config) { cfg.DeliveryBytes, cfg.RingBytes = room, 64<<20 }, StreamOptions{})
	quick, lazy, stuck := c.all[0], c.all[1], c.all[2:]
	var got []int64
	for i := range 300 {
		c.put(10 * kib)
		if held := c.hub.Stats().DeliveryBytes; held > room {
			t.Fatalf("%d bytes wait", held)
		}
		got = append(got, c.takes(quick)...)
		if i%20 == 0 {
			c.takes(lazy) // what has come in 400 KiB
		}
	}
	if !consecutive(got, 2, c.rev) {
		t.Errorf("the one that takes got %v", got)
	}
	s := c.hub.Stats()
	if s.ParkedWatchers != int64(len(stuck)) || s.SlowWatchers != int64(len(stuck)) {
		t.Errorf("%d watchers are parked, %d slow: %d take nothing", s.ParkedWatchers, s.SlowWatchers, len(stuck))
	}
	if want := int64(len(stuck)); s.ShedTotal != want {
		t.Errorf("queues were given up %d times, want %d: once given up they are not to fill again", s.ShedTotal, want)
	}
	for _, st := range stuck {
		if revs := c.takes(st); !consecutive(revs, 2, c.rev) {
			t.Errorf("one that takes again got %v", revs)
		}
	}
	c.takes(lazy)
	if s := c.hub.Stats(); s.ParkedWatchers != 0 || s.SlowWatchers != 0 || s.DeliveryBytes != 0 {
		t.Errorf("all have taken all: %+v", s)
	}
}

// TestWhoIsFurthestBehind: the one who has let something wait for longest is taken it, also where others read what is older.
func TestWhoIsFurthestBehind(t *testing.T) {
	c := newCrowd(t, 2, func(cfg *Config) { cfg.DeliveryBytes, cfg.RecentEvents = 2<<20, 1 }, StreamOptions{})
	for range 20 {
		c.put(10 * kib)
		c.takes(c.all[0])
		c.takes(c.all[1])
	}
	c.put(400 * kib)
	c.takes(c.all[0])
	back := c.hub.NewStream(StreamOptions{})
	if err := back.Watch(WatchRequest{ID: 1, Span: shard.All, Start: 2}); err != nil {
		t.Fatal(err)
	}
	c.settle() // its first step of history waits: old, but new in the queue
	for range 4 {
		c.put(50 * kib)
		c.takes(c.all[0])
	}
	if s := c.hub.Stats(); s.ShedTotal != 1 {
		t.Fatalf("queues were given up %d times", s.ShedTotal)
	}
	if _, waits := c.all[1].mu.out.oldest(); waits {
		t.Error("the one that has let it wait for longest keeps it")
	}
	if _, waits := back.mu.out.oldest(); !waits {
		t.Error("the one that has just begun was taken what it read")
	}
}

// TestConnectionIsBounded: streams of one connection hold no more together than their group has room for; the one furthest behind gives way to the others.
func TestConnectionIsBounded(t *testing.T) {
	g := NewGroup(1 << 20)
	c := newCrowd(t, 5, func(cfg *Config) { cfg.Dispatchers = 2 }, StreamOptions{Group: g})
	for range 40 {
		c.put(20 * kib)
		if held := g.bytes.Load(); held > 1<<20 {
			t.Fatalf("%d bytes wait", held)
		}
		c.takes(c.all[0])
	}
	if s := c.hub.Stats(); s.ShedTotal == 0 || s.ShedTotal > 4 || c.all[0].mu.load.shed {
		t.Errorf("queues were given up %d times, of 4 that take nothing", s.ShedTotal)
	}
	for i, s := range c.all[1:] {
		if revs := c.takes(s); !consecutive(revs, 2, c.rev) {
			t.Errorf("stream %d got %v", i+1, revs)
		}
	}
	for _, s := range c.all {
		s.Close()
	}
	if held := g.bytes.Load(); held != 0 || len(g.mu.streams) != 0 {
		t.Errorf("%d bytes wait, in %d streams", held, len(g.mu.streams))
	}
}

// TestMarkerOfWhatWasGivenUp: a marker that stood behind events which were given up comes once they have come.
func TestMarkerOfWhatWasGivenUp(t *testing.T) {
	c := newCrowd(t, 2, func(cfg *Config) { cfg.DeliveryBytes = 1 << 20 }, StreamOptions{})
	st := c.all[0]
	c.put(20 * kib)
	st.RequestProgress(c.rev)
	st.RequestWatcherProgress(1, c.rev)
	c.settle()
	asked := c.rev
	for range 40 {
		c.put(20 * kib)
		c.takes(c.all[1])
	}
	if c.hub.Stats().ShedTotal == 0 {
		t.Fatal("nothing was given up")
	}
	if rev, _ := st.Progress(); rev >= 2 {
		t.Fatalf("it was handed out up to %d, it is said; it has taken nothing", rev)
	}
	var last, markers int64
	for _, d := range c.reads(st) {
		if len(d.Events) > 0 {
			last = d.Revision
			continue
		}
		markers++
		if d.Revision > last || d.Revision < asked {
			t.Errorf("told %d where %d was asked for and %d has come", d.Revision, asked, last)
		}
	}
	if markers != 2 || last != c.rev {
		t.Errorf("%d markers, and events up to %d of %d", markers, last, c.rev)
	}
}

// TestGivenUpUntilTheReaderComes: a stream that was taken what waited for its reader is given nothing more before that has come, for whichever of its watches.
func TestGivenUpUntilTheReaderComes(t *testing.T) {
	c := newCrowd(t, 2, nil, StreamOptions{})
	st := c.all[0]
	if err := st.Watch(WatchRequest{ID: 2, Span: shard.Point([]byte("000010")), Start: 2, FromNow: true}); err != nil {
		t.Fatal(err)
	}
	for c.rev < 8 {
		c.put(20 * kib)
		c.takes(c.all[1])
	}
	c.put(20 * kib)
	if !st.d.shedding.giveUp(st, math.MaxInt64) {
		t.Fatal("nothing was given up")
	}
	c.put(20 * kib)
	c.takes(c.all[1])
	if s := c.hub.Stats(); s.ParkedWatchers != 2 || s.DeliveryBytes != 0 {
		t.Errorf("both watches wait for their reader: %+v", s)
	}
	of := map[int64][]int64{}
	for _, d := range c.reads(st) {
		for _, e := range d.Events {
			of[d.ID] = append(of[d.ID], e.Rev())
		}
	}
	if !consecutive(of[1], 2, 10) || !consecutive(of[2], 10, 10) {
		t.Errorf("the reader got %v", of)
	}
}

// TestComingBackTogether: the watches of a stream that reads again do not fill the budget with what they read, and so give it up, unread, again and again.
func TestComingBackTogether(t *testing.T) {
	const watches = 30
	c := newCrowd(t, 1, func(cfg *Config) { cfg.DeliveryBytes, cfg.ReadBytes = 16<<20, 2*eventOverheadBytes }, StreamOptions{})
	st := c.hub.NewStream(StreamOptions{})
	for id := range int64(watches) {
		if err := st.Watch(WatchRequest{ID: id, Span: shard.Point(fmt.Appendf(nil, "%06d", id+2)), Start: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for range watches {
		c.put(900 * kib)
		c.takes(c.all[0])
	}
	given := c.hub.Stats().ShedTotal
	got := c.takes(st)
	slices.Sort(got)
	if !consecutive(got, 2, watches+1) {
		t.Errorf("it got %v", got)
	}
	if s := c.hub.Stats(); s.ShedTotal > given {
		t.Errorf("what came back was given up %d times", s.ShedTotal-given)
	}
}
