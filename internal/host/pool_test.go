package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestPool: so many calls run at a time, so many wait, the rest are refused, and one that nobody waits for any
// more is not carried out.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(2, 3)
		var running, most, ran atomic.Int32
		free := make(chan struct{})
		var mu sync.Mutex
		var errs []error
		reply := func(resp *pb.PeerResponse) {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, pb.ErrorFromPB(resp.Error))
		}
		work := func() {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-free
			running.Add(-1)
			ran.Add(1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 4 {
			p.submit(t.Context(), reply, work)
		}
		p.submit(ctx, reply, work)
		p.submit(t.Context(), reply, work)
		synctest.Wait()
		if len(errs) != 1 || !errors.Is(errs[0], shard.ErrTooManyRequests) {
			t.Errorf("refused: %v", errs)
		}
		cancel()
		close(free)
		synctest.Wait()
		if most.Load() != 2 || ran.Load() != 4 {
			t.Errorf("%d ran, %d at a time", ran.Load(), most.Load())
		}
		if len(errs) != 2 || !errors.Is(errs[1], shard.ErrTimeout) {
			t.Errorf("refused and given up: %v", errs)
		}
		p.submit(t.Context(), reply, work)
		synctest.Wait()
		if ran.Load() != 5 {
			t.Error("the pool takes nothing more")
		}
	})
}
