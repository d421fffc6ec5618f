package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/mirror"
	"pontoon/shard"
)

// often lists a span twenty times in as many seconds.
func (w *world) often(ctx context.Context, span shard.Span) (served int) {
	w.t.Helper()
	for range 20 {
		_, ok, err := w.set.Read(ctx, &mirror.Request{Span: span})
		if err != nil {
			w.t.Error(err)
		}
		if ok {
			served++
		} else {
			w.listRanges(span)
		}
		<-time.After(time.Second)
	}
	return served
}

// size is what a list of a span takes.
func (w *world) size(span shard.Span) (n int) {
	w.locked(func() { n = len(bytes.Join(w.at(span, w.rev), nil)) })
	return n
}

func autos(t *testing.T, w *world, ranges, parts int64) {
	t.Helper()
	if st := w.set.Stats(); st.AutoRanges != ranges || st.Parts != parts || st.PartsVoid != 0 {
		t.Errorf("%d ranges and %d parts are wanted: %+v", ranges, parts, st)
	}
}

// TestAuto: a range that is listed often is mirrored, around what is named, follows a split, gives way to another one where there is no room for both, and is
// dropped when nobody lists it any more. What is named stands all the time.
func TestAuto(t *testing.T) {
	take()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		named := shard.Span{Start: []byte("k1"), End: []byte("k2")}
		first, second := shard.Span{Start: []byte("k0"), End: []byte("k3")}, shard.Span{Start: []byte("k3"), End: []byte("k6")}
		cfg := mirror.Config{AuditEvery: 10 * time.Second, Spans: []shard.Span{named}, AutoFloor: 1}
		written := func() *world {
			w := newWorld(t, 5, cfg)
			for i := range 300 {
				w.write(fmt.Sprintf("k%02d", i%90))
			}
			return w
		}
		like := written()
		cfg.AutoSize = like.size(first) - like.size(named) + like.size(second) - 100 // either has room, and not both
		w := written()
		stop := w.start(ctx)
		w.standing(1)
		autos(t, w, 0, 1)
		if n := w.often(ctx, first); n < 10 {
			t.Errorf("%d lists were answered", n)
		}
		autos(t, w, 1, 3)
		w.locked(func() {
			w.splitAt(w.over([]byte("k1")), []byte("k13"), false)
			w.ranges[w.nextID].open = false // nobody has heard of it
		})
		w.set.MapChanged()
		if n := w.often(ctx, first); n < 18 {
			t.Errorf("after a split %d lists were answered", n)
		}
		if st := w.set.Stats(); st.AutoRanges != 2 || st.VoidTotal != 0 || st.BuildsTotal != 3 || st.Parts != 4 {
			t.Errorf("after a split: %+v", st)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for range 50 {
			w.write("k11", "k22", "k02")
			w.list(ctx, rng)
		}
		for range 6 {
			w.often(ctx, second)
		}
		if st := w.set.Stats(); st.AutoRanges == 0 || !w.set.Covers(second) || w.set.Covers(first) || st.AutoDroppedTotal == 0 {
			t.Errorf("another one is listed: %+v", st)
		}
		if n := w.often(ctx, named); n != 20 {
			t.Errorf("of what is named %d lists were answered", n)
		}
		<-time.After(7 * time.Minute)
		if st := w.set.Stats(); st.AutoRanges != 0 || st.VoidTotal != 0 || st.WrongTotal != 0 || st.Bytes > 500 {
			t.Errorf("nobody lists anything: %+v", st)
		}
		if n := w.often(ctx, named); n != 20 || w.set.Covers(second) {
			t.Errorf("of what is named %d lists were answered", n)
		}
		stop()
	})
}

// TestAutoRandom: ranges come and go, while they are written to, cut, merged and moved, their feeds have gaps, and clients list now these and now those. What
// mirrors answer is what the store holds.
func TestAutoRandom(t *testing.T) {
	take()
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { autoRandom(t, seed) }) })
	}
}

func autoRandom(t *testing.T, seed uint64) {
	ctx := t.Context()
	const room = 3000
	cfg := mirror.Config{History: 2 * time.Second, HistoryBytes: 40_000, AuditEvery: time.Second, Spans: []shard.Span{}, AutoSize: room, AutoFloor: 1}
	if seed%2 == 1 {
		cfg.Spans = []shard.Span{{Start: []byte("k15"), End: []byte("k20")}}
	}
	w := newWorld(t, seed, cfg)
	for range 50 {
		w.write(fmt.Sprintf("k%02d", w.some(100)))
	}
	stop := w.start(ctx)
	var wg sync.WaitGroup
	end := time.Now().Add(6 * time.Minute)
	alive := func() bool { return time.Now().Before(end) && !t.Failed() }
	writes := rand.New(rand.NewPCG(seed, 100))
	wg.Go(func() {
		for alive() {
			w.write(fmt.Sprintf("k%02d", writes.IntN(50)), fmt.Sprintf("k%02d", 50+writes.IntN(50)))
			<-time.After(time.Duration(writes.IntN(100)) * time.Millisecond)
		}
	})
	for n := range 2 {
		rng := rand.New(rand.NewPCG(seed, uint64(200+n)))
		wg.Go(func() {
			for alive() {
				w.list(ctx, rng)
				<-time.After(time.Duration(rng.IntN(500)) * time.Millisecond)
			}
		})
	}
	wg.Go(func() { // now the one half of the keys is listed more, and now the other
		for i := 0; alive(); i++ {
			half := shard.Span{Start: []byte("k0"), End: []byte("k5")}
			if i%2 == 1 {
				half = shard.Span{Start: []byte("k5"), End: []byte("k9")}
			}
			for range 60 {
				if _, served, err := w.set.Read(ctx, &mirror.Request{Span: half}); err != nil {
					t.Error(err)
				} else if !served {
					w.listRanges(half)
				}
				<-time.After(time.Second)
			}
		}
	})
	for alive() {
		w.change()
		w.set.MapChanged()
		<-time.After(time.Duration(w.some(20000)) * time.Millisecond)
	}
	wg.Wait()
	if _, err := w.set.Audit(ctx); err != nil {
		t.Error(err)
	}
	st := w.set.Stats()
	t.Logf("%+v", st)
	if st.HitsTotal < leastHits/2 || st.WrongTotal > 0 || st.AutoTakenTotal < 3 || st.AutoDroppedTotal < 1 || st.Bytes > room+1000 {
		t.Errorf("%+v", st)
	}
	stop()
}
