package link

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func span(from, to string) shard.Span { return shard.Span{Start: []byte(from), End: []byte(to)} }

func keyed(key string, rev int64) *shard.Event {
	return &shard.Event{KV: shard.KeyValue{Key: []byte(key), ModRevision: rev}}
}

// TestASourceFilters: who names spans gets their keys alone, to the borders, and all marks; a child's feed is of the same.
func TestASourceFilters(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2, span("b", "d"), span("f", "g"))
	b.ask()
	b.publish(2, shard.FeedItem{Generation: 1, Index: 2, Closed: 3, Events: []*shard.Event{keyed("a", 2), keyed("b", 3)}})
	b.publish(2, shard.FeedItem{Generation: 1, Index: 3, Closed: 4, Events: []*shard.Event{keyed("d", 4), keyed("g", 4)}})
	b.want("the first two", "2@1 gap c1", "2@1 e3 c4")
	b.publish(2, shard.FeedItem{Generation: 1, Index: 4, Closed: 6, Events: []*shard.Event{keyed("e", 5), keyed("g", 6)}})
	b.want("nothing but a mark", "2@1 c6")
	border := shard.FeedItem{Generation: 1, Index: 5, Closed: 6, Border: &shard.Border{At: []byte("e"), Child: 3, Generation: 2}}
	if !b.source.PublishBorder(2, NewItem(border)) {
		t.Fatal("the child's feed does not come")
	}
	b.publish(3, shard.FeedItem{Generation: 2, Index: 1, Closed: 9, Events: []*shard.Event{keyed("e", 7), keyed("f", 8), keyed("g", 9)}})
	b.want("behind the border", "2@1 border of 3 c6", "3@2 c6", "3@2 e8 c9")
	if c := b.sink.Cover(3); c.Whole() || !c.Same(b.sink.Cover(2)) {
		t.Errorf("the child's feed brings %v, its parent's %v", c, b.sink.Cover(2))
	}
}

// TestASpanIsAdded: who needs more subscribes anew, and nothing of the subscription that is over counts for it.
func TestASpanIsAdded(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2, span("b", "c"))
	b.ask()
	b.publish(2, shard.FeedItem{Generation: 1, Closed: 2, Events: []*shard.Event{keyed("b", 2)}})
	old, err := b.source.Next() // on its way
	if err != nil {
		t.Fatal(err)
	}
	if b.sink.Widen(2, []shard.Span{span("b", "bb")}) {
		t.Error("it is subscribed to anew for what it brings")
	}
	if !b.sink.Widen(2, []shard.Span{span("b", "d")}) || b.sink.Widen(2, []shard.Span{span("b", "d")}) {
		t.Error("it is not subscribed to anew, once")
	}
	if _, err := b.sink.Take(old, b); err != nil {
		t.Fatal(err)
	}
	b.want("of the subscription that is over")
	b.ask()
	b.publish(2, shard.FeedItem{Generation: 1, Closed: 3, Events: []*shard.Event{keyed("c", 3)}})
	b.want("anew", "2@1 gap c1", "2@1 e3 c3")
	if !b.sink.Widen(2, nil) {
		t.Error("it is not subscribed to whole")
	}
	b.ask()
	b.publish(2, shard.FeedItem{Generation: 1, Closed: 4, Events: []*shard.Event{keyed("x", 4)}})
	b.want("whole", "2@1 gap c1", "2@1 e4 c4")
	if c := b.sink.Cover(2); !c.Whole() {
		t.Errorf("the feed brings %v", c)
	}
}

// TestASourceThatKnowsNoSpans brings every key, and is taken at its word.
func TestASourceThatKnowsNoSpans(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2, span("b", "c"))
	b.sink.Ask()
	b.source.Attach(2, shard.FeedItem{Closed: 1, Generation: 1})
	b.publish(2, shard.FeedItem{Generation: 1, Closed: 2, Events: []*shard.Event{keyed("x", 2)}})
	b.want("all", "2@1 gap c1", "2@1 e2 c2")
	if c := b.sink.Cover(2); !c.Whole() {
		t.Errorf("the feed brings %v", c)
	}
	if b.sink.Widen(2, []shard.Span{span("x", "y")}) {
		t.Error("it is subscribed to anew though it brings everything")
	}
}

