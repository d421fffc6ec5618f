package tlsport

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// crowd bounds how many connections are in the middle of something. Where there are as many as may be, the next one waits; the one for which was
// waited longest gives way once it has had the time that a crowd leaves it, which is more where it was answered already. So whoever connects and says
// nothing does not keep others out, and a thousand that come at once are served as fast as it goes: for what they wait here they do not give way.
type crowd struct {
	max      int
	patience time.Duration
	answered time.Duration // the patience with those that were answered
	now      func() time.Time
	freed    chan struct{} // somebody has left; one waits at most

	mu struct {
		sync.Mutex
		list   *list.List // *member
		closed bool
	}
}

type member struct {
	conn  net.Conn
	place *list.Element
	// since is from when on the client is waited for, as if that had been all in one; zero: it waits for us.
	since time.Time
	took  time.Duration // how long it was waited for before
	left  time.Duration // how long it may be waited for, in all, where others wait
}

func newCrowd(most int, patience, answered time.Duration) *crowd {
	c := &crowd{max: most, patience: patience, answered: answered, now: time.Now, freed: make(chan struct{}, 1)}
	c.mu.list = list.New()
	return c
}

// enter waits for a place. It is called by one goroutine at a time. nil: it is over.
func (c *crowd) enter(ctx context.Context, conn net.Conn) *member {
	for {
		m, wait := c.tryEnter(conn)
		if m != nil || wait <= 0 {
			return m
		}
		t := time.NewTimer(wait)
		select {
		case <-c.freed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// tryEnter returns a place, or after which time somebody may give way, or neither: it is over.
func (c *crowd) tryEnter(conn net.Conn) (*member, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, 0
	}
	now := c.now()
	if c.mu.list.Len() >= c.max {
		slowest := c.slowestLocked()
		if slowest == nil { // it is looked again, if nobody leaves
			return nil, max(c.patience, time.Millisecond)
		}
		if left := slowest.due().Sub(now); left > 0 {
			return nil, left
		}
		c.mu.list.Remove(slowest.place)
		_ = slowest.conn.Close()
	}
	m := &member{conn: conn, since: now, left: c.patience}
	m.place = c.mu.list.PushBack(m)
	return m, 0
}

// due is when it gives way, while it is waited for.
func (m *member) due() time.Time { return m.since.Add(m.left) }

// slowestLocked is who gives way first of those that are waited for; nil: there are none.
func (c *crowd) slowestLocked() (slowest *member) {
	for e := c.mu.list.Front(); e != nil; e = e.Next() {
		m := e.Value.(*member)
		if !m.since.IsZero() && (slowest == nil || m.due().Before(slowest.due())) {
			slowest = m
		}
	}
	return slowest
}

// ourTurn says that m's client has done its part, and waits.
func (c *crowd) ourTurn(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.since.IsZero() {
		m.took, m.since = c.now().Sub(m.since), time.Time{}
	}
}

// theirTurn says that m's client is waited for, who was answered already, or was not.
func (c *crowd) theirTurn(m *member, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered {
		m.left = c.answered
	}
	if m.since.IsZero() {
		m.since = c.now().Add(-m.took)
	}
}

func (c *crowd) leave(m *member) {
	c.mu.Lock()
	c.mu.list.Remove(m.place) // nothing where it had to give way
	c.mu.Unlock()
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// close ends all that are in it, and lets nobody in any more.
func (c *crowd) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.closed = true
	for e := c.mu.list.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*member).conn.Close()
	}
}
