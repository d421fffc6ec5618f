package watchfanout

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"pontoon/shard"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed of the random test only")
	seedsFlag = flag.Uint64("seeds", 150, "how many seeds the random test runs; half as many with -short")
)

// TestRandom runs a hub over ranges that publish, pause, lose items, split and merge in any
// interleaving, with watches of every kind and readers of every speed, and holds what they get
// against the whole history: in order, complete, nothing twice, whole revisions, true progress.
func TestRandom(t *testing.T) {
	if *seedFlag != 0 {
		runRandom(t, *seedFlag)
		return
	}
	seeds := *seedsFlag
	if testing.Short() {
		seeds = (seeds + 1) / 2
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { runRandom(t, seed) }) {
			t.Fatalf("FAIL: go test ./watchfanout -run TestRandom -seed=%d", seed)
		}
	}
}

const (
	rndKeys      = 26
	rndRevisions = 300
	rndSteps     = 4000
)

// rndRange is a range's leader: it has committed what the world has, and publishes it bit by bit.
type rndRange struct {
	desc      shard.Descriptor
	published int64 // revision
	closed    int64
	gap       bool // the next item has one

	queue     []shard.FeedItem // published, and still on the way to the hub
	delivered int              // items that have come to the hub, or were lost
	lost      bool             // something was lost since the last one that has come
	parent    *rndRange        // nil: none
	after     int              // nothing comes to the hub before so many items of the parent

	upTo  []int64      // of queue: everything that has happened up to there has been published with it
	at    int64        // of the last that has come, or was lost
	cover *shard.Cover // which keys come to the hub; nil: all
	wider bool         // the hub wants more

	everClosed int64 // highest closed before merges
	silent     int   // steps that it does not speak
}

type rnd struct {
	t       *testing.T
	r       *rand.Rand
	hub     *Hub
	rmap    *shard.Map       // what the hub may know
	truth   *shard.Map       // what the ranges know
	all     [][]*shard.Event // by revision, all that will ever happen
	current int64            // revisions up to here have happened
	ranges  map[shard.RangeID]*rndRange
	nextID  shard.RangeID
	streams []*rndStream
	timers  []func()
	asked   int64
	quiet   bool // no more faults

	narrow *rand.Rand // nil: feeds bring every key
}

type rndStream struct {
	s       *Stream
	pace    float64
	watches map[int64]*rndWatch
	nextID  int64
	sent    int64 // highest revision that the stream has delivered
}

type rndWatch struct {
	req  WatchRequest
	got  []*shard.Event
	told int64 // highest marker

	okRev int64 // got is right up to here
	okLen int   // and has that many events up to here
}

func runRandom(t *testing.T, seed uint64) {
	w := &rnd{t: t, r: rand.New(rand.NewPCG(seed, 1)), ranges: map[shard.RangeID]*rndRange{}}
	w.generate()
	w.cut()
	cfg := Config{
		History: w, Closer: w,
		Current:     func(context.Context) (shard.Now, error) { return w.oracle() },
		Map:         func() *shard.Map { return w.rmap },
		AfterFunc:   func(_ time.Duration, f func()) { w.timers = append(w.timers, f) },
		Dispatchers: 1 + w.r.IntN(2),
		ReadBytes:   (1 + w.r.IntN(30)) * eventOverheadBytes, InboxEvents: 1 + w.r.IntN(100),
		PendingEvents: 1 + w.r.IntN(100), RecentEvents: 1 + w.r.IntN(60),
		RingBytes: w.r.IntN(3) * (1 + w.r.IntN(200)) * eventOverheadBytes, FeedLinger: time.Duration(w.r.IntN(2)),
	}
	// Of its own, so that what the others draw is as it was before there was a bound.
	r := rand.New(rand.NewPCG(seed, 2))
	var group *Group
	if r.IntN(2) == 0 {
		cfg.DeliveryBytes = (1 + r.IntN(60)) * (eventOverheadBytes + entryBytes)
	}
	if r.IntN(2) == 0 {
		group = NewGroup((1 + r.IntN(30)) * eventOverheadBytes)
	}
	if r.IntN(2) == 0 {
		w.narrow = r
	}
	cfg.Widen = func(id shard.RangeID) {
		if rg := w.ranges[id]; rg != nil {
			rg.wider = true
		}
	}
	w.hub = newHub(cfg)
	w.hub.readers, w.hub.clerk = newPool(0), newPool(0)
	for range 1 + w.r.IntN(4) {
		w.streams = append(w.streams, &rndStream{
			s: w.hub.NewStream(StreamOptions{
				WatcherEvents: 1 + w.r.IntN(20), StreamEvents: 1 + w.r.IntN(60), Group: group,
			}),
			pace: w.r.Float64(), watches: map[int64]*rndWatch{},
		})
	}
	for range rndSteps {
		w.step()
	}
	w.finish()
}

