package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestCloserSparesMany: closing many ranges without fences is paced, too: each costs something on every node that has it.
func TestCloserSparesMany(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() {
			for i := range 3000 {
				w.ranges = append(w.ranges, &fakeRange{w: w, id: shard.RangeID(i + 6)})
			}
			w.granted = &shard.Granted{}
		})
		spared := func(d time.Duration, asked bool) uint64 {
			before := w.c.spared.Load()
			for end := time.Now().Add(d); time.Now().Before(end); <-time.After(time.Millisecond) {
				w.set(func() { w.rev++; w.granted = &shard.Granted{Revision: w.rev} })
				if asked {
					w.c.schedule(nil)
				}
			}
			return w.c.spared.Load() - before
		}
		if n := spared(10*time.Second, false); n < 10*6000 || n > 10*10_000 {
			t.Errorf("%d were closed in ten seconds in which nobody asked", n)
		}
		if n := spared(time.Second, true); n < 80_000 || n > 105_000 {
			t.Errorf("%d were closed in a second in which somebody asked", n)
		}
	})
}

// fakeRange is a replica whose fences are answered at once, unless it is stuck.
type fakeRange struct {
	w      *closerWorld
	id     shard.RangeID
	leads  bool
	stuck  bool
	closed int64
	fences int
}

func (f *fakeRange) ID() shard.RangeID       { return f.id }
func (f *fakeRange) Leading() (uint64, bool) { return 6, f.leads }
func (f *fakeRange) AppliedIndex() uint64    { return 100 + uint64(f.id) }

func (f *fakeRange) ClosedRevision() int64 {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.closed
}

func (f *fakeRange) CloseAt(rev int64, _ shard.Epoch, done func(uint64, bool)) {
	f.w.mu.Lock()
	f.fences++
	stuck := f.stuck
	f.w.mu.Unlock()
	if !stuck {
		done(f.AppliedIndex(), true)
	}
}

func (f *fakeRange) LearnClosed(rev int64, _ shard.Epoch, _, _ uint64) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.closed = max(f.closed, rev)
}

func (f *fakeRange) LearnGranted(g *shard.Granted) bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if g.Final(f.id, f.closed) {
		f.closed = g.Revision
	}
	return f.closed >= g.Revision
}

// closerWorld is a node with a closer, whose other nodes only listen.
type closerWorld struct {
	c      *closer
	ranges []*fakeRange

	mu      sync.Mutex
	rev     int64
	granted *shard.Granted // what the oracle tells; nil: it does not
	since   []int64        // what it was asked for
	pushes  []string
	asks    []string
}

// run drives a closer on a virtual clock.
func runCloser(t *testing.T, fn func(w *closerWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &closerWorld{rev: 10}
		for i := range 4 {
			w.ranges = append(w.ranges, &fakeRange{w: w, id: shard.RangeID(i + 2), leads: i < 3})
		}
		now := func() (int64, shard.Epoch) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.rev, 6
		}
		w.c = newCloser(closerEnv{
			replicas: func(visit func(closable)) {
				for _, f := range w.ranges {
					visit(f)
				}
			},
			find: func(id shard.RangeID) (closable, bool) {
				if int(id) >= len(w.ranges)+2 {
					return nil, false
				}
				return w.ranges[id-2], true
			},
			newest: now,
			granted: func(_ context.Context, since int64) (shard.Now, error) {
				rev, epoch := now()
				w.mu.Lock()
				defer w.mu.Unlock()
				w.since = append(w.since, since)
				return shard.Now{Revision: rev, Epoch: epoch, Granted: w.granted}, nil
			},
			push: func(p *pb.ClosedPush) {
				var parts []string
				for _, r := range p.Ranges {
					parts = append(parts, fmt.Sprintf("r%d at %d", r.RangeId, r.Index))
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				w.pushes = append(w.pushes, fmt.Sprintf("%d: %s", p.Revision, strings.Join(parts, ", ")))
			},
			request: func(r *pb.CloseRequest) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.asks = append(w.asks, fmt.Sprintf("%d missed=%v%s", r.Revision, r.Missed, of(r.Ranges)))
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.c.run(ctx) })
		fn(w)
		cancel()
		wg.Wait()
	})
}

// of shows ranges that were named.
func of(ranges []uint64) string {
	if ranges == nil {
		return ""
	}
	return fmt.Sprint(" ", ranges)
}

// set changes what the closer finds.
func (w *closerWorld) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

// told returns what has been pushed and asked since the last call.
func (w *closerWorld) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(append(w.pushes, w.asks...), "; ")
	w.pushes, w.asks = nil, nil
	return out
}

func (w *closerWorld) expect(t *testing.T, d time.Duration, want string) {
	t.Helper()
	<-time.After(d) // of the virtual clock
	synctest.Wait()
	if got := w.told(); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestCloserAtAnInterval(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() { w.ranges[3].closed = 100 }) // not this test's matter
		w.expect(t, closeInterval, "10: r2 at 102, r3 at 103, r4 at 104")
		w.expect(t, 20*closeInterval, "")
		w.mu.Lock()
		w.rev = 11
		w.mu.Unlock()
		w.expect(t, closeInterval, "11: r2 at 102, r3 at 103, r4 at 104")
		if n := w.ranges[0].fences; n != 2 {
			t.Errorf("%d fences, want 2", n)
		}
	})
}

func TestCloserOnRequest(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() { w.ranges[3].closed = 100 })
		w.c.AskClose(10, nil)
		w.expect(t, time.Millisecond, "10: r2 at 102, r3 at 103, r4 at 104; 10 missed=false")
		w.c.requested(&pb.CloseRequest{Revision: 10})
		w.expect(t, closeSpacing, "")
	})
}

