package link

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pontoon/shard"
)

// twoSources are two sources of one range, each of which brings the same items at its own pace.
type twoSources struct {
	t         *testing.T
	published []shard.FeedItem
	old, next int // how many of them each has brought
	from      int // the first that the new one brings, once it is attached; -1: it is not
	m         *Move
	switched  bool
	got       []int64
	closed    int64
}

func (s *twoSources) take(item shard.FeedItem) {
	for _, e := range item.Events {
		if e.Rev() <= s.closed {
			s.t.Fatalf("event %d behind a mark at %d", e.Rev(), s.closed)
		}
		s.got = append(s.got, e.Rev())
	}
	if item.Gap || item.Closed < s.closed {
		s.t.Fatalf("a gap, or a mark that falls: %+v", item)
	}
	s.closed = item.Closed
}

// turn lets the new one bring the feed, if it can.
func (s *twoSources) turn() {
	if s.switched || s.m == nil {
		return
	}
	items, done := s.m.Done()
	for _, it := range items {
		s.take(it)
	}
	s.switched = done
}

// bring has the old source, or the new one, bring an item.
func (s *twoSources) bring(fresh bool) {
	switch {
	case fresh && s.from >= 0 && s.next < len(s.published):
		it := s.published[s.next]
		s.next++
		if s.switched {
			if it, says := s.m.After(it); says {
				s.take(it)
			}
			return
		}
		s.m.New(it)
	case !fresh && !s.switched && s.old < len(s.published):
		it := s.published[s.old]
		s.old++
		s.take(it)
		if s.m != nil {
			s.m.Old(&it)
		}
	}
	s.turn()
}

// TestAFeedMoves: whichever source is ahead, every event comes once and in order, before its mark, and the feed comes from the new source in the end.
func TestAFeedMoves(t *testing.T) {
	moved := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		s := &twoSources{t: t, from: -1}
		rev, closed, asked := int64(1), int64(1), false
		var want []int64
		publish := func() {
			it := shard.FeedItem{Generation: 1}
			for range rng.IntN(3) {
				rev += 1 + rng.Int64N(2)
				it.Events = append(it.Events, events(1, rev)...)
				want = append(want, rev)
			}
			if rng.IntN(2) == 0 {
				closed = max(closed, rev-rng.Int64N(2))
			}
			it.Closed = closed
			s.published = append(s.published, it)
		}
		for step := range 120 {
			switch rng.IntN(4) {
			case 0:
				publish()
			case 1, 2:
				s.bring(rng.IntN(2) == 0)
			case 3:
				switch {
				case step < 10:
				case s.m == nil:
					s.m = NewMove(1, s.closed, nil)
				case s.from < 0:
					s.from = rng.IntN(len(s.published) + 1) // whichever is ahead
					s.next = s.from
					s.m.New(shard.FeedItem{Generation: 1, Gap: true, Closed: 0})
				case !asked && s.m.Attached():
					asked = true
					s.m.Whole(max(rev, 1)) // the oracle's answer: everything so far, and no more than is published later
				}
			}
		}
		if !asked {
			continue
		}
		rev++ // something more, and all of it is closed
		s.published = append(s.published, shard.FeedItem{Generation: 1, Events: events(1, rev), Closed: rev})
		want = append(want, rev)
		for range 2 * len(s.published) {
			s.bring(false)
			s.bring(true)
		}
		if !slices.Equal(s.got, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, s.got, want)
		}
		if s.m.Failed() || !s.switched || !s.m.Settled() {
			t.Fatalf("seed %d: not moved: %+v", seed, s.m)
		}
		moved++
	}
	if moved < 200 {
		t.Errorf("%d moves: the runs are too tame", moved)
	}
}

// TestAFeedStays: where its range changes meanwhile, where a source loses something, and where the new one brings more than is kept.
func TestAFeedStays(t *testing.T) {
	cutItem := cut(9, 3)
	for what, spoil := range map[string]func(m *Move){
		"a gap of the old one":    func(m *Move) { m.Old(&shard.FeedItem{Generation: 1, Gap: true}) },
		"a border of the old one": func(m *Move) { m.Old(&cutItem) },
		"another generation":      func(m *Move) { m.Old(&shard.FeedItem{Generation: 2, Closed: 5}) },
		"a gap of the new one":    func(m *Move) { m.New(shard.FeedItem{Generation: 1, Gap: true}) },
		"a border of the new one": func(m *Move) { m.New(cutItem) },
		"too much":                func(m *Move) { m.New(shard.FeedItem{Generation: 1, Events: events(moveBytesMax, 8)}) },
	} {
		m := NewMove(1, 3, nil)
		m.New(shard.FeedItem{Generation: 1, Gap: true})
		if !m.Attached() {
			t.Fatal("not attached")
		}
		m.Whole(5)
		spoil(m)
		m.Old(&shard.FeedItem{Generation: 1, Closed: 10})
		if _, done := m.Done(); done || !m.Failed() {
			t.Errorf("%s: it moves", what)
		}
	}
}
