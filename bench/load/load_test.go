package load

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// takes is an operation of constant length.
func takes(d time.Duration) Op {
	return func(context.Context, int, int64) (int, error) {
		<-time.After(d)
		return 0, nil
	}
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if got < want*(1-tolerance) || got > want*(1+tolerance) {
		t.Errorf("%s is %v, want about %v", what, got, want)
	}
}

func TestClosedLoopByDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Run(t.Context(), Plan{Workers: 4, Duration: 10 * time.Second}, takes(10*time.Millisecond))
		if o.Done != 4000 || o.Failed != 0 || o.Unstarted != 0 || o.Next < 4000 || o.Interrupted {
			t.Errorf("%+v", o)
		}
		near(t, "p99", float64(o.Latency.P99), 10_000, 0.01)
		if o.Elapsed != 10*time.Second {
			t.Errorf("took %v", o.Elapsed)
		}
		if len(o.Points) < 9 || len(o.Points) > 10 {
			t.Fatalf("%d points of 10 s", len(o.Points))
		}
		near(t, "the fifth second's rate", o.Points[4].Rate, 400, 0.02)
	})
}

func TestFixedOperationsAreEachRunOnce(t *testing.T) {
	for _, rate := range []float64{0, 5000} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var seen []int64
			op := func(_ context.Context, _ int, seq int64) (int, error) {
				<-time.After(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, seq)
				return 0, nil
			}
			o := Run(t.Context(), Plan{Workers: 7, Operations: 1000, Rate: rate, First: 50}, op)
			slices.Sort(seen)
			if o.Done != 1000 || len(slices.Compact(seen)) != 1000 || seen[0] != 50 || seen[999] != 1049 || o.Next < 1050 {
				t.Errorf("rate %v: done %d, numbers %d…%d, next %d", rate, o.Done, seen[0], seen[len(seen)-1], o.Next)
			}
		})
	}
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Run(t.Context(), Plan{Workers: 10, Rate: 100, Duration: 10 * time.Second}, takes(3*time.Millisecond))
		if o.Done != 1000 || o.Unstarted != 0 {
			t.Errorf("%d done, %d unstarted", o.Done, o.Unstarted)
		}
		near(t, "p50", float64(o.Latency.P50), 3000, 0.01)
		near(t, "max", float64(o.Latency.Max), 3000, 0.01)
	})
}

// A server that stands still for a second is charged for everybody who came in that second.
func TestOpenLoopCountsFromWhenAnOperationWasDue(t *testing.T) {
	stall := func() Op {
		return func(_ context.Context, _ int, seq int64) (int, error) {
			if seq == 500 {
				<-time.After(time.Second)
			} else {
				<-time.After(time.Millisecond)
			}
			return 0, nil
		}
	}
	synctest.Test(t, func(t *testing.T) {
		open := Run(t.Context(), Plan{Workers: 1, Rate: 100, Duration: 10 * time.Second}, stall())
		if open.Done != 1000 {
			t.Errorf("%d done", open.Done)
		}
		// One operation in ten was due while it stood still, or in its wake: p95 is half of that.
		near(t, "p95 of the open loop", float64(open.Latency.P95), 500_000, 0.2)
		near(t, "max of the open loop", float64(open.Latency.Max), 1_000_000, 0.01)

		closed := Run(t.Context(), Plan{Workers: 1, Operations: 1000}, stall())
		near(t, "p95 of the closed loop", float64(closed.Latency.P95), 1000, 0.01)
	})
}

func TestOverloadIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Run(t.Context(), Plan{Workers: 1, Rate: 1000, Duration: 10 * time.Second}, takes(10*time.Millisecond))
		if o.Done+o.Unstarted != 10_000 || o.Unstarted < 8000 {
			t.Errorf("%d done and %d unstarted of 10000", o.Done, o.Unstarted)
		}
		if o.Latency.Max < 10_000_000 {
			t.Errorf("the last ones waited for more than 10 s, max is %d µs", o.Latency.Max)
		}
	})
}

func TestFailuresAreCountedAndEndTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		op := func(_ context.Context, _ int, seq int64) (int, error) {
			<-time.After(time.Millisecond)
			if seq%2 == 1 {
				return 0, boom
			}
			return 0, nil
		}
		o := Run(t.Context(), Plan{Workers: 2, Operations: 100}, op)
		if o.Done != 50 || o.Failed != 50 || o.Errors["boom"] != 50 || o.Latency.Count != 50 || o.Interrupted {
			t.Errorf("%+v", o)
		}
		o = Run(t.Context(), Plan{Workers: 2, Duration: time.Hour}, op)
		if !o.Interrupted || o.Failed < failuresMax || o.Failed > failuresMax+2 {
			t.Errorf("%d failures, interrupted %v", o.Failed, o.Interrupted)
		}
	})
}

func TestErrorMessagesAreLimited(t *testing.T) {
	r := newRecorder(1)
	for i := range 200 {
		r.fail(i, errors.New(string(rune('a'+i))))
	}
	got := r.errorCounts()
	var sum int64
	for _, n := range got {
		sum += n
	}
	if len(got) > errorKindsMax+1 || sum != 200 {
		t.Errorf("%d messages, %d errors", len(got), sum)
	}
}

func TestTimeoutFailsAnOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op := func(ctx context.Context, _ int, _ int64) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		o := Run(t.Context(), Plan{Workers: 1, Operations: 3, Timeout: time.Second}, op)
		if o.Failed != 3 || o.Elapsed != 3*time.Second {
			t.Errorf("%+v", o)
		}
	})
}

func TestCancelledRunSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var begun atomic.Int64
		op := func(ctx context.Context, _ int, _ int64) (int, error) {
			begun.Add(1)
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(time.Minute):
				return 0, nil
			}
		}
		o := Run(ctx, Plan{Workers: 3, Duration: time.Hour, Rate: 1}, op)
		if !o.Interrupted || o.Failed != 0 || o.Done != 0 || begun.Load() == 0 {
			t.Errorf("%+v", o)
		}
	})
}

func TestKindsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		op := func(_ context.Context, _ int, seq int64) (int, error) {
			kind := int(seq % 2)
			<-time.After(time.Duration(kind+1) * time.Millisecond)
			return kind, nil
		}
		o := Run(t.Context(), Plan{Workers: 3, Operations: 100, Kinds: []string{"read", "write"}}, op)
		if o.Kinds["read"].Count != 50 || o.Kinds["write"].Count != 50 || o.Latency.Count != 100 {
			t.Errorf("%+v", o.Kinds)
		}
		near(t, "reads", float64(o.Kinds["read"].P99), 1000, 0.01)
		near(t, "writes", float64(o.Kinds["write"].P99), 2000, 0.01)
	})
}

func TestLatencyBeyondTheHistogramIsKept(t *testing.T) {
	var s Stopwatch
	s.Add(time.Hour)
	s.Add(0)
	got := s.Summary()
	if got.Count != 2 || got.Min != 1 || got.Max < latencyMax.Microseconds()*999/1000 {
		t.Errorf("%+v", got)
	}
}
