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

// Until is a context that ends at a deadline, and tells nobody: its Done is nil. It is for calls that
// go on without whoever made them, and that their carrier ends.
type Until struct{ at time.Time }

var _ context.Context = (*Until)(nil)

// untilLonger is what an Until outlasts its origin by: so who waits hears of one end, and not by
// chance of one or the other.
const untilLonger = 10 * time.Millisecond

// UntilEndOf returns a context for what is begun for ctx: its deadline lies a moment behind that of ctx.
func UntilEndOf(ctx context.Context) Until {
	at, ok := ctx.Deadline()
	if !ok {
		return Until{}
	}
	return Until{at.Add(untilLonger)}
}

// Deadline implements context.Context.
func (u *Until) Deadline() (time.Time, bool) { return u.at, !u.at.IsZero() }

// Done implements context.Context.
func (u *Until) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (u *Until) Err() error {
	if !u.at.IsZero() && !time.Now().Before(u.at) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context.
func (u *Until) Value(any) any { return nil }

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
