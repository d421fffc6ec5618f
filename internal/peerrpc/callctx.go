package peerrpc

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of a call that is being served. Most handlers never wait on it,
// so its timer and channel are made only when somebody asks for them.
type callContext struct {
	parent   context.Context
	deadline time.Time // zero: none

	mu struct {
		sync.Mutex
		inner  context.Context // nil until Done was asked for
		cancel context.CancelFunc
		ended  bool
	}
}

var _ context.Context = (*callContext)(nil)

func (c *callContext) init(parent context.Context, timeout time.Duration) {
	c.parent = parent
	if timeout > 0 {
		c.deadline = time.Now().Add(timeout)
	}
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) {
	if c.deadline.IsZero() {
		return c.parent.Deadline()
	}
	return c.deadline, true
}

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.inner == nil {
		if c.deadline.IsZero() {
			c.mu.inner, c.mu.cancel = context.WithCancel(c.parent)
		} else {
			c.mu.inner, c.mu.cancel = context.WithDeadline(c.parent, c.deadline)
		}
		if c.mu.ended {
			c.mu.cancel()
		}
	}
	return c.mu.inner.Done()
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.inner != nil:
		return c.mu.inner.Err()
	case c.mu.ended:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. Once Done was asked for, children attach to the inner
// context without a goroutine, which they find here.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	inner := c.mu.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}

// end releases the timer: the call has been answered.
func (c *callContext) end() {
	c.mu.Lock()
	c.mu.ended = true
	cancel := c.mu.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
