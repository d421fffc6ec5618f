package raftgroup

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// What is woken together runs in one round, up to shareMin of it. More is shared among the workers, and everything runs once.
func TestWokenTogether(t *testing.T) {
	for _, c := range []struct{ slots, least, most int }{
		{0, 0, 0}, {1, 1, 1}, {shareMin, 1, 1}, {shareMin + 1, 2, 2}, {10 * shareMin, 4, 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newRunQueue()
			var wg sync.WaitGroup
			var rounds atomic.Int64
			for range 4 {
				wg.Go(func() { q.work(4*shareMin, 4, func() { rounds.Add(1) }) })
			}
			synctest.Wait()
			ran := make([]atomic.Int64, c.slots)
			q.together(func() {
				for i := range ran {
					q.wake(&slot{run: func() { ran[i].Add(1) }})
				}
				synctest.Wait()
				if n := rounds.Load(); n != 0 {
					t.Errorf("%d slots: %d rounds before all were woken", c.slots, n)
				}
			})
			synctest.Wait()
			if n := int(rounds.Load()); n < c.least || n > c.most {
				t.Errorf("%d slots: %d rounds, want %d to %d", c.slots, n, c.least, c.most)
			}
			for i := range ran {
				if n := ran[i].Load(); n != 1 {
					t.Errorf("%d slots: one ran %d times", c.slots, n)
				}
			}
			q.close()
			wg.Wait()
		})
	}
}

// Nobody waits for longer than the first that wakes together takes: who is always at it would starve all.
func TestNobodyHoldsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRunQueue()
		var wg sync.WaitGroup
		wg.Go(func() { q.work(1, 1, func() {}) })
		synctest.Wait()
		var ran atomic.Int64
		wake := func() { q.wake(&slot{run: func() { ran.Add(1) }}) }
		q.together(func() {
			wake()
			q.together(wake)
			synctest.Wait()
			if n := ran.Load(); n != 2 {
				t.Errorf("%d of 2 ran once one had returned", n)
			}
			wake()
		})
		synctest.Wait()
		if n := ran.Load(); n != 3 {
			t.Errorf("%d of 3 ran", n)
		}
		q.close()
		wg.Wait()
	})
}

// Whoever is woken while all workers are busy runs when one comes back, also where a worker has been called in vain.
func TestWokenWhileAllAreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRunQueue()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { q.work(1, 2, func() {}) })
		}
		busy := make(chan int)
		for range 2 {
			q.wake(&slot{run: func() { <-busy }})
			synctest.Wait()
		}
		var ran atomic.Int64
		for range 5 {
			q.wake(&slot{run: func() { ran.Add(1) }})
		}
		synctest.Wait()
		if n := ran.Load(); n != 0 {
			t.Errorf("%d ran on workers that are busy", n)
		}
		busy <- 1
		synctest.Wait()
		if n := ran.Load(); n != 5 {
			t.Errorf("%d of 5 ran", n)
		}
		q.wake(&slot{run: func() { <-busy }}) // the other is still at it
		synctest.Wait()
		close(busy)
		q.close()
		wg.Wait()
	})
}
