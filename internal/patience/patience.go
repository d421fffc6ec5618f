package patience

import (
	"context"
	"sync"
	"time"
)

// Context ends with its parent, at its deadline, or when it is cancelled.
type Context struct {
	parent   context.Context
	deadline time.Time // never later than the parent's

	mu struct {
		sync.Mutex
		inner     context.Context // nil until Done was asked for
		cancel    context.CancelFunc
		cancelled bool
	}
}

var _ context.Context = (*Context)(nil)

// With returns a context that ends after d, or with parent. Cancel must be called when it is not
// needed any more.
func With(parent context.Context, d time.Duration) *Context {
	c := &Context{parent: parent, deadline: time.Now().Add(d)}
	if at, ok := parent.Deadline(); ok && at.Before(c.deadline) {
		c.deadline = at
	}
	return c
}

// Cancel ends the context.
func (c *Context) Cancel() {
	c.mu.Lock()
	c.mu.cancelled = true
	cancel := c.mu.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.inner == nil {
		c.mu.inner, c.mu.cancel = context.WithDeadline(c.parent, c.deadline)
		if c.mu.cancelled {
			c.mu.cancel()
		}
	}
	return c.mu.inner.Done()
}

// Err implements context.Context.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.inner != nil:
		return c.mu.inner.Err()
	case c.parent.Err() != nil:
		return c.parent.Err()
	case c.mu.cancelled:
		return context.Canceled
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. Once Done was asked for, children attach to the inner context
// without a goroutine, which they find here.
func (c *Context) Value(key any) any {
	c.mu.Lock()
	inner := c.mu.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}

// Wait takes the value from ch, or says why ctx has ended before there was one. It must be called by
// the goroutine that cancels ctx, if that is a Context: it does not notice being cancelled.
func Wait[T any](ctx context.Context, ch <-chan T) (v T, err error) {
	c, mine := ctx.(*Context)
	if !mine {
		select {
		case v = <-ch:
			return v, nil
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
	select {
	case v = <-ch: // answered in process
		return v, nil
	default:
	}
	timer := time.NewTimer(time.Until(c.deadline))
	defer timer.Stop()
	select {
	case v = <-ch:
		return v, nil
	case <-c.parent.Done():
		return v, c.parent.Err()
	case <-timer.C:
		return v, context.DeadlineExceeded
	}
}
