package link

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pontoon/shard"
)

// logged is the log of a range: what each entry brings, and what is closed behind it.
type logged struct {
	rng     *rand.Rand
	entries []shard.FeedItem // by index, from 1
	rev     int64
	closed  int64
}

func (l *logged) write() {
	it := shard.FeedItem{Generation: 1, Index: uint64(len(l.entries) + 1)}
	for range l.rng.IntN(3) {
		l.rev++
		it.Events = append(it.Events, events(1, l.rev)...)
	}
	if l.rng.IntN(2) == 0 {
		l.closed = max(l.closed, l.rev-l.rng.Int64N(2))
	}
	it.Closed = l.closed
	l.entries = append(l.entries, it)
}

// history are the events from a revision to another, not all of them at once, and no further than is closed.
func (l *logged) history(from, to int64) (evs []*shard.Event, next int64) {
	to = min(to, l.closed, from+l.rng.Int64N(4))
	for _, it := range l.entries {
		for _, e := range it.Events {
			if e.Rev() >= from && e.Rev() <= to {
				evs = append(evs, e)
			}
		}
	}
	return evs, max(from, to+1)
}

// brokenFeed is a feed whose sources break again and again, each of which is a replica that has applied less or more.
type brokenFeed struct {
	t       *testing.T
	log     *logged
	head    Head
	applied int // entries, by the source that brings it; -1: there is none
	move    *Move
	whole   bool // the oracle was asked
	got     []int64
	gaps    int
}

func (b *brokenFeed) bring(it shard.FeedItem) {
	b.head.Take(&it)
	if it.Gap {
		b.gaps++
	}
	for _, e := range it.Events {
		if n := len(b.got); n > 0 && e.Rev() <= b.got[n-1] {
			b.t.Fatalf("event %d comes behind %d", e.Rev(), b.got[n-1])
		}
		b.got = append(b.got, e.Rev())
	}
	for i, e := range b.log.entries {
		for _, e := range e.Events {
			_, came := slices.BinarySearch(b.got, e.Rev())
			if at := b.head.index; at > 0 && (uint64(i) < at && b.gaps == 1) != came {
				b.t.Fatalf("the log is said to stand at %d: %d of entry %d has come: %v", at, e.Rev(), i+1, came)
			}
		}
	}
	for rev := int64(1); rev <= it.Closed && b.gaps == 1; rev++ { // 1 is how every feed begins
		if _, there := slices.BinarySearch(b.got, rev); !there {
			b.t.Fatalf("closed at %d, and %d has not come of %v", it.Closed, rev, b.got)
		}
	}
}

// attach lets another source bring the feed.
func (b *brokenFeed) attach() {
	b.applied = b.log.rng.IntN(len(b.log.entries) + 1)
	begin := shard.FeedItem{Generation: 1, Gap: true, Index: uint64(b.applied)}
	if b.applied > 0 {
		begin.Closed = b.log.entries[b.applied-1].Closed
	}
	if b.log.rng.IntN(3) == 0 {
		begin.Index = 0 // a gateway that does not know
	}
	b.move, b.whole = b.head.Resume(begin), false
	if b.move == nil {
		b.bring(begin)
		return
	}
	b.turn()
}

func (b *brokenFeed) turn() {
	if b.move == nil || b.move.Settled() || b.move.settling() {
		return
	}
	items, _ := b.move.Done()
	for _, it := range items {
		b.bring(it)
	}
}

// settling reports whether the new source goes on, behind what the old one had brought.
func (m *Move) settling() bool { return m.has > 0 }

// live is the next entry of the source.
func (b *brokenFeed) live() {
	if b.applied < 0 || b.applied == len(b.log.entries) {
		return
	}
	it := b.log.entries[b.applied]
	b.applied++
	switch {
	case b.move == nil:
		b.bring(it)
	case b.move.Settled() || b.move.settling():
		if out, says := b.move.After(it); says {
			b.bring(out)
		}
	default:
		b.move.New(it)
		b.turn()
	}
}

// replay asks the oracle, or reads history.
func (b *brokenFeed) replay() {
	if b.applied < 0 || b.move == nil || b.move.Settled() || b.move.settling() {
		return
	}
	if !b.whole {
		b.whole = true
		b.move.Whole(b.log.rev)
		b.turn()
		return
	}
	from, to := b.move.Missing()
	if evs, next := b.log.history(from, to); next > from {
		it := b.move.Read(evs, next)
		b.bring(it)
		b.move.Old(&it)
		b.turn()
	}
}

// TestABrokenFeedGoesOn: whatever replica brings it next, every event comes once, in order and before its mark, without a gap.
func TestABrokenFeedGoesOn(t *testing.T) {
	breaks, reads := 0, 0
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		log := &logged{rng: rng, rev: 1, closed: 1}
		b := &brokenFeed{t: t, log: log, applied: -1, got: []int64{1}}
		b.bring(shard.FeedItem{Generation: 1, Gap: true, Closed: 1})
		for range 150 {
			switch rng.IntN(8) {
			case 0, 1:
				log.write()
			case 2, 3, 4:
				b.live()
			case 5, 6:
				b.replay()
				reads++
			case 7:
				if rng.IntN(3) == 0 {
					b.attach()
					breaks++
				}
			}
		}
		log.rev++
		log.closed = log.rev
		log.entries = append(log.entries, shard.FeedItem{Generation: 1, Index: uint64(len(log.entries) + 1), Events: events(1, log.rev), Closed: log.rev})
		b.attach()
		for range 10 * len(log.entries) {
			b.replay()
			b.live()
		}
		if n := len(b.got); b.gaps != 1 || n != int(log.rev) || b.got[n-1] != log.rev {
			t.Fatalf("seed %d: %d gaps; got %v of %d", seed, b.gaps, b.got, log.rev)
		}
	}
	if breaks < 5000 || reads < 10000 {
		t.Errorf("%d sources broke, and %d times history was asked: the runs are too tame", breaks, reads)
	}
}