// generate makes the history: every revision changes one to four keys.
func (w *rnd) generate() {
	w.all = make([][]*shard.Event, rndRevisions+1)
	for rev := int64(2); rev <= rndRevisions; rev++ {
		keys := w.r.Perm(rndKeys)[:1+w.r.IntN(4)]
		for i, k := range keys {
			w.all[rev] = append(w.all[rev], &shard.Event{
				KV: shard.KeyValue{Key: rndKey(k), ModRevision: rev}, Sub: int64(i), Delete: w.r.IntN(4) == 0,
			})
		}
	}
	w.current = 1
}

// counted is what the hub says that its queues hold, with what this round of its dispatchers has added.
func counted(h *Hub) int64 {
	n := h.budget.queued.Load() - h.budget.taken.Load()
	for _, d := range h.dispatchers {
		n += d.shedding.entries*entryBytes + d.shedding.events
	}
	return n
}

// waiting is what they do, counted anew.
func waiting(h *Hub, streams []*rndStream) (n int64) {
	seen := map[*shard.Event]bool{}
	for _, st := range streams {
		for _, e := range slices.Concat(st.s.mu.out.queue.Items(), st.s.mu.out.held.Items()) {
			if len(e.evs) > 0 {
				n += entryBytes
			}
			for _, ev := range e.evs {
				if !seen[ev] {
					seen[ev] = true
					n += heldBytes(ev)
				}
			}
		}
	}
	return n
}

func rndKey(i int) []byte { return []byte{'a' + byte(i)} }

// cut makes the first ranges.
func (w *rnd) cut() {
	var ds []shard.Descriptor
	w.nextID = 2
	var start []byte
	for i := 1; i <= rndKeys; i++ {
		if i < rndKeys && w.r.IntN(5) != 0 {
			continue
		}
		end := rndKey(i)
		if i == rndKeys {
			end = nil
		}
		ds = append(ds, shard.Descriptor{ID: w.nextID, Generation: 1, Span: shard.Span{Start: start, End: end}})
		w.ranges[w.nextID] = &rndRange{desc: ds[len(ds)-1], gap: true}
		w.nextID++
		start = end
	}
	m, err := shard.NewMap(1, ds)
	if err != nil {
		w.t.Fatal(err)
	}
	w.rmap, w.truth = m, m
}

func (w *rnd) oracle() (shard.Now, error) {
	if !w.quiet && w.r.IntN(4) == 0 {
		return shard.Now{}, shard.ErrUnavailable
	}
	return shard.Now{Revision: w.current}, nil
}

// AskClose implements Closer.
func (w *rnd) AskClose(rev int64, _ []shard.RangeID) {
	if rev > w.current {
		w.t.Errorf("asks to close %d, above the current revision %d", rev, w.current)
	}
	w.asked = max(w.asked, rev)
}

