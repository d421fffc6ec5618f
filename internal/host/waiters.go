package host

import (
	"context"
	"sync"
)

// waiters lets requests wait for a condition that others change: whoever changes it calls
// wake, and each waiter looks again. Cheap while nobody waits.
type waiters struct {
	mu sync.Mutex
	ch chan struct{} // nil while nobody waits
}

// wake makes all waiters look again.
func (w *waiters) wake() {
	w.mu.Lock()
	if w.ch != nil {
		close(w.ch)
		w.ch = nil
	}
	w.mu.Unlock()
}

// until waits for cond, which must not block.
func (w *waiters) until(ctx context.Context, cond func() bool) error {
	for {
		w.mu.Lock()
		if w.ch == nil {
			w.ch = make(chan struct{})
		}
		ch := w.ch
		w.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
