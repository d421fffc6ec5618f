package tlsport

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// crowd bounds how many connections are in the middle of something. Where there are as many as may be, the next one waits; the one that is
// there for longest gives way once it has had the time that a crowd leaves it. So whoever connects and says nothing does not keep others out, and a
// thousand that come at once are served as fast as it goes.
type crowd struct {
	max      int
	patience time.Duration
	freed    chan struct{} // somebody has left; one waits at most

	mu struct {
		sync.Mutex
		list   *list.List // *member, the oldest first
		closed bool
	}
}

type member struct {
	conn  net.Conn
	since time.Time
	place *list.Element
}

func newCrowd(most int, patience time.Duration) *crowd {
	c := &crowd{max: most, patience: patience, freed: make(chan struct{}, 1)}
	c.mu.list = list.New()
	return c
}

// enter waits for a place. It is called by one goroutine at a time. nil: it is over.
func (c *crowd) enter(ctx context.Context, conn net.Conn) *member {
	for {
		m, wait := c.tryEnter(conn, time.Now())
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

// tryEnter returns a place, or after which time the oldest gives way, or neither: it is over.
func (c *crowd) tryEnter(conn net.Conn, now time.Time) (*member, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, 0
	}
	if c.mu.list.Len() >= c.max {
		oldest := c.mu.list.Front().Value.(*member)
		if left := c.patience - now.Sub(oldest.since); left > 0 {
			return nil, left
		}
		c.mu.list.Remove(oldest.place)
		_ = oldest.conn.Close()
	}
	m := &member{conn: conn, since: now}
	m.place = c.mu.list.PushBack(m)
	return m, 0
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