// TestHostileSpans: what no Sink names is refused, with the reason.
func TestHostileSpans(t *testing.T) {
	many := make([]shard.Span, 65)
	for i := range many {
		many[i] = shard.Point([]byte{byte(i)})
	}
	long := strings.Repeat("x", 9<<10)
	for what, spans := range map[string][]shard.Span{
		"65 spans": many, "not sorted": {span("c", "d"), span("a", "b")}, "touching": {span("a", "b"), span("b", "c")}, "empty": {span("b", "a")},
		"behind the last": {{Start: []byte("a")}, span("b", "c")}, "long": {{Start: []byte(long + "a"), End: []byte(long + "b")}},
	} {
		if err := NewSource(Limits{}).Ask(&pb.LinkSpans{RangeId: 2, Serial: 1, Spans: pb.FromSpans(spans)}); err == nil || !strings.Contains(err.Error(), "range 2: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := NewSource(Limits{Spans: 100})
	var err error
	for id := uint64(2); err == nil && id < 100; id++ {
		err = s.Ask(&pb.LinkSpans{RangeId: id, Serial: id, Spans: pb.FromSpans([]shard.Span{span("0123456789", "1123456789")})})
	}
	if err == nil || s.asked.bytes > 200 {
		t.Errorf("%d bytes of spans are kept: %v", s.asked.bytes, err)
	}
}

// narrowRun is a feed that comes by one link after another, of ever more keys, from replicas that lag or lead.
type narrowRun struct {
	t       *testing.T
	rng     *rand.Rand
	log     *logged
	spans   []shard.Span // nil: every key
	source  *Source
	sink    *Sink
	applied int // entries of the log, by the source
	head    Head
	move    *Move
	asked   bool // the oracle, for move
	taken   bool // move is done

	from    map[string]int64 // of each key that comes: above it nothing is missing
	came    map[int64]bool
	last    int64
	added   int
	resumed int
}

var narrowKeys = []string{"a", "b", "c", "d", "e", "f"}

func (r *narrowRun) Inherit(_, _ shard.RangeID) bool { return false }

// Publish takes what the link brings.
func (r *narrowRun) Publish(_ shard.RangeID, it shard.FeedItem) {
	switch {
	case r.move == nil && it.Gap:
		if r.move, r.asked, r.taken = r.head.Resume(it), false, false; r.move == nil {
			r.bring(it)
			return
		}
		r.turn()
	case r.move == nil:
		r.bring(it)
	case r.taken:
		if out, says := r.move.After(it); says {
			r.bring(out)
		}
		r.settle()
	default:
		if r.move.New(it); it.Gap {
			r.move = nil
			r.Publish(2, it)
			return
		}
		r.turn()
	}
}

func (r *narrowRun) turn() {
	items, done := r.move.Done()
	if !done {
		return
	}
	r.taken = true
	r.resumed++
	for _, it := range items {
		r.bring(it)
	}
	r.settle()
}

func (r *narrowRun) settle() {
	if r.move.Settled() {
		r.move = nil
	}
}

// bring is what the feed's listener hears.
func (r *narrowRun) bring(it shard.FeedItem) {
	r.head.Take(&it)
	if it.Gap {
		r.from, r.last = map[string]int64{}, 0
	}
	if it.Gap || it.Cover != nil {
		for _, k := range narrowKeys {
			comes := it.Cover.Whole() || shard.SpansContain(it.Cover.Spans, []byte(k))
			_, came := r.from[k]
			switch {
			case it.Gap && comes:
				r.from[k] = r.log.rev // the oracle is asked now
			case comes && !came:
				r.from[k] = it.Cover.From
				r.added++
			case !comes:
				delete(r.from, k)
			}
		}
	}
	for _, e := range it.Events {
		if e.Rev() <= r.last {
			r.t.Fatalf("event %d comes behind %d", e.Rev(), r.last)
		}
		r.whole(e.Rev() - 1)
		r.last, r.came[e.Rev()] = e.Rev(), true
	}
	r.whole(it.Closed)
}

// whole fails where something is missing up to a revision.
func (r *narrowRun) whole(rev int64) {
	for _, it := range r.log.entries {
		for _, e := range it.Events {
			if from, comes := r.from[string(e.KV.Key)]; comes && e.Rev() > from && e.Rev() <= rev && !r.came[e.Rev()] {
				r.t.Fatalf("%d of %q is missing up to %d; it comes from %d on", e.Rev(), e.KV.Key, rev, from)
			}
		}
	}
}

func (r *narrowRun) begin() shard.FeedItem {
	it := shard.FeedItem{Generation: 1, Gap: true, Index: uint64(r.applied)}
	if r.applied > 0 {
		it.Closed = r.log.entries[r.applied-1].Closed
	}
	return it
}

// open lets the feed come by another link, from another replica.
func (r *narrowRun) open() {
	r.source, r.sink, r.applied = NewSource(Limits{}), NewSink(), r.rng.IntN(len(r.log.entries)+1)
	r.sink.Subscribe(2, r.spans...)
	r.move = nil
}

func (r *narrowRun) ask() {
	req := r.sink.Ask()
	for range req.GetUnsubscribe() {
		r.source.Detach(2)
	}
	for _, m := range req.GetSpans() {
		if err := r.source.Ask(m); err != nil {
			r.t.Fatal(err)
		}
	}
	if len(req.GetSubscribe()) > 0 {
		r.source.Attach(2, r.begin())
	}
}

func (r *narrowRun) carry() bool {
	fr, err := r.source.Next()
	if err != nil {
		r.t.Fatal(err)
	}
	if fr == nil {
		return false
	}
	if _, err := r.sink.Take(wired(r.t, fr), r); err != nil {
		r.t.Fatal(err)
	}
	return true
}

// live lets the source publish the next entry.
func (r *narrowRun) live() {
	if r.applied < len(r.log.entries) {
		it := r.log.entries[r.applied]
		r.applied++
		r.source.Publish(2, NewItem(it))
	}
}

// mend asks the oracle, or reads of history what is missing of the keys that came.
func (r *narrowRun) mend() {
	switch {
	case r.move == nil || r.taken:
	case !r.asked:
		r.asked = true
		r.move.Whole(max(r.log.rev, 1))
		r.turn()
	default:
		from, to := r.move.Missing()
		evs, next := r.log.history(from, to)
		spans := r.move.Spans(shard.All)
		evs = slices.DeleteFunc(evs, func(e *shard.Event) bool { return !shard.SpansContain(spans, e.KV.Key) })
		it := r.move.Read(evs, next)
		r.bring(it)
		r.move.Old(&it)
		r.turn()
	}
}

// widen wants one more key, or all.
func (r *narrowRun) widen() {
	if r.spans == nil {
		return
	}
	k := narrowKeys[r.rng.IntN(len(narrowKeys))]
	if r.spans = shard.JoinSpans(r.spans, shard.Point([]byte(k))); r.rng.IntN(20) == 0 {
		r.spans = nil
	}
	if r.move == nil || r.rng.IntN(4) == 0 {
		if r.sink.Widen(2, r.spans) {
			r.move = nil
		}
	}
}

func (r *narrowRun) step() {
	switch r.rng.IntN(12) {
	case 0, 1, 2:
		r.log.write()
		for _, e := range r.log.entries[len(r.log.entries)-1].Events {
			e.KV.Key = []byte(narrowKeys[r.rng.IntN(len(narrowKeys))])
		}
	case 3, 4, 5:
		r.live()
	case 6, 7:
		r.carry()
	case 8:
		r.ask()
	case 9:
		r.mend()
	case 10:
		r.widen()
	case 11:
		if r.rng.IntN(4) == 0 {
			r.open()
		}
	}
}

// TestANarrowFeedIsWidened: whatever happens to its links, of each key that a feed is said to bring from a revision on nothing is missing, and nothing comes twice; and in the end
// everything has come.
func TestANarrowFeedIsWidened(t *testing.T) {
	added, resumed := 0, 0
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		r := &narrowRun{t: t, rng: rng, log: &logged{rng: rng}, spans: []shard.Span{shard.Point([]byte("c"))}, from: map[string]int64{}, came: map[int64]bool{}}
		r.open()
		for range 300 {
			r.step()
		}
		r.log.rev++
		r.log.closed = r.log.rev
		r.log.entries = append(r.log.entries, shard.FeedItem{Generation: 1, Index: uint64(len(r.log.entries) + 1), Closed: r.log.rev, Events: []*shard.Event{keyed("c", r.log.rev)}})
		for range 200 + len(r.log.entries) {
			r.ask()
			r.live()
			r.mend()
			r.carry()
		}
		if r.whole(r.log.rev); !r.came[r.log.rev] {
			t.Fatalf("seed %d: the last event has not come", seed)
		}
		added, resumed = added+r.added, resumed+r.resumed
	}
	if added < 500 || resumed < 1000 {
		t.Errorf("%d keys were added and %d feeds resumed: the runs are too tame", added, resumed)
	}
}

// TestWhole: who needs every key has nothing of a feed that brings some, and it begins anew for them where it brings all.
func TestWhole(t *testing.T) {
	some, all := &shard.Cover{Spans: []shard.Span{span("a", "b")}}, &shard.Cover{Spans: []shard.Span{shard.All}, From: 7}
	w := Whole{}
	for i, step := range []struct {
		item      shard.FeedItem
		says, gap bool
	}{
		{shard.FeedItem{Closed: 1}, true, false},
		{shard.FeedItem{Gap: true, Cover: some}, false, false},
		{shard.FeedItem{Closed: 2}, false, false},
		{shard.FeedItem{Closed: 7, Cover: all}, true, true},
		{shard.FeedItem{Closed: 8}, true, false},
		{shard.FeedItem{Closed: 9, Cover: all}, true, false},
		{shard.FeedItem{Closed: 9, Cover: some}, false, false},
		{shard.FeedItem{Gap: true}, true, true},
	} {
		out, says := w.Take(step.item)
		if says != step.says || says && (out.Gap != step.gap || out.Cover != nil) {
			t.Errorf("step %d: %+v, %v", i, out, says)
		}
	}
}
