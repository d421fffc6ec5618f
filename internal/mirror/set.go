package mirror

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/mirror/auto"
	"pontoon/shard"
)

const (
	// buildsAtOnce is how many parts are built at a time: each reads a whole range.
	buildsAtOnce = 2
	// lookEvery is how often is looked for what nobody tells of: a new map, history to forget.
	lookEvery = time.Second
	// oddMax is for how long a part may disagree with the map: its feed is to tell of what has become of its range.
	oddMax = 3 * time.Second
	// A part that was given up is built again after a pause, which grows while that fails.
	pauseMin = 100 * time.Millisecond
	pauseMax = 10 * time.Second
)

// Set is the mirrors of a process. Any number of goroutines may use it.
type Set struct {
	cfg     Config
	chooser *chooser
	*table
	builder builder
	lister  lister
	auditor auditor

	hits, misses atomic.Int64

	subscribed map[shard.RangeID]bool // of the goroutine of Run alone
}

// New makes a Set, which mirrors nothing before Run.
func New(cfg Config) *Set {
	cfg.setDefaults()
	s := &Set{cfg: cfg, subscribed: map[shard.RangeID]bool{}}
	s.chooser = newChooser(&s.cfg, disjoint(cfg.Spans))
	s.table = newTable(&s.cfg, s.chooser)
	s.builder = builder{pages: pages{&s.cfg}, table: s.table}
	s.lister = lister{cfg: &s.cfg, table: s.table}
	s.auditor = auditor{pages: pages{&s.cfg}, table: s.table}
	return s
}

// disjoint is the same keys as spans in order that do not touch.
func disjoint(spans []shard.Span) (out []shard.Span) {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b shard.Span) int { return bytes.Compare(a.Start, b.Start) })
	for _, s := range spans {
		if n := len(out); n > 0 && (out[n-1].Unbounded() || bytes.Compare(s.Start, out[n-1].End) <= 0) {
			out[n-1] = out[n-1].Hull(s)
		} else if !s.Empty() {
			out = append(out, s)
		}
	}
	return out
}

// Covers reports whether all keys of a span are to be mirrored.
func (s *Set) Covers(span shard.Span) bool { return s.chooser.covers(span) }

// Listed says that a list which went to the ranges has got so many bytes of one: those of a page, and sofar with those before it. span is what is listed of
// the range. It does not block.
func (s *Set) Listed(id shard.RangeID, span shard.Span, bytes, sofar int) {
	s.chooser.listed(id, span, bytes, sofar)
}

// Stats are the figures.
func (s *Set) Stats() Stats {
	st := s.stats()
	st.HitsTotal, st.MissesTotal = s.hits.Load(), s.misses.Load()
	st.AuditsTotal, st.WrongTotal = s.auditor.audits.Load(), s.auditor.wrong.Load()
	taken, took, gaveUp := s.chooser.figures()
	st.AutoRanges, st.AutoTakenTotal, st.AutoDroppedTotal = int64(taken), took, gaveUp
	return st
}

// MapChanged says that there may be a newer map.
func (s *Set) MapChanged() { s.kick() }

// Publish takes the next item of a range's feed. It does not block, and keeps the events.
func (s *Set) Publish(id shard.RangeID, item shard.FeedItem) { s.publish(id, &item) }

// Holds is about how many bytes there are, or have been, of the parts that have keys of a span.
func (s *Set) Holds(span shard.Span) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	over, _ := s.mu.parts.over(span)
	for _, p := range over {
		n += int64(max(p.size, p.bytes()))
	}
	return n
}

// Read answers a list. served is false where the ranges have to: they are asked anew for everything. Errors are those that a client is to be told:
// shard.ErrFutureRevision and *shard.CompactedError for a revision of its own, what the oracle fails with, or the context's.
func (s *Set) Read(ctx context.Context, req *Request) (res *Result, served bool, err error) {
	if !s.Covers(req.Span) {
		return nil, false, nil
	}
	res, err = s.lister.read(ctx, req)
	switch {
	case res != nil:
		s.hits.Add(1)
	case err == nil:
		s.misses.Add(1)
	}
	return res, res != nil || err != nil, err
}

// Audit compares every part with a replica, at one revision each, and gives up those that differ. compared is how many it could compare; the error says which
// were wrong.
func (s *Set) Audit(ctx context.Context) (compared int, err error) { return s.auditor.audit(ctx) }

// Run builds and keeps what is to be mirrored until ctx ends.
func (s *Set) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var builds sync.WaitGroup
	defer builds.Wait()
	if s.cfg.AuditEvery > 0 {
		builds.Go(func() { s.auditor.run(ctx) })
	}
	for ctx.Err() == nil {
		m, now := s.cfg.Map(), time.Now()
		s.reconcile(s.chooser.wants(m, now, s.held), m, now)
		s.subscribe()
		for p := s.next(s.subscribed, time.Now()); p != nil; p = s.next(s.subscribed, time.Now()) {
			builds.Go(func() { s.builder.bring(ctx, p) })
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case now := <-tick.C:
			s.forget(now)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.subscribed)) {
		s.cfg.Unsubscribe(id)
	}
}

// subscribe has the feeds of all parts, and no others.
func (s *Set) subscribe() {
	s.mu.Lock()
	var more []shard.RangeID
	for id := range s.mu.parts.byID {
		if !s.subscribed[id] {
			more = append(more, id)
		}
	}
	var less []shard.RangeID
	for id := range s.subscribed {
		if s.mu.parts.byID[id] == nil {
			less = append(less, id)
		}
	}
	s.mu.Unlock()
	slices.Sort(less)
	slices.Sort(more)
	for _, id := range less {
		delete(s.subscribed, id)
		s.cfg.Unsubscribe(id)
		s.forgetFeed(id)
	}
	for _, id := range more {
		s.subscribed[id] = true
		s.cfg.Subscribe(id)
	}
}

// held is what parts take, and of each range that is mirrored by itself what there is.
func (s *Set) held() (named int, autos map[shard.RangeID]auto.Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	autos = map[shard.RangeID]auto.Held{}
	for _, p := range s.mu.parts.all {
		if !p.auto {
			named += p.bytes()
			continue
		}
		h, ok := autos[p.id]
		autos[p.id] = auto.Held{Bytes: h.Bytes + p.bytes(), Whole: p.state != nil && (h.Whole || !ok)}
	}
	return named, autos
}