// Read implements History. The hub may only ask for what a range has closed; now and then the
// answer is an error, or shorter than it could be.
func (w *rnd) Read(_ context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	rg := w.ranges[id]
	if rg == nil || !w.quiet && w.r.IntN(8) == 0 {
		return nil, 0, shard.ErrUnavailable
	}
	for _, s := range spans {
		if !rg.desc.Span.ContainsSpan(s) {
			return nil, 0, shard.ErrUnavailable // the hub has still to hear of that
		}
	}
	if to > rg.everClosed {
		w.t.Errorf("reads %v up to %d, closed is %d", id, to, rg.everClosed)
	}
	to = min(to, rg.closed) // lower since a merge of which the hub has not heard
	if !w.quiet && w.r.IntN(8) == 0 {
		to = from + w.r.Int64N(max(1, to-from+1)) - 1
	}
	w.note("read %v %s %d to %d", id, joinSpans(spans), from, to)
	var evs []*shard.Event
	for rev := from; rev <= to; rev++ {
		for _, e := range w.all[rev] {
			if coveredBy(spans, e.KV.Key) {
				evs = append(evs, &shard.Event{KV: e.KV, Sub: e.Sub, Delete: e.Delete})
			}
		}
		if len(evs)*eventOverheadBytes >= maxBytes {
			return evs, rev + 1, nil
		}
	}
	return evs, max(from, to+1), nil
}

// note logs what happens, for a run of one seed.
func (w *rnd) note(format string, args ...any) {
	if *seedFlag != 0 {
		w.t.Logf(format, args...)
	}
}

func (w *rnd) step() {
	switch n := w.r.IntN(100); {
	case n < 8:
		w.current = min(w.current+1+w.r.Int64N(3), rndRevisions)
	case n < 28:
		w.publish(w.anyRange())
	case n < 44:
		w.deliver(w.anyRange())
	case n < 60:
		w.hub.dispatchers[w.r.IntN(len(w.hub.dispatchers))].round()
	case n < 65:
		w.hub.clerk.runOne()
	case n < 72:
		w.hub.readers.runOne()
	case n < 74:
		w.fire()
	case n < 88:
		w.poll(w.streams[w.r.IntN(len(w.streams))], false)
	case n < 92:
		w.watch(w.streams[w.r.IntN(len(w.streams))])
	case n < 95:
		w.request(w.streams[w.r.IntN(len(w.streams))])
	case n < 96:
		w.cancel(w.streams[w.r.IntN(len(w.streams))])
	case n < 97:
		switch rg := w.anyRange(); w.r.IntN(3) {
		case 0:
			rg.silent = 50 * w.r.IntN(4)
		case 1:
			w.rise(rg)
		default: // a snapshot is installed
			rg.published, rg.gap = rg.published+w.r.Int64N(w.current-rg.published+1), true
		}
	case n < 98:
		w.split(w.anyRange())
	case n < 99:
		w.merge()
	default:
		if w.rmap != w.truth {
			w.rmap = w.truth
			w.note("map %v", w.rmap)
			w.hub.MapChanged()
		}
	}
}

func (w *rnd) anyRange() *rndRange {
	ids := make([]int, 0, len(w.ranges))
	for id := range w.ranges {
		ids = append(ids, int(id))
	}
	sort.Ints(ids)
	return w.ranges[shard.RangeID(ids[w.r.IntN(len(ids))])]
}

// publish says some of what the range has not said yet, closed as far as is true, or less.
func (w *rnd) publish(rg *rndRange) {
	if rg.silent > 0 && !w.quiet {
		rg.silent--
		return
	}
	upTo := rg.published + w.r.Int64N(w.current-rg.published+1)
	if w.quiet {
		upTo = w.current
	}
	w.say(rg, upTo, w.quiet || w.r.IntN(2) == 0, nil)
	for n := len(rg.queue); n > 0 && (w.quiet || w.r.IntN(2) == 0); n-- {
		w.deliver(rg)
	}
}

// say puts an item of everything up to a revision on its way.
func (w *rnd) say(rg *rndRange, upTo int64, closes bool, b *shard.Border) {
	item := shard.FeedItem{Generation: rg.desc.Generation, Gap: rg.gap, Border: b}
	for rev := rg.published + 1; rev <= upTo; rev++ {
		for _, e := range w.all[rev] {
			if rg.desc.Span.Contains(e.KV.Key) {
				item.Events = append(item.Events, e)
			}
		}
	}
	if rg.published = upTo; closes {
		rg.closed = max(rg.closed, upTo)
	}
	item.Closed = rg.closed
	rg.everClosed = max(rg.everClosed, rg.closed)
	rg.gap = false
	w.note("item %v%v closed=%d gap=%v gen=%d border=%+v %v", rg.desc.ID, rg.desc.Span, item.Closed, item.Gap, item.Generation, b, textsOf(item.Events))
	rg.queue, rg.upTo = append(rg.queue, item), append(rg.upTo, upTo)
}

