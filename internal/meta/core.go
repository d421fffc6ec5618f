package meta

import "sync"

// core is the lock of a replica, with the calls that wait until it is free: nothing of the host's and no
// callback is called with it held.
type core struct {
	sync.Mutex
	calls    []func()
	draining bool
}

// later makes a call when the lock is free. Calls are made in order: the order of proposals is the order
// in the log.
func (c *core) later(call func()) { c.calls = append(c.calls, call) }

// unlock makes the calls that wait, and releases the lock. Only one goroutine makes them at a time; another
// one that comes by leaves its own to it.
func (c *core) unlock() {
	if c.draining {
		c.Unlock()
		return
	}
	c.draining = true
	for len(c.calls) > 0 {
		calls := c.calls
		c.calls = nil
		c.Unlock()
		for _, call := range calls {
			call()
		}
		c.Lock()
	}
	c.draining = false
	c.Unlock()
}
