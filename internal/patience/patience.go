package patience

import (
	"context"
	"sync"
	"time"
)

// Context ends with its parent, at its deadline, or when it is cancelled. Most are never waited for, so timer and
// channel are made only when somebody asks for them.
type Context struct {
	parent   context.Context
	deadline time.Time // never later than the parent's; zero: none

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
	c := new(Context)
	c.Start(parent, d)
	return c
}

// Start makes a Context of the zero value, for who has one within another struct: it ends after d, or with parent.
// Without d, which is 0 then, it ends with parent alone. Cancel must be called when it is not needed any more.
func (c *Context) Start(parent context.Context, d time.Duration) {
	c.parent = parent
	at, ok := parent.Deadline()
	if d > 0 {
		c.deadline = time.Now().Add(d)
	}
	if ok && (d <= 0 || at.Before(c.deadline)) {
		c.deadline = at
	}
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
func (c *Context) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.inner == nil {
		if c.deadline.IsZero() {
			c.mu.inner, c.mu.cancel = context.WithCancel(c.parent)
		} else {
			c.mu.inner, c.mu.cancel = context.WithDeadline(c.parent, c.deadline)
		}
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
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
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

// UntilAfter returns a context for what is begun now on behalf of several who wait for d at most.
func UntilAfter(d time.Duration) Until { return Until{time.Now().Add(d + untilLonger)} }

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

// Wait takes the value from ch, or says why ctx has ended before there was one: what is there already counts, even if
// ctx has ended. It must be called by the goroutine that cancels ctx, if that is a Context: it does not notice being
// cancelled.
func Wait[T any](ctx context.Context, ch <-chan T) (v T, err error) {
	select {
	case v = <-ch: // answered in process
		return v, nil
	default:
	}
	c, mine := ctx.(*Context)
	if !mine || c.deadline.IsZero() {
		select {
		case v = <-ch:
			return v, nil
		case <-ctx.Done():
			return v, ctx.Err()
		}
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

// Pause waits for d, or says why ctx has ended before that.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wake tells who waits for a channel with room for one that there is something to do. It never blocks.
func Wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
