package runs_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// twin is a store, and the mirrors that hold the same in parts.
type twin struct {
	t     *testing.T
	rng   *rand.Rand
	store *mvcc.Store
	spans []shard.Span // of parts, in order; they tile everything
	parts []*runs.State
	index uint64
	rev   int64
}

func newTwin(t *testing.T, seed uint64) *twin {
	st, err := mvcc.Open(mvcc.Options{Path: filepath.Join(t.TempDir(), "db"), RangeID: 2, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return &twin{t: t, rng: rand.New(rand.NewPCG(seed, 1)), store: st, rev: 1}
}

func (w *twin) key() []byte { return fmt.Appendf(nil, "k%03d", w.rng.IntN(700)) }

func (w *twin) value() []byte {
	n := w.rng.IntN(300)
	switch {
	case w.rng.IntN(20) == 0:
		n = 0
	case w.rng.IntN(300) == 0:
		n = 60_000
	}
	return bytes.Repeat([]byte{byte(w.rng.IntN(256))}, n)
}

// change makes a revision of one or several changes and returns its events.
func (w *twin) change() []*shard.Event {
	w.rev++
	w.index++
	keys := map[string]bool{}
	for range 1 + w.rng.IntN(3) {
		keys[string(w.key())] = true
	}
	var muts []mvcc.Mutation
	for k := range keys {
		m := mvcc.Mutation{Key: []byte(k), Rev: mvcc.Rev{Main: w.rev, Sub: int64(len(muts))}}
		if _, ok, err := w.store.Get(m.Key, w.rev); err != nil {
			w.t.Fatal(err)
		} else if m.Delete = ok && w.rng.IntN(3) == 0; !m.Delete {
			m.Value, m.Lease = w.value(), int64(w.rng.IntN(3))
		}
		muts = append(muts, m)
	}
	evs, err := w.store.Apply(mvcc.Change{Pos: mvcc.Position{Index: w.index, Term: 1}, Muts: muts})
	if err != nil {
		w.t.Fatal(err)
	}
	return evs
}

// begin makes a mirror of everything, of pages of the store.
func (w *twin) begin() {
	var b runs.Builder
	span := shard.All
	for {
		resp := w.ask(span, &pb.ReadRequest{Revision: w.rev, Encoded: true, SkipCount: true}, 20_000)
		if err := b.Add(resp.Encoded); err != nil {
			w.t.Fatal(err)
		}
		if len(resp.Resume) == 0 {
			break
		}
		span.Start = resp.Resume
	}
	w.spans, w.parts = []shard.Span{shard.All}, []*runs.State{b.State(w.rev)}
}

func (w *twin) ask(span shard.Span, req *pb.ReadRequest, bytesMax int64) *pb.ReadResponse {
	w.t.Helper()
	resp, err := eval.ReadPage(context.Background(), w.store, span, req, bytesMax)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *twin) apply(evs []*shard.Event) {
	for _, ev := range evs {
		i := slices.IndexFunc(w.spans, func(s shard.Span) bool { return s.Contains(ev.KV.Key) })
		if err := w.parts[i].Apply(ev); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *twin) cut() {
	at := w.key()
	i := slices.IndexFunc(w.spans, func(s shard.Span) bool { return s.Contains(at) })
	if !w.spans[i].PartedBy(at) {
		return
	}
	right := shard.Span{Start: at, End: w.spans[i].End}
	w.spans[i].End = at
	w.spans = slices.Insert(w.spans, i+1, right)
	w.parts = slices.Insert(w.parts, i+1, w.parts[i].Cut(at))
}

// compare asks both for the same.
func (w *twin) compare() {
	w.t.Helper()
	span := shard.Span{Start: w.key(), End: w.key()}
	switch {
	case w.rng.IntN(4) == 0:
		span = shard.All
	case w.rng.IntN(4) == 0:
		span.End = nil
	case bytes.Compare(span.Start, span.End) >= 0:
		span.Start, span.End = span.End, append(span.Start, 0)
	}
	floor := int64(0)
	for _, p := range w.parts {
		floor = max(floor, p.Floor())
	}
	rev := w.rev
	if floor > rev {
		w.t.Fatal("nothing is left")
	}
	if w.rng.IntN(3) > 0 {
		rev = floor + w.rng.Int64N(w.rev-floor+1)
	}
	req := &pb.ReadRequest{Revision: rev, Encoded: true, KeysOnly: w.rng.IntN(4) == 0, Reverse: w.rng.IntN(3) == 0}
	if w.rng.IntN(2) == 0 {
		req.Limit = 1 + w.rng.Int64N(400)
	}
	want := w.ask(span, req, 1<<30)
	got := &pb.ReadResponse{}
	order := make([]int, len(w.parts))
	for i := range order {
		order[i] = i
	}
	if req.Reverse {
		slices.Reverse(order)
	}
	for _, i := range order {
		part := w.spans[i].Intersect(span)
		if part.Empty() {
			continue
		}
		v, ok := w.parts[i].At(rev)
		if !ok {
			w.t.Fatalf("revision %d of %d to %d is not known", rev, w.parts[i].Floor(), w.parts[i].Last())
		}
		if req.Limit > 0 && got.EncodedKeys == req.Limit {
			got.Count += v.Count(part)
			continue
		}
		q := runs.Query{Span: part, Reverse: req.Reverse, KeysOnly: req.KeysOnly}
		if req.Limit > 0 {
			q.Limit = req.Limit - got.EncodedKeys
		}
		pieces, n, count := v.Read(q)
		for _, p := range pieces {
			got.Encoded = append(got.Encoded, p...)
		}
		got.EncodedKeys += n
		got.Count += count
	}
	if got.Count != want.Count || got.EncodedKeys != want.EncodedKeys || !bytes.Equal(got.Encoded, want.Encoded) {
		w.t.Fatalf("%v at %d, %+v: %d of %d keys, %d bytes; the store has %d of %d, %d bytes",
			span, rev, req, got.EncodedKeys, got.Count, len(got.Encoded), want.EncodedKeys, want.Count, len(want.Encoded))
	}
}

// check holds a state's sums against what it has.
func (w *twin) check() {
	keys, size := 0, 0
	for i, p := range w.parts {
		v, _ := p.At(p.Last())
		pieces, n, count := v.Read(runs.Query{Span: w.spans[i]})
		if n != count || int(n) != p.Keys() {
			w.t.Fatalf("%d, %d, %d keys", n, count, p.Keys())
		}
		of := 0
		for _, b := range pieces {
			of += len(b)
		}
		if of != p.Bytes() {
			w.t.Fatalf("%d bytes, and says %d", of, p.Bytes())
		}
		keys, size = keys+p.Keys(), size+of
	}
	if want := w.ask(shard.All, &pb.ReadRequest{Revision: w.rev, CountOnly: true}, 0).Count; int64(keys) != want {
		w.t.Fatalf("%d keys, the store has %d", keys, want)
	}
}

// TestLikeTheStore: whatever is asked of mirrors, at whatever revision that they know, is answered with the bytes that the store answers with.
func TestLikeTheStore(t *testing.T) {
	seeds, steps := uint64(5), 1500
	if testing.Short() {
		seeds, steps = 2, 500
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newTwin(t, seed)
			for range 100 * seed {
				w.change()
			}
			w.begin()
			for step := range steps {
				w.apply(w.change())
				switch {
				case w.rng.IntN(200) == 0:
					w.cut()
				case w.rng.IntN(300) == 0:
					for _, p := range w.parts {
						p.Forget(w.rev - w.rng.Int64N(300))
					}
				case w.rng.IntN(400) == 0:
					for _, p := range w.parts {
						if p.Shrink(20_000); p.HistoryBytes() > 20_000 {
							t.Fatalf("%d bytes of history", p.HistoryBytes())
						}
					}
				}
				if step%5 == 0 {
					w.compare()
				}
			}
			w.check()
			for range 900 { // down to little
				w.rev++
				w.index++
				key := w.key()
				if _, ok, _ := w.store.Get(key, w.rev); !ok {
					continue
				}
				evs, err := w.store.Apply(mvcc.Change{Pos: mvcc.Position{Index: w.index, Term: 1}, Muts: []mvcc.Mutation{{Key: key, Delete: true, Rev: mvcc.Rev{Main: w.rev}}}})
				if err != nil {
					t.Fatal(err)
				}
				w.apply(evs)
			}
			for range 20 {
				w.compare()
			}
			w.check()
		})
	}
}

// TestViewStands: a view does not change with its state.
func TestViewStands(t *testing.T) {
	w := newTwin(t, 9)
	for range 300 {
		w.change()
	}
	w.begin()
	for range 20 {
		w.apply(w.change())
	}
	v, ok := w.parts[0].At(w.rev - 10)
	if !ok {
		t.Fatal("a revision is not known")
	}
	read := func() []byte {
		pieces, _, _ := v.Read(runs.Query{Span: shard.All})
		return bytes.Join(pieces, nil)
	}
	before := read()
	for range 2000 {
		w.apply(w.change())
	}
	w.parts[0].Forget(w.rev)
	w.parts[0].Cut([]byte("k3"))
	if !bytes.Equal(before, read()) {
		t.Error("a view has changed")
	}
	if _, ok := w.parts[0].At(w.rev - 1500); ok {
		t.Error("a revision is known that was forgotten")
	}
}

// TestOutOfOrder: what cannot be right is refused.
func TestOutOfOrder(t *testing.T) {
	var b runs.Builder
	for _, bad := range [][]byte{{1, 2, 3}, pb.AppendRangeKey(pb.AppendRangeKey(nil, &pb.KeyValue{Key: []byte("b")}), &pb.KeyValue{Key: []byte("a")})} {
		if err := b.Add(bad); err == nil {
			t.Errorf("%x was taken", bad)
		}
	}
	var c runs.Builder
	s := c.State(7)
	put := func(rev int64) error {
		e := shard.NewEvents(1)[0]
		e.KV = shard.KeyValue{Key: []byte("a"), ModRevision: rev, CreateRevision: rev, Version: 1}
		return s.Apply(e)
	}
	for _, step := range []struct {
		rev  int64
		fine bool
	}{{7, false}, {9, true}, {9, true}, {8, false}, {10, true}} {
		if err := put(step.rev); (err == nil) != step.fine {
			t.Errorf("at %d: %v", step.rev, err)
		}
	}
	if s.Keys() != 1 || s.Floor() != 7 || s.Last() != 10 {
		t.Errorf("%d keys, %d to %d", s.Keys(), s.Floor(), s.Last())
	}
}

// BenchmarkApply is a put into 100 000 keys of 1 KiB; BenchmarkRead a list of them all.
func BenchmarkApply(b *testing.B) {
	s := large()
	b.ReportAllocs()
	value := make([]byte, 1024)
	for i := range b.N {
		e := shard.NewEvents(1)[0]
		e.KV = shard.KeyValue{Key: fmt.Appendf(nil, "/registry/pods/%06d", i*7919%100_000), Value: value, CreateRevision: 1, ModRevision: int64(i + 2), Version: 2}
		if err := s.Apply(e); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 0 {
			s.Shrink(64 << 20)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := large()
	b.ReportAllocs()
	for range b.N {
		v, _ := s.At(1)
		if _, n, _ := v.Read(runs.Query{Span: shard.All}); n != 100_000 {
			b.Fatal(n)
		}
	}
}

func large() *runs.State {
	var b runs.Builder
	value := make([]byte, 1024)
	for i := range 100_000 {
		_ = b.Add(pb.AppendRangeKey(nil, &pb.KeyValue{Key: fmt.Appendf(nil, "/registry/pods/%06d", i), Value: value, CreateRevision: 1, ModRevision: 1, Version: 1}))
	}
	return b.State(1)
}