// deliver brings the hub what comes next of a range, or loses it. A child's feed begins behind its parent's border; if that
// is lost it begins with a gap.
func (w *rnd) deliver(rg *rndRange) {
	if len(rg.queue) == 0 || rg.parent != nil && rg.parent.delivered < rg.after {
		return
	}
	if !w.quiet && w.r.IntN(30) == 0 {
		w.lose(rg)
		return
	}
	item := rg.queue[0]
	rg.queue = rg.queue[1:]
	item.Gap, rg.lost = item.Gap || rg.lost, false
	w.narrows(rg, &item)
	rg.at, rg.upTo = rg.upTo[0], rg.upTo[1:]
	w.note("comes %v closed=%d gap=%v gen=%d border=%+v cover=%v", rg.desc.ID, item.Closed, item.Gap, item.Generation, item.Border, item.Cover)
	w.hub.Publish(rg.desc.ID, item)
	rg.delivered++
}

// narrows leaves out of an item what the hub does not want, as a link does. Where the feed begins anew, and now and then, it brings other keys from there on.
func (w *rnd) narrows(rg *rndRange, item *shard.FeedItem) {
	if w.narrow == nil {
		return
	}
	switch {
	case item.Gap:
		rg.cover = w.cover(rg, 0)
	case rg.wider && (w.quiet || w.narrow.IntN(8) == 0), w.narrow.IntN(60) == 0:
		if next := w.cover(rg, rg.at); !next.Same(rg.cover) {
			if rg.cover = next; next == nil {
				item.Cover = &shard.Cover{Spans: []shard.Span{shard.All}, From: rg.at}
			}
			rg.wider = false
		}
	}
	if rg.cover != nil {
		item.Cover = rg.cover
		item.Events = slices.DeleteFunc(slices.Clone(item.Events), func(e *shard.Event) bool { return !shard.SpansContain(rg.cover.Spans, e.KV.Key) })
	}
	if b := item.Border; b != nil && w.ranges[b.Child] != nil {
		w.ranges[b.Child].cover = rg.cover
	}
}

// cover is what a feed brings from some item on: what the hub wants, or something else.
func (w *rnd) cover(rg *rndRange, from int64) *shard.Cover {
	spans := w.hub.Wanted(rg.desc.ID)
	if !w.quiet && w.narrow.IntN(4) == 0 {
		a := w.narrow.IntN(rndKeys)
		spans = []shard.Span{{Start: rndKey(a), End: rndKey(a + 1 + w.narrow.IntN(rndKeys-a))}}
	}
	if spans == nil || w.narrow.IntN(20) == 0 {
		return nil
	}
	return &shard.Cover{Spans: spans, From: from}
}

// lose drops what comes next of a range; false: nothing does.
func (w *rnd) lose(rg *rndRange) bool {
	if len(rg.queue) == 0 {
		return false
	}
	item := rg.queue[0]
	rg.queue = rg.queue[1:]
	rg.at, rg.upTo = rg.upTo[0], rg.upTo[1:]
	w.note("lost %v closed=%d gen=%d border=%+v", rg.desc.ID, item.Closed, item.Generation, item.Border)
	rg.lost = true
	if b := item.Border; b != nil && w.ranges[b.Child] != nil {
		w.ranges[b.Child].lost = true
	}
	rg.delivered++
	return true
}

// rise gives a range another generation and leaves it its keys.
func (w *rnd) rise(rg *rndRange) {
	if w.quiet {
		return
	}
	rg.desc.Generation++
	m, err := w.truth.Apply(rg.desc)
	if err != nil {
		w.t.Fatal(err)
	}
	w.truth = m.WithVersion(m.Version() + 1)
	w.note("rise %v", w.truth)
	w.say(rg, rg.published, false, nil)
}

