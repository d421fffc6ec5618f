package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pontoon/internal/mirror"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// world is some ranges with feeds of which everything that a feeder may do is done: marks lag behind events, feeds have gaps, are joined in the middle, ranges
// are cut and moved, and others have heard of a child before its parent's feed tells of it.
type world struct {
	t   *testing.T
	set *mirror.Set

	mu      sync.Mutex
	rng     *rand.Rand
	rev     int64
	keys    map[string][]shard.KeyValue // versions, ascending; a deletion has no create revision
	ranges  map[shard.RangeID]*fakeRange
	rangeOf *shard.Map
	nextID  shard.RangeID
	lazy    bool // nothing is closed
	reads   int  // pages that replicas were asked for
}

type fakeRange struct {
	desc       shard.Descriptor
	index      uint64
	closed     int64
	final      int64 // the highest that was closed ever: of the keys that it has, all stands up to there
	queue      []shard.FeedItem
	subscribed bool // the mirrors have its feed
	open       bool // it flows, for whomever
	gone       bool
	told       shard.FeedItem // the last item that was delivered, to whomever
}

func newWorld(t *testing.T, seed uint64, cfg mirror.Config) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), rev: 1, keys: map[string][]shard.KeyValue{}, ranges: map[shard.RangeID]*fakeRange{}, nextID: 10}
	rep := []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}}
	for i, span := range []shard.Span{{End: []byte("k3")}, {Start: []byte("k3"), End: []byte("k6")}, {Start: []byte("k6")}} {
		id := shard.RangeID(2 + i)
		w.ranges[id] = &fakeRange{desc: shard.Descriptor{ID: id, Span: span, Generation: 1, Replicas: rep}}
	}
	w.remap()
	if cfg.Spans == nil {
		cfg.Spans = []shard.Span{{Start: []byte("k1"), End: []byte("k9")}, {Start: []byte("k0"), End: []byte("k1")}}
	}
	cfg.Map, cfg.AskMap, cfg.Current, cfg.Compacted = w.rangeMap, func() { w.set.MapChanged() }, w.current, func() int64 { return 0 }
	cfg.AskClose, cfg.Answered, cfg.Read = w.askClose, func([]shard.RangeID) int64 { return 0 }, w.read
	cfg.Fence = w.fence
	cfg.Nodes = func(d *shard.Descriptor) []shard.NodeID { return []shard.NodeID{2, 1} }
	cfg.Subscribe, cfg.Unsubscribe, cfg.Expect = w.subscribe, w.unsubscribe, w.expect
	w.set = mirror.New(cfg)
	return w
}

func (w *world) locked(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *world) remap() {
	var all []shard.Descriptor
	for _, r := range w.ranges {
		if !r.gone {
			all = append(all, r.desc)
		}
	}
	version := uint64(1)
	if w.rangeOf != nil {
		version = w.rangeOf.Version() + 1
	}
	m, err := shard.NewMap(version, all)
	if err != nil {
		w.t.Fatal(err)
	}
	w.rangeOf = m
}

func (w *world) rangeMap() *shard.Map {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rangeOf
}

