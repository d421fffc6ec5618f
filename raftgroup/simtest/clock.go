package simtest

import "time"

// Clock is a clock that stands still until it is advanced.
type Clock struct{ now time.Time }

// NewClock returns a clock at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Unix(1_000_000_000, 0)} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time { return c.now }

// Advance moves the clock on.
func (c *Clock) Advance(d time.Duration) { c.now = c.now.Add(d) }
