package underway

import (
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
)

// enters has a list enter, and tells when it has.
func enters(t *testing.T, l *Lists, ctx context.Context, who string, bytes int64) <-chan *List {
	t.Helper()
	got := make(chan *List, 1)
	go func() {
		if n, err := l.Enter(ctx, who, bytes); err == nil {
			got <- n
		}
	}()
	synctest.Wait()
	return got
}

func isIn(c <-chan *List) *List {
	synctest.Wait()
	select {
	case n := <-c:
		return n
	default:
		return nil
	}
}

// TestListsInOrder: there is room for so many bytes, and for one list of any size. Who waits enters in order of arrival, one of each who asks at a time.
func TestListsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := NewLists(100), t.Context()
		first := isIn(enters(t, l, ctx, "a", 500))
		if first == nil {
			t.Fatal("one of any size is not let in")
		}
		var order []string
		var waiting []<-chan *List
		names := []string{"a1", "a2", "a3", "b1", "c1", "b2"}
		for _, name := range names {
			waiting = append(waiting, enters(t, l, ctx, name[:1], 100))
		}
		if in, bytes, waits := l.Figures(); in != 1 || bytes != 100 || waits != int64(len(names)) {
			t.Errorf("%d are in with %d bytes, %d wait", in, bytes, waits)
		}
		for now := first; now != nil; {
			now.Leave()
			now = nil
			for i, c := range waiting {
				if n := isIn(c); n != nil {
					if now != nil {
						t.Fatalf("%s enters beside %s", names[i], order[len(order)-1])
					}
					now, order = n, append(order, names[i])
				}
			}
		}
		if want := []string{"a1", "b1", "c1", "a2", "b2", "a3"}; !slices.Equal(order, want) {
			t.Errorf("they entered as %v, want %v", order, want)
		}
		if in, bytes, waits := l.Figures(); in != 0 || bytes != 0 || waits != 0 || len(l.lines) != 0 || l.turns.Len() != 0 {
			t.Errorf("%d are in with %d bytes, %d wait, in %d lines", in, bytes, waits, len(l.lines))
		}
	})
}

// TestListsGiveUp: who has no time left is out of the line, and nothing is left of it.
func TestListsGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLists(100)
		first := isIn(enters(t, l, t.Context(), "a", 100))
		for i := range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := l.Enter(ctx, fmt.Sprint(i), 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if len(l.lines) != 0 || l.turns.Len() != 0 || l.waits != 0 {
			t.Errorf("of who has given up %d lines are left, %d turns", len(l.lines), l.turns.Len())
		}
		next := enters(t, l, t.Context(), "z", 100)
		first.Leave()
		first.Leave()
		if n := isIn(next); n == nil {
			t.Error("nobody enters")
		}
	})
}

// TestListsGrow: a list that takes more than it entered with waits where that is too much, unless it is the first of those that are in: so that all end.
func TestListsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := NewLists(100), t.Context()
		a, b := isIn(enters(t, l, ctx, "a", 40)), isIn(enters(t, l, ctx, "b", 40))
		if err := errors.Join(a.Took(ctx, 30), b.Took(ctx, 30)); err != nil {
			t.Fatal(err)
		}
		var done atomic.Int32
		go func() {
			if b.Took(ctx, 80) == nil { // 110 of its own
				done.Add(1)
			}
		}()
		synctest.Wait()
		if _, bytes, _ := l.Figures(); bytes != 150 || done.Load() != 0 {
			t.Fatalf("%d bytes are in; the second goes on beside the first: %v", bytes, done.Load() > 0)
		}
		late := enters(t, l, ctx, "c", 1)
		if err := a.Took(ctx, 300); err != nil { // the first never waits
			t.Fatal(err)
		}
		if isIn(late) != nil {
			t.Error("one enters where there is too much")
		}
		a.Leave()
		synctest.Wait()
		if done.Load() != 1 {
			t.Error("the second, which is the first now, waits")
		}
		b.Leave()
		if isIn(late) == nil {
			t.Error("nobody enters")
		}
	})
}

// TestListsWhole: what a list has not taken of its estimate is free once it is put together.
func TestListsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, ctx := NewLists(100), t.Context()
		a := isIn(enters(t, l, ctx, "a", 100))
		b := enters(t, l, ctx, "b", 60)
		if err := a.Took(ctx, 30); err != nil {
			t.Fatal(err)
		}
		a.Whole()
		if isIn(b) == nil {
			t.Error("the other waits")
		}
	})
}

// TestListsOfMany: lists of all sizes from everywhere, with estimates that are wrong, all come to an end, and never take much more than there is room for.
func TestListsOfMany(t *testing.T) {
	const most, page, largest = 1000, 50, 600
	l := NewLists(most)
	var taken, peak atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				n, err := l.Enter(ctx, fmt.Sprint(i%5), 1+r.Int64N(200))
				if err != nil {
					t.Error(err)
				} else {
					mine := int64(0)
					for want := r.Int64N(largest); mine < want && err == nil; {
						mine += page
						if now := taken.Add(page); now > peak.Load() {
							peak.Store(now)
						}
						err = n.Took(ctx, page)
					}
					if err != nil {
						t.Error(err)
					}
					n.Whole()
					taken.Add(-mine)
					n.Leave()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if in, bytes, waits := l.Figures(); in != 0 || bytes != 0 || waits != 0 || len(l.grows) != 0 {
		t.Errorf("%d are in with %d bytes, %d wait", in, bytes, waits)
	}
	if bound := int64(most + largest + 16*page); peak.Load() > bound {
		t.Errorf("%d bytes at a time, at most %d", peak.Load(), bound)
	}
}