func (w *world) some(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// rest takes a while.
func (w *world) rest(ms int) { <-time.After(time.Duration(w.some(ms*1000)) * time.Microsecond) }

func (w *world) current(context.Context) (shard.Now, error) {
	w.rest(2)
	var now shard.Now
	w.locked(func() { now.Revision = w.rev })
	w.rest(2)
	return now, nil
}

func (w *world) over(key []byte) *fakeRange { return w.ranges[w.rangeOf.Lookup(key).ID] }

// write puts or deletes some keys at one revision.
func (w *world) write(keys ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rev++
	events := map[*fakeRange][]*shard.Event{}
	for i, k := range keys {
		var last shard.KeyValue
		if vs := w.keys[k]; len(vs) > 0 {
			last = vs[len(vs)-1]
		}
		e := shard.NewEvents(1)[0]
		e.Sub = int64(i)
		e.KV = shard.KeyValue{Key: []byte(k), ModRevision: w.rev}
		if e.Delete = last.CreateRevision != 0 && w.rng.IntN(3) == 0; !e.Delete {
			e.KV.Value, e.KV.CreateRevision, e.KV.Version = fmt.Appendf(nil, "%s at %d", k, w.rev), w.rev, 1
			if last.CreateRevision != 0 {
				e.KV.CreateRevision, e.KV.Version = last.CreateRevision, last.Version+1
			}
		}
		w.keys[k] = append(w.keys[k], e.KV)
		r := w.over(e.KV.Key)
		events[r] = append(events[r], e)
	}
	for r, evs := range events {
		r.put(shard.FeedItem{Events: evs})
	}
}

func (r *fakeRange) put(item shard.FeedItem) {
	r.index++
	item.Index, item.Generation = r.index, r.desc.Generation
	item.Closed = max(item.Closed, r.closed)
	r.closed, r.final = item.Closed, max(r.final, item.Closed)
	r.queue = append(r.queue, item)
}

func (w *world) askClose(_ int64, ids []shard.RangeID) {
	time.AfterFunc(time.Duration(w.some(3000))*time.Microsecond, func() {
		w.locked(func() {
			for _, id := range ids {
				if r := w.ranges[id]; r != nil && !r.gone && !w.lazy && r.closed < w.rev {
					r.put(shard.FeedItem{Closed: w.rev})
				}
			}
		})
	})
}

// subscribe opens the feed, or joins it.
func (w *world) subscribe(id shard.RangeID) {
	w.locked(func() {
		r := w.ranges[id]
		if r == nil {
			return
		}
		switch {
		case !r.open:
			r.queue = nil
			r.put(shard.FeedItem{Gap: true})
		case !r.subscribed: // it flows for others: this is where it is
			at := shard.FeedItem{Gap: true, Closed: r.told.Closed, Index: r.told.Index, Generation: r.told.Generation}
			r.queue = append([]shard.FeedItem{at}, r.queue...)
		}
		r.open, r.subscribed = true, true
	})
}

func (w *world) unsubscribe(id shard.RangeID) {
	w.locked(func() {
		if r := w.ranges[id]; r != nil {
			r.subscribed = false
			r.open = w.rng.IntN(2) == 0 // others have it
		}
	})
}

func (w *world) expect(id shard.RangeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.ranges[id]
	whole := !r.open
	r.open, r.subscribed = true, true
	return whole
}

// pump delivers what feeds have until ctx ends.
func (w *world) pump(ctx context.Context) {
	for ctx.Err() == nil {
		var id shard.RangeID
		var item shard.FeedItem
		w.locked(func() {
			for _, r := range w.ranges {
				if len(r.queue) > 0 && r.open && w.rng.IntN(2) == 0 {
					id, item, r.queue = r.desc.ID, r.queue[0], r.queue[1:]
					if r.told = item; item.Border != nil {
						r.told = shard.FeedItem{Generation: item.Border.Generation}
					}
					if !r.subscribed {
						id = 0
					}
					return
				}
			}
		})
		if id != 0 {
			w.set.Publish(id, item)
		}
		w.rest(1)
	}
}

// at is what a list of a span at a revision consists of.
func (w *world) at(span shard.Span, rev int64) (elements [][]byte) {
	var names []string
	for k := range w.keys {
		if span.Contains([]byte(k)) {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		var kv *shard.KeyValue
		for i := range w.keys[k] {
			if v := &w.keys[k][i]; v.ModRevision <= rev {
				kv = v
			}
		}
		if kv != nil && kv.CreateRevision != 0 {
			elements = append(elements, pb.AppendRangeKey(nil, pb.FromKeyValue(kv)))
		}
	}
	return elements
}

func (w *world) fence(_ context.Context, d *shard.Descriptor, span shard.Span, _ int64) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.ranges[d.ID]; r != nil && !r.gone && r.desc.Span.ContainsSpan(span) {
		return r.index + 1, nil
	}
	return 0, shard.ErrUnavailable
}

// read is a replica's.
func (w *world) read(_ context.Context, node shard.NodeID, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	w.rest(3)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	r := w.ranges[shard.RangeID(req.RangeId)]
	span := pb.ToSpan(req.Span)
	switch {
	case w.rng.IntN(20) == 0:
		return nil, shard.ErrUnavailable
	case r.gone || !r.desc.Span.ContainsSpan(span):
		return nil, &shard.WrongRangeError{Range: r.desc.ID}
	case req.Revision > r.final:
		w.t.Errorf("%v is read at revision %d, it is closed at %d", r.desc.ID, req.Revision, r.closed)
	case req.MinIndex == 0: // it lags
		req.Revision -= 5
	}
	resp := &pb.ReadResponse{Count: -1}
	for i, e := range w.at(span, req.Revision) {
		if i == 7 {
			key, _, _ := pb.NextRangeKey(e)
			resp.Resume = bytes.Clone(key)
			break
		}
		resp.Encoded = append(resp.Encoded, e...)
		resp.EncodedKeys++
	}
	return resp, nil
}

// listRanges has ranges answer a list.
func (w *world) listRanges(span shard.Span) {
	type got struct {
		id    shard.RangeID
		span  shard.Span
		bytes int
	}
	var all []got
	w.locked(func() {
		for d := range w.rangeOf.Overlapping(span) {
			of := d.Span.Intersect(span)
			all = append(all, got{d.ID, of, len(bytes.Join(w.at(of, w.rev), nil))})
		}
	})
	for _, g := range all {
		w.set.Listed(g.id, g.span, g.bytes, g.bytes)
	}
}

// lose drops what is under way of a feed.
func (w *world) lose(r *fakeRange) {
	if r.open && len(r.queue) > 0 && !slices.ContainsFunc(r.queue, func(i shard.FeedItem) bool { return i.Border != nil }) {
		r.queue = nil
		r.put(shard.FeedItem{Gap: true})
	}
}

// split cuts a range. silent: two generations have passed, and nothing is said of the border.
func (w *world) split(r *fakeRange, silent bool) {
	w.splitAt(r, fmt.Appendf(nil, "k%02d", w.rng.IntN(100)), silent)
}

func (w *world) splitAt(r *fakeRange, at []byte, silent bool) {
	if !r.desc.Span.PartedBy(at) {
		return
	}
	w.nextID++
	child := &fakeRange{desc: r.desc, closed: r.closed, final: r.final, index: 1}
	child.desc.ID, child.desc.Span.Start = w.nextID, at
	if silent {
		r.desc.Generation++
	} else {
		r.put(shard.FeedItem{Closed: w.rev, Border: &shard.Border{At: at, Child: child.desc.ID, Generation: r.desc.Generation + 1}})
	}
	r.desc.Generation++
	r.desc.Span.End = at
	child.desc.Generation, child.closed, child.final = r.desc.Generation, r.closed, r.final
	if silent {
		r.put(shard.FeedItem{})
	}
	child.open = w.rng.IntN(4) == 0 // somebody has heard of it
	w.ranges[child.desc.ID] = child
	w.remap()
}

// merge joins a range with its right neighbour.
func (w *world) merge(r *fakeRange) {
	if r.desc.Span.Unbounded() {
		return
	}
	right := w.over(r.desc.Span.End)
	right.gone = true
	r.desc.Span.End = right.desc.Span.End
	r.desc.Generation = max(r.desc.Generation, right.desc.Generation) + 1
	r.closed = min(r.closed, right.closed)
	r.queue = nil
	r.index++
	r.put(shard.FeedItem{Gap: true})
	w.remap()
}

// change does something to a range.
func (w *world) change() {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.over(fmt.Appendf(nil, "k%02d", w.rng.IntN(100)))
	switch n := w.rng.IntN(12); {
	case n < 3 && len(w.ranges) < 40:
		w.split(r, false)
	case n < 4 && len(w.ranges) < 40:
		w.split(r, true)
	case n < 6:
		w.merge(r)
	case n < 8:
		w.lose(r)
	case n < 10: // it moves
		r.desc.Generation++
		r.put(shard.FeedItem{})
		w.remap()
	default:
		r.put(shard.FeedItem{Closed: w.rev - w.rng.Int64N(3)})
	}
}
