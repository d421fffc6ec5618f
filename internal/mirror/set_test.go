package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/mirror"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/underway"
	"pontoon/shard"
)

// TestMutants: each rule of mirrors that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.MirrorNames(), 4*time.Minute, mutatetest.NoticedBy, "-test.run=^(TestRandom|TestScenarios|TestJoined)$")
}

func take() {
	if *mutatetest.Mutant != "" {
		mutate.Set(*mutatetest.Mutant)
	}
}

// start runs the world until the test ends; in a bubble of synctest.
func (w *world) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.set.Run(ctx) })
	wg.Go(func() { w.pump(ctx) })
	return func() {
		cancel()
		wg.Wait()
		<-time.After(time.Minute) // what is timed
	}
}

// standing waits until there are so many parts.
func (w *world) standing(n int64) {
	w.t.Helper()
	for range 10_000 {
		if w.set.Stats().Parts >= n {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	w.t.Fatalf("%+v", w.set.Stats())
}

// list asks for some list and judges the answer.
func (w *world) list(ctx context.Context, rng *rand.Rand) {
	start, end := rng.IntN(90), rng.IntN(90)
	if start > end {
		start, end = end, start
	}
	req := &mirror.Request{Span: shard.Span{Start: fmt.Appendf(nil, "k%02d", start), End: fmt.Appendf(nil, "k%02d", end+1)}, Reverse: rng.IntN(4) == 0}
	if rng.IntN(3) == 0 {
		req.Limit = 1 + rng.Int64N(20)
	}
	var acked int64
	w.locked(func() { acked = w.rev })
	switch rng.IntN(4) {
	case 0:
		req.Revision = max(1, acked-rng.Int64N(400))
	case 1:
		req.Serializable = true
	}
	res, served, err := w.set.Read(ctx, req)
	if err != nil {
		w.t.Error(err)
	}
	if err != nil || !served {
		w.listRanges(req.Span)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rev := res.Revision
	if req.Revision > 0 {
		rev = req.Revision
	}
	if !req.Serializable && res.Revision < acked || res.Revision > w.rev {
		w.t.Errorf("a list that came at revision %d is answered at %d; now it is %d", acked, res.Revision, w.rev)
		return
	}
	want := w.at(req.Span, rev)
	count := int64(len(want))
	if req.Reverse {
		slices.Reverse(want)
	}
	if req.Limit > 0 {
		want = want[:min(count, req.Limit)]
	}
	if res.Count != count || res.Keys != int64(len(want)) || !bytes.Equal(bytes.Join(res.Pieces, nil), bytes.Join(want, nil)) {
		w.t.Errorf("%+v at %d (header %d) is answered with %d of %d keys, not %d of %d:\n%q\n%q", req, rev, res.Revision, res.Keys, res.Count, len(want), count,
			bytes.Join(res.Pieces, nil), bytes.Join(want, nil))
	}
}

// TestRandom: whatever happens to ranges and feeds, what a mirror answers is what the store holds at one revision, at or above every one that was acknowledged
// when the list came; and mirrors answer a good part. How large a part differs from run to run: it is a matter of who comes first, a list or the change that
// takes its part away.
func TestRandom(t *testing.T) {
	take()
	seeds := uint64(12)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { random(t, seed) }) })
	}
}

// One list in goodPart is answered by mirrors at least, and so many in all that the comparison is of something. The two processors of a busy machine have
// answered a third of a seed's lists, and several hundred.
const (
	goodPart  = 6
	leastHits = 100
)