// TestCloserClosesWhatIsAskedFor: where somebody waits for some ranges only those are fenced, here and where it asks.
func TestCloserClosesWhatIsAskedFor(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() { w.ranges[3].closed = 100 })
		w.c.AskClose(10, []shard.RangeID{3, 5})
		w.expect(t, time.Millisecond, "10: r3 at 103; 10 missed=false [3 5]")
		w.c.requested(&pb.CloseRequest{Revision: 10, Ranges: []uint64{2, 3}})
		w.expect(t, closeSpacing, "10: r2 at 102")
		w.set(func() { w.rev = 11 })
		w.c.requested(&pb.CloseRequest{Revision: 11, Ranges: []uint64{2}})
		w.c.requested(&pb.CloseRequest{Revision: 11})
		w.expect(t, closeSpacing, "11: r2 at 102, r3 at 103, r4 at 104")
		if n := w.ranges[2].fences; n != 1 {
			t.Errorf("%d fences of a range that was asked for once, with all", n)
		}
	})
}

// TestCloserSparesFences: what the oracle has given no revision is closed by everybody who has it, without a fence, and nobody is told or asked; what is
// left is fenced, here and where it is led.
func TestCloserSparesFences(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() {
			for _, f := range w.ranges {
				f.closed = 10
			}
			w.ranges[3].closed = 9 // this node does not lead it
			w.rev = 12
			w.granted = &shard.Granted{Revision: 12, Floor: 9, Last: map[shard.RangeID]int64{3: 11, 4: 10}}
		})
		w.c.AskClose(12, []shard.RangeID{2, 3, 4, 5, 6 + 1000})
		w.expect(t, time.Millisecond, "12: r3 at 103; 12 missed=false [1006]")
		if !slices.Equal(w.since, []int64{9}) || w.c.spared.Load() != 3 || w.c.fences.Load() != 1 {
			t.Errorf("asked since %v, %d spared, %d fenced", w.since, w.c.spared.Load(), w.c.fences.Load())
		}
		w.set(func() { w.rev, w.granted = 13, &shard.Granted{Revision: 13, Floor: 13} })
		w.expect(t, closeInterval, "13: r2 at 102, r3 at 103, r4 at 104")
		w.set(func() { w.rev, w.granted = 14, &shard.Granted{Revision: 14, Floor: 12} })
		w.expect(t, closeInterval, "") // at an interval, too
		if w.ranges[2].closed != 14 {
			t.Errorf("what is led here is closed at %d", w.ranges[2].closed)
		}
	})
}

// One question will do for all hubs that want the same, but not for ever: it may be lost.
func TestCloserAsksOnce(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() {
			for _, f := range w.ranges {
				f.closed = 100
			}
		})
		for range 3 {
			w.c.AskClose(10, nil)
		}
		w.expect(t, time.Millisecond, "10 missed=false")
		w.c.requested(&pb.CloseRequest{Revision: 12})
		w.c.AskClose(11, nil)
		w.c.AskClose(12, nil)
		w.expect(t, time.Millisecond, "")
		w.c.AskClose(13, nil)
		w.expect(t, backend.AskedFor+closeSpacing, "13 missed=false")
		w.c.AskClose(13, nil)
		w.expect(t, time.Millisecond, "13 missed=false")
	})
}

// A push may be lost, as it is for a node that is down: it asks, and what is closed is told again.
func TestCloserTellsWhoMissedIt(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.expect(t, closeInterval, "10: r2 at 102, r3 at 103, r4 at 104")
		w.c.requested(&pb.CloseRequest{Revision: 10, Missed: true})
		w.expect(t, closeSpacing, "10: r2 at 102, r3 at 103, r4 at 104")
		if n := w.ranges[0].fences; n != 1 {
			t.Errorf("%d fences, want 1", n)
		}
		w.expect(t, 2*closeRechecks*closeInterval, "10 missed=true") // nobody has told of r5
		w.c.told(&pb.ClosedPush{Revision: 10, Ranges: []*pb.ClosedRange{{RangeId: 5}}})
		w.expect(t, 3*closeRechecks*closeInterval, "")
	})
}

// A range that cannot be closed now holds up no other, and tells when it is.
func TestCloserStraggler(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() { w.ranges[3].closed, w.ranges[1].stuck = 100, true })
		w.expect(t, closeInterval+closeStraggle, "10: r2 at 102, r4 at 104")
		w.set(func() { w.ranges[1].stuck = false })
		w.expect(t, closeInterval, "10: r3 at 103")
	})
}

// Many ranges are closed less often, each at the same revision still.
func TestCloserOfManyRanges(t *testing.T) {
	runCloser(t, func(w *closerWorld) {
		w.set(func() {
			for i := range 3000 {
				w.ranges = append(w.ranges, &fakeRange{w: w, id: shard.RangeID(i + 6), leads: true})
			}
		})
		fences := func(d time.Duration, asked bool) (n int) {
			for end := time.Now().Add(d); time.Now().Before(end); <-time.After(time.Millisecond) {
				w.set(func() { w.rev++ })
				if asked {
					w.c.schedule(nil)
				}
			}
			w.told()
			for _, f := range w.ranges {
				w.set(func() { n += f.fences; f.fences = 0 })
			}
			return n
		}
		if n := fences(10*time.Second, false); n < 10*2500 || n > 10*5000 {
			t.Errorf("%d fences in ten seconds in which nobody asked", n)
		}
		if n := fences(time.Second, true); n < 40000 || n > 55000 {
			t.Errorf("%d fences in a second in which somebody asked", n)
		}
	})
}
