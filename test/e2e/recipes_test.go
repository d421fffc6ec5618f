package e2e

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"

	"pontoon/test/e2e/harness"
)

// recipeSplits cut through the keys of each recipe: by the first digit of a lease or of a priority, and
// between the parts of a double barrier and of a read-write lock.
var recipeSplits = []string{
	"/r/db/s", "/r/elect/2", "/r/elect/4", "/r/elect/6", "/r/lock/2", "/r/lock/4", "/r/lock/6",
	"/r/pq/00003", "/r/pq/00006", "/r/rw/s",
}

// TestRecipes: what clientv3/concurrency and its recipes build holds where their keys lie in several
// ranges.
func TestRecipes(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{SplitKeys: recipeSplits})
	t.Run("mutex", func(t *testing.T) { recipeMutex(t, c) })
	t.Run("election", func(t *testing.T) { recipeElection(t, c) })
	t.Run("queue", func(t *testing.T) { recipeQueue(t, c) })
	t.Run("priority queue", func(t *testing.T) { recipePriorityQueue(t, c) })
	t.Run("barrier", func(t *testing.T) { recipeBarrier(t, c) })
	t.Run("double barrier", func(t *testing.T) { recipeDoubleBarrier(t, c) })
	t.Run("rwmutex", func(t *testing.T) { recipeRWMutex(t, c) })
}

// members runs fn for n clients at once, each with a session through another node.
func members(t *testing.T, c *harness.Cluster, n int, fn func(i int, s *concurrency.Session)) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		s := session(t, newClient(t, c, c.Nodes[i%len(c.Nodes)].ClientURL))
		wg.Go(func() { fn(i, s) })
	}
	wg.Wait()
}

func recipeMutex(t *testing.T, c *harness.Cluster) {
	ctx := testContext(t, 60*time.Second)
	var inside, entered atomic.Int32
	members(t, c, 6, func(_ int, s *concurrency.Session) {
		m := concurrency.NewMutex(s, "/r/lock")
		for range 3 {
			if err := m.Lock(ctx); err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			entered.Add(1)
			inside.Add(-1)
			if err := m.Unlock(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if n := entered.Load(); n != 18 {
		t.Errorf("entered %d times", n)
	}
}

func recipeElection(t *testing.T, c *harness.Cluster) {
	ctx := testContext(t, 60*time.Second)
	var leading, terms atomic.Int32
	members(t, c, 5, func(i int, s *concurrency.Session) {
		e := concurrency.NewElection(s, "/r/elect")
		if err := e.Campaign(ctx, fmt.Sprint(i)); err != nil {
			t.Error(err)
			return
		}
		if n := leading.Add(1); n != 1 {
			t.Errorf("%d lead", n)
		}
		if l, err := e.Leader(ctx); err != nil || string(l.Kvs[0].Value) != fmt.Sprint(i) {
			t.Errorf("leader %v, %v", l, err)
		}
		terms.Add(1)
		leading.Add(-1)
		if err := e.Resign(ctx); err != nil {
			t.Error(err)
		}
	})
	if n := terms.Load(); n != 5 {
		t.Errorf("%d have led", n)
	}
}

// taken collects what several consumers took, and finds what was lost or taken twice.
type taken struct {
	mu   sync.Mutex
	seen []string
}

func (k *taken) add(v string) {
	k.mu.Lock()
	k.seen = append(k.seen, v)
	k.mu.Unlock()
}

func (k *taken) check(t *testing.T, n int) {
	t.Helper()
	slices.Sort(k.seen)
	if got := len(slices.Compact(k.seen)); got != n || len(k.seen) < n {
		t.Errorf("%d different items of %d: %v", got, n, k.seen)
	}
}

func recipeQueue(t *testing.T, c *harness.Cluster) {
	var k taken
	members(t, c, 6, func(i int, s *concurrency.Session) {
		q := recipe.NewQueue(s.Client(), "/r/queue")
		for j := range 5 {
			if i%2 == 0 {
				if err := q.Enqueue(fmt.Sprintf("%d-%d", i, j)); err != nil {
					t.Error(err)
				}
				continue
			}
			v, err := q.Dequeue()
			if err != nil {
				t.Error(err)
			}
			k.add(v)
		}
	})
	k.check(t, 15)
}

func recipePriorityQueue(t *testing.T, c *harness.Cluster) {
	cl := newClient(t, c)
	q := recipe.NewPriorityQueue(cl, "/r/pq")
	for i := range 9 {
		if err := q.Enqueue(fmt.Sprint(i), uint16(i)); err != nil {
			t.Fatal(err)
		}
	}
	var k taken
	members(t, c, 3, func(_ int, s *concurrency.Session) {
		mine := recipe.NewPriorityQueue(s.Client(), "/r/pq")
		last := ""
		for range 3 {
			v, err := mine.Dequeue()
			if err != nil || v <= last {
				t.Errorf("%q after %q: %v", v, last, err)
			}
			last = v
			k.add(v)
		}
	})
	k.check(t, 9)
}

func recipeBarrier(t *testing.T, c *harness.Cluster) {
	cl := newClient(t, c)
	b := recipe.NewBarrier(cl, "/r/barrier")
	if err := b.Hold(); err != nil {
		t.Fatal(err)
	}
	var released atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		members(t, c, 4, func(_ int, s *concurrency.Session) {
			if err := recipe.NewBarrier(s.Client(), "/r/barrier").Wait(); err != nil {
				t.Error(err)
			}
			if !released.Load() {
				t.Error("through a closed barrier")
			}
		})
	}()
	time.Sleep(200 * time.Millisecond) // lets the waiters come; the test holds without
	released.Store(true)
	if err := b.Release(); err != nil {
		t.Fatal(err)
	}
	<-done
}

func recipeDoubleBarrier(t *testing.T, c *harness.Cluster) {
	const n = 5
	var in, out atomic.Int32
	members(t, c, n, func(_ int, s *concurrency.Session) {
		b := recipe.NewDoubleBarrier(s, "/r/db", n)
		in.Add(1)
		if err := b.Enter(); err != nil {
			t.Error(err)
			return
		}
		if got := in.Load(); got != n {
			t.Errorf("entered with %d of %d", got, n)
		}
		out.Add(1)
		if err := b.Leave(); err != nil {
			t.Error(err)
			return
		}
		if got := out.Load(); got != n {
			t.Errorf("left with %d of %d", got, n)
		}
	})
}

func recipeRWMutex(t *testing.T, c *harness.Cluster) {
	var readers, writers atomic.Int32
	members(t, c, 6, func(i int, s *concurrency.Session) {
		m := recipe.NewRWMutex(s, "/r/rw")
		for range 3 {
			lock, unlock, mine := m.RLock, m.RUnlock, &readers
			if i%3 == 0 {
				lock, unlock, mine = m.Lock, m.Unlock, &writers
			}
			if err := lock(); err != nil {
				t.Error(err)
				return
			}
			mine.Add(1)
			if w, r := writers.Load(), readers.Load(); w > 1 || w == 1 && r > 0 {
				t.Errorf("%d writers and %d readers", w, r)
			}
			mine.Add(-1)
			if err := unlock(); err != nil {
				t.Error(err)
			}
		}
	})
	left, err := newClient(t, c).Get(t.Context(), "/r/rw", clientv3.WithPrefix())
	if err != nil || left.Count != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