func random(t *testing.T, seed uint64) {
	ctx := t.Context()
	w := newWorld(t, seed, mirror.Config{History: 2 * time.Second, HistoryBytes: 40_000, AuditEvery: time.Second})
	for range 50 {
		w.write(fmt.Sprintf("k%02d", w.some(100)))
	}
	stop := w.start(ctx)
	w.standing(3)
	var wg sync.WaitGroup
	end := time.Now().Add(20 * time.Second)
	for n := range 2 {
		rng := rand.New(rand.NewPCG(seed, uint64(100+n)))
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				keys := map[string]bool{}
				for range 1 + rng.IntN(3) {
					keys[fmt.Sprintf("k%02d", rng.IntN(100))] = true
				}
				var names []string
				for k := range keys {
					names = append(names, k)
				}
				w.write(names...)
				<-time.After(time.Duration(rng.IntN(20)) * time.Millisecond)
			}
		})
	}
	for n := range 3 {
		rng := rand.New(rand.NewPCG(seed, uint64(200+n)))
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				w.list(ctx, rng)
				<-time.After(time.Duration(rng.IntN(30)) * time.Millisecond)
			}
		})
	}
	for time.Now().Before(end) && !t.Failed() {
		w.change()
		w.set.MapChanged()
		<-time.After(time.Duration(w.some(600)) * time.Millisecond)
	}
	wg.Wait()
	if _, err := w.set.Audit(ctx); err != nil {
		t.Error(err)
	}
	st := w.set.Stats()
	t.Logf("%+v", st)
	if lists := st.HitsTotal + st.MissesTotal; st.HitsTotal < leastHits || st.HitsTotal < lists/goodPart || st.WrongTotal > 0 {
		t.Errorf("of %d lists: %+v", lists, st)
	}
	stop()
}

// TestScenarios are what the random test meets rarely.
func TestScenarios(t *testing.T) {
	take()
	whole := shard.Span{Start: []byte("k0"), End: []byte("k9")}
	for name, run := range map[string]func(t *testing.T, ctx context.Context, w *world){
		"a list without its own answer of the oracle would be stale, and asks no replica": func(t *testing.T, ctx context.Context, w *world) {
			reads := w.reads
			rng := rand.New(rand.NewPCG(1, 1))
			for range 100 {
				w.write("k11", "k44", "k77")
				w.list(ctx, rng)
			}
			if w.reads != reads || w.set.Stats().HitsTotal < 60 {
				t.Errorf("%d pages were read of replicas for %+v", w.reads-reads, w.set.Stats())
			}
		},
		"what does not get closed goes to the ranges": func(t *testing.T, ctx context.Context, w *world) {
			w.locked(func() { w.lazy = true })
			w.write("k11")
			begun := time.Now()
			if _, served, err := w.set.Read(ctx, &mirror.Request{Span: whole}); served || err != nil || time.Since(begun) < time.Second {
				t.Errorf("served %v, %v after %v", served, err, time.Since(begun))
			}
			if res, served, err := w.set.Read(ctx, &mirror.Request{Span: whole, Serializable: true}); !served || err != nil || res.Revision < 1 {
				t.Errorf("a serializable list is not served: %v", err)
			}
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond*10)
			defer cancel()
			if _, _, err := w.set.Read(ctx, &mirror.Request{Span: whole}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("its client's deadline: %v", err)
			}
		},
		"a revision that nobody has handed out, one that was forgotten, keys that are not mirrored": func(t *testing.T, ctx context.Context, w *world) {
			if _, served, err := w.set.Read(ctx, &mirror.Request{Span: whole, Revision: w.rev + 10}); !served || !errors.Is(err, shard.ErrFutureRevision) {
				t.Errorf("served %v, %v", served, err)
			}
			if _, served, err := w.set.Read(ctx, &mirror.Request{Span: whole, Revision: 2}); served || err != nil {
				t.Errorf("served %v, %v", served, err)
			}
			if _, served, err := w.set.Read(ctx, &mirror.Request{Span: shard.All}); served || err != nil || w.set.Covers(shard.All) {
				t.Errorf("served %v, %v", served, err)
			}
		},
		"a feed that has lost something": func(t *testing.T, ctx context.Context, w *world) {
			w.write("k11")
			w.locked(func() {
				r := w.over([]byte("k11"))
				r.queue = nil
				r.put(shard.FeedItem{Gap: true})
			})
			w.list(ctx, rand.New(rand.NewPCG(3, 3)))
			<-time.After(time.Second)
			w.standing(3)
			if st := w.set.Stats(); st.VoidTotal != 1 || st.BuildsTotal != 3+1 {
				t.Errorf("%+v", st)
			}
			if n, err := w.set.Audit(ctx); n < 3 || err != nil {
				t.Errorf("%d compared, %v", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 99, mirror.Config{AuditEvery: -1})
				for i := range 300 {
					w.write(fmt.Sprintf("k%02d", i%90))
				}
				stop := w.start(t.Context())
				w.standing(3)
				run(t, t.Context(), w)
				stop()
			})
		})
	}
}