// split cuts a range at a key, when it has been drained; the child begins with the parent's frontier, and its feed where the
// parent's has its border. Now and then that is not to be had where the hub has the parent's from.
func (w *rnd) split(rg *rndRange) {
	at := rndKey(1 + w.r.IntN(rndKeys-1))
	if !rg.desc.Span.Contains(at) || string(rg.desc.Span.Start) == string(at) || w.quiet {
		return
	}
	m, err := w.truth.Split(rg.desc.ID, at, w.nextID, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.truth = m
	w.note("split %v", m)
	w.say(rg, w.current, true, &shard.Border{At: at, Child: w.nextID, Generation: rg.desc.Generation + 1})
	rg.desc, _ = m.Get(rg.desc.ID)
	child, _ := m.Get(w.nextID)
	w.ranges[w.nextID] = &rndRange{
		desc: child, published: rg.published, closed: rg.closed, everClosed: rg.closed,
		parent: rg, after: rg.delivered + len(rg.queue), lost: w.r.IntN(4) == 0,
	}
	w.nextID++
}

// merge unites a range with its right neighbour; what is closed is the lower of both.
func (w *rnd) merge() {
	all := slices.Collect(w.truth.All())
	i := w.r.IntN(len(all))
	if i+1 >= len(all) || w.quiet || w.r.IntN(2) == 0 {
		return
	}
	left, right := w.ranges[all[i].ID], w.ranges[all[i+1].ID]
	m, err := w.truth.Merge(left.desc.ID, right.desc.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.truth = m
	w.note("merge %v", m)
	left.desc, _ = m.Get(left.desc.ID)
	left.published = max(left.published, right.published)
	left.closed = min(left.closed, right.closed)
	left.gap = true
	w.say(left, left.published, false, nil)
	for w.lose(right) {
	}
	delete(w.ranges, right.desc.ID)
}

func (w *rnd) fire() {
	ts := w.timers
	w.timers = nil
	for _, f := range ts {
		f()
	}
}

func (w *rnd) watch(st *rndStream) {
	a := w.r.IntN(rndKeys)
	span := shard.Span{Start: rndKey(a), End: rndKey(a + w.r.IntN(rndKeys-a) + 1)}
	switch w.r.IntN(8) {
	case 0:
		span = shard.All
	case 1, 2:
		span = shard.Span{Start: rndKey(a)}
	case 3, 4:
		span = shard.Point(rndKey(a))
	}
	start := w.current + 1
	switch w.r.IntN(3) {
	case 0:
		start = 1 + w.r.Int64N(w.current+1)
	case 1:
		start += w.r.Int64N(30)
	}
	st.nextID++
	x := &rndWatch{req: WatchRequest{
		ID: st.nextID, Span: span, Start: start, NoPut: w.r.IntN(8) == 0, NoDelete: w.r.IntN(8) == 0,
	}}
	st.watches[x.req.ID] = x
	w.note("watch %+v", x.req)
	if err := st.s.Watch(x.req); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rnd) request(st *rndStream) {
	if w.r.IntN(2) == 0 {
		st.s.RequestProgress(w.current)
		return
	}
	st.s.RequestWatcherProgress(1+w.r.Int64N(st.nextID+1), w.current)
}

func (w *rnd) cancel(st *rndStream) {
	id := 1 + w.r.Int64N(st.nextID+1)
	if st.s.Cancel(id) != (st.watches[id] != nil) {
		w.t.Errorf("cancel of %d does not know whether there is one", id)
	}
	delete(st.watches, id)
}

// poll reads, at the stream's pace, and checks what it gets.
func (w *rnd) poll(st *rndStream, all bool) {
	if !all && w.r.Float64() > st.pace {
		return
	}
	limit := 1 + w.r.IntN(5)
	if all {
		limit = 1000
	}
	for _, d := range st.s.Poll(nil, limit) {
		if len(d.Events) == 0 && d.Revision < st.sent {
			w.t.Fatalf("progress %v after revision %d was delivered", d, st.sent)
		}
		st.sent = max(st.sent, d.Revision)
		if d.ID == StreamWide {
			for _, x := range st.watches {
				if x.req.Start-1 <= d.Revision || x.told > 0 {
					w.checkTold(x, d.Revision)
				}
			}
			continue
		}
		w.note("delivery %v", d)
		x := st.watches[d.ID]
		if x == nil {
			w.t.Fatalf("delivery for %d, which was cancelled", d.ID)
		}
		if len(d.Events) == 0 {
			w.checkTold(x, d.Revision)
			continue
		}
		if n := len(x.got); n > 0 && d.Events[0].Rev() <= x.got[n-1].Rev() {
			w.t.Fatalf("watch %+v: %v after %v", x.req, textsOf(d.Events), textOf(x.got[n-1]))
		}
		x.got = append(x.got, d.Events...)
		w.checkTold(x, d.Revision)
	}
	if got, want := counted(w.hub), waiting(w.hub, w.streams); got != want {
		w.t.Fatalf("%d bytes are counted, %d wait", got, want)
	}
	rev, _ := st.s.Progress()
	for _, x := range st.watches {
		w.checkComplete(x, rev)
	}
}

// checkTold: the revision is one that the world has, and everything up to it was delivered.
func (w *rnd) checkTold(x *rndWatch, rev int64) {
	if rev > w.current {
		w.t.Fatalf("watch %+v was told %d, current is %d", x.req, rev, w.current)
	}
	x.told = max(x.told, rev)
	w.checkComplete(x, rev)
}

// checkComplete: what was delivered up to rev is what has happened, exactly.
func (w *rnd) checkComplete(x *rndWatch, rev int64) {
	if rev <= x.okRev {
		return
	}
	n := x.okLen
	for n < len(x.got) && x.got[n].Rev() <= rev {
		n++
	}
	want := w.expected(x, x.okRev+1, min(rev, rndRevisions))
	if !slices.EqualFunc(x.got[x.okLen:n], want, func(a, b *shard.Event) bool {
		return a.Rev() == b.Rev() && a.Sub == b.Sub && string(a.KV.Key) == string(b.KV.Key)
	}) {
		w.t.Fatalf("watch %+v from %d to %d:\n got  %v\n want %v", x.req, x.okRev+1, rev, textsOf(x.got[x.okLen:n]), textsOf(want))
	}
	x.okRev, x.okLen = rev, n
}

func (w *rnd) expected(x *rndWatch, from, upTo int64) []*shard.Event {
	var want []*shard.Event
	for rev := max(from, x.req.Start); rev <= upTo; rev++ {
		for _, e := range w.all[rev] {
			if x.req.Span.Contains(e.KV.Key) && !(e.Delete && x.req.NoDelete) && (e.Delete || !x.req.NoPut) {
				want = append(want, e)
			}
		}
	}
	return want
}

// finish lets everything arrive, without faults, and wants it complete.
func (w *rnd) finish() {
	w.quiet = true
	w.current = rndRevisions
	w.rmap = w.truth
	w.hub.MapChanged()
	for _, st := range w.streams {
		st.s.RequestProgress(rndRevisions)
	}
	for range 600 {
		for id := shard.RangeID(2); id < w.nextID; id++ {
			if rg := w.ranges[id]; rg != nil {
				w.publish(rg)
			}
		}
		for _, d := range w.hub.dispatchers {
			d.round()
		}
		for w.hub.clerk.runOne() || w.hub.readers.runOne() {
		}
		w.fire()
		for _, st := range w.streams {
			w.poll(st, true)
		}
	}
	for _, st := range w.streams {
		for _, x := range st.watches {
			if x.req.Start-1 <= rndRevisions && x.told < rndRevisions && !w.future(st) {
				w.t.Errorf("watch %+v was never told %d, but %d", x.req, rndRevisions, x.told)
			}
			w.checkComplete(x, rndRevisions)
		}
	}
	if s := w.hub.Stats(); s.PendingEvents != 0 || s.SlowWatchers != 0 || s.LateTotal != 0 || s.DeliveryBytes != 0 || s.ParkedWatchers != 0 {
		w.t.Errorf("something is left: %+v", s)
	}
}

// future reports whether some watch of the stream starts after the end, and so holds the
// stream's marker back.
func (w *rnd) future(st *rndStream) bool {
	for _, x := range st.watches {
		if x.req.Start-1 > rndRevisions {
			return true
		}
	}
	return false
}