// TestWhatCannotGoOn: a feed of which nothing is known, or nothing was final, and a range that has changed.
func TestWhatCannotGoOn(t *testing.T) {
	known := Head{}
	known.Take(&shard.FeedItem{Generation: 2, Closed: 5, Index: 9})
	begin := shard.FeedItem{Generation: 2, Gap: true, Closed: 7}
	changed, merged := begin, begin
	changed.Generation, merged.Generation = 3, 1
	border := begin
	border.Border = &shard.Border{Child: 9, Generation: 3}
	early := Head{}
	early.Take(&shard.FeedItem{Generation: 2})
	for what, m := range map[string]*Move{
		"a feed that has not come": (&Head{}).Resume(begin), "nothing final": early.Resume(begin), "a newer generation": known.Resume(changed),
		"an older generation": known.Resume(merged), "a border": known.Resume(border),
	} {
		if m != nil {
			t.Errorf("%s: goes on", what)
		}
	}
	m := known.Resume(begin)
	m.New(shard.FeedItem{Generation: 2, Events: events(1, 9), Closed: 8, Epoch: 3, Index: 11})
	if m.Failed() || m.Kept() == 0 || m.Generation() != 2 {
		t.Errorf("%+v", m)
	}
	m.Whole(9)
	if from, to := m.Missing(); from != 6 || to != 9 {
		t.Errorf("missing %d to %d", from, to)
	}
	if it := m.Abandon(); !it.Gap || it.Closed != 8 || it.Index != 11 || it.Epoch != 3 || len(it.Events) > 0 || m.Kept() != 0 {
		t.Errorf("begins anew with %+v", it)
	}
	if it, says := m.After(shard.FeedItem{Generation: 2, Events: events(1, 7)}); !says || len(it.Events) != 1 {
		t.Error("what comes behind a gap comes as it is")
	}
}

// TestAFeedGoesOnWithTheSameKeys: in a later generation of its range a feed goes on where the range has the keys that it had, which items tell and, where they do not, a map.
func TestAFeedGoesOnWithTheSameKeys(t *testing.T) {
	span := func(from, to string) shard.Span { return shard.Span{Start: []byte(from), End: []byte(to)} }
	item := func(g shard.Generation) *shard.FeedItem {
		return &shard.FeedItem{Generation: g, Closed: 5, Index: uint64(g)}
	}
	merged, cutOff := item(4), item(3)
	merged.Gap, cutOff.Border = true, &shard.Border{At: []byte("k"), Child: 9, Generation: 4}
	whole := shard.Descriptor{Generation: 3, Span: span("a", "m")}
	for _, tt := range []struct {
		what  string
		items []*shard.FeedItem // behind one of generation 3, with whole learned
		now   shard.Span        // in generation 7
		known bool
		same  bool
	}{
		{"nothing has come", nil, span("a", "m"), true, true},
		{"it has been cut", nil, span("a", "k"), true, false},
		{"changes that leave the keys", []*shard.FeedItem{item(4), item(5)}, span("a", "m"), true, true},
		{"a border", []*shard.FeedItem{cutOff, item(4)}, span("a", "k"), true, true},
		{"a border alone", []*shard.FeedItem{cutOff}, span("a", "k"), true, true},
		{"a border, and it is merged again", []*shard.FeedItem{cutOff, item(4)}, span("a", "m"), true, false},
		{"a gap", []*shard.FeedItem{merged}, span("a", "m"), false, false},
		{"a generation that was not heard of", []*shard.FeedItem{item(5)}, span("a", "m"), true, true},
	} {
		h := Head{}
		h.Take(item(3))
		if !h.LacksKeys() {
			t.Fatal("knows the keys of its own")
		}
		h.Learn(&shard.Descriptor{Generation: 2, Span: span("x", "z")})
		h.Learn(&whole)
		for _, it := range tt.items {
			h.Take(it)
		}
		m := h.Resume(shard.FeedItem{Generation: 7, Gap: true, Closed: 5, Index: 1})
		if (m != nil) != tt.known {
			t.Errorf("%s: goes on: %v", tt.what, m != nil)
		}
		if m == nil {
			continue
		}
		m.Whole(5)
		if _, done := m.Done(); done {
			t.Errorf("%s: goes on before the keys were compared", tt.what)
		}
		if same := m.Keys(&shard.Descriptor{Generation: 7, Span: tt.now}); same != tt.same {
			t.Errorf("%s: the same keys: %v", tt.what, same)
		}
		if _, done := m.Done(); done != tt.same {
			t.Errorf("%s: goes on: %v", tt.what, done)
		}
	}
}