// TestJoined: equal reads are one, but for those that came when it had begun, which are the next one.
func TestJoined(t *testing.T) {
	take()
	synctest.Test(t, func(t *testing.T) {
		j := mirror.NewJoined[int](underway.NewLists(10))
		var begun atomic.Int64
		var wg sync.WaitGroup
		read := func(ctx context.Context, _ *underway.List) (int, error) {
			n := begun.Add(1)
			<-time.After(time.Second)
			return int(n), nil
		}
		got := map[int]int{}
		var mu sync.Mutex
		for i := range 100 {
			wg.Go(func() {
				<-time.After(time.Duration(i%2) * 500 * time.Millisecond)
				before := begun.Load()
				n, _, err := j.Do(t.Context(), "a", "", 1, read)
				if err != nil || int64(n) <= before {
					t.Errorf("a read that came when %d had begun is answered by number %d, %v", before, n, err)
				}
				mu.Lock()
				got[n]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if len(got) > 3 {
			t.Errorf("%v", got)
		}
		// As much at a time as there is room for, whatever it is.
		var now, most atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				_, _, err := j.Do(t.Context(), fmt.Sprint(i), "", 4, func(context.Context, *underway.List) (int, error) {
					if n := now.Add(1); n > most.Load() {
						most.Store(n)
					}
					<-time.After(time.Second)
					now.Add(-1)
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != 2 {
			t.Errorf("%d at a time", most.Load())
		}
		// Who does not wait any more ends nobody else's read, and the last one ends it.
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		slow := func(ctx context.Context, _ *underway.List) (int, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return 0, ctx.Err()
		}
		for range 2 {
			wg.Go(func() { _, _, _ = j.Do(ctx, "slow", "", 1, slow) })
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if err := <-ended; err == nil {
			t.Error("nobody waits, and it goes on")
		}
		synctest.Wait()
		if n, _, err := j.Do(t.Context(), "slow", "", 1, func(context.Context, *underway.List) (int, error) { return 7, nil }); n != 7 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// TestWhatGrowsIsGivenUp: the bound holds for parts that stand, too. The largest is given up, and the others go on.
func TestWhatGrowsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4000
		w := newWorld(t, 7, mirror.Config{AuditEvery: -1, SizeMax: most})
		w.write("k11")
		w.write("k44")
		w.write("k77")
		stop := w.start(t.Context())
		defer stop()
		w.standing(3)
		for i := 0; w.set.Stats().Bytes <= most; i++ {
			if i > 10_000 {
				t.Fatalf("%+v", w.set.Stats())
			}
			w.write(fmt.Sprintf("k44/%04d", i))
			<-time.After(time.Millisecond)
		}
		<-time.After(2 * time.Second)
		if st := w.set.Stats(); st.Bytes > most || st.VoidTotal != 1 || st.Parts < 2 {
			t.Errorf("%+v", st)
		}
		if !w.set.Covers(shard.Span{Start: []byte("k7"), End: []byte("k8")}) {
			t.Error("a small part was given up")
		}
		<-time.After(time.Minute) // it is tried again, and does not fit
		if st := w.set.Stats(); st.Bytes > most || st.Parts != 3-1 && st.Parts != 3 || st.Parts+st.PartsVoid != 3 {
			t.Errorf("%+v", st)
		}
	})
}
