package etcdapi

import (
	"context"
	"errors"
	"slices"
	"sync"

	"pontoon/shard"
)

const (
	// commandsMax and commandBytesMax bound what the reader of a stream hands to its turns; beyond them
	// the reader stops reading from the client.
	commandsMax     = 64
	commandBytesMax = 1 << 20
	// commandsFew is the room for commands that is not kept: most streams ask for one thing and no more.
	commandsFew = 4
)

// requestQueue holds what a client has asked on a stream until a turn takes it. What needs the current
// revision waits for it, and so does what came behind, so that answers come in order.
type requestQueue struct {
	ctx       context.Context // the stream's
	questions *questions      // of all streams
	schedule  func()          // some of it is ready, or none will be

	mu struct {
		sync.Mutex
		commands []command // to be executed, in order
		asked    int       // of these have what they need
		covered  int       // of the others: those for which the oracle is being asked
		asking   bool      // it is, or will be
		urgent   bool      // as soon as may be: not all of them ask for progress
		closed   bool
		room     sync.Cond // commands have been taken
	}
}

// open makes the queue ready.
func (q *requestQueue) open() { q.mu.room.L = &q.mu }

// close lets nobody wait for room any more.
func (q *requestQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.closed = true
	q.mu.room.Broadcast()
}

// push appends a command, when there is room; false if the stream has ended.
func (q *requestQueue) push(c command) bool {
	ready, ok := q.enter(c)
	if ready {
		q.schedule()
	}
	return ok
}

// enter does push's work; ready says that the command may be executed.
func (q *requestQueue) enter(c command) (ready, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waitLocked()
	if q.mu.closed {
		return false, false
	}
	q.mu.commands = append(q.mu.commands, c)
	urgent := c.kind != commandProgress
	switch {
	case q.mu.asking:
		if urgent && !q.mu.urgent {
			q.mu.urgent = true
			q.questions.hurry()
		}
		return false, true
	case c.asks:
		q.mu.asking, q.mu.urgent = true, urgent
		q.questions.add(q, urgent)
		return false, true
	default:
		q.mu.asked++
		return true, true
	}
}

// waitLocked waits until there is room, or the stream has ended.
func (q *requestQueue) waitLocked() {
	if !q.fullLocked() || q.mu.closed {
		return
	}
	stop := context.AfterFunc(q.ctx, q.close)
	defer stop()
	for q.fullLocked() && !q.mu.closed {
		q.mu.room.Wait()
	}
}

func (q *requestQueue) fullLocked() bool {
	bytes := 0
	for i := range q.mu.commands {
		bytes += len(q.mu.commands[i].req.Span.Start) + len(q.mu.commands[i].req.Span.End)
	}
	return len(q.mu.commands) >= commandsMax || bytes >= commandBytesMax
}

// take appends what is ready to be executed to dst.
func (q *requestQueue) take(dst []command) []command {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.mu.asked
	if n == 0 {
		return dst
	}
	dst = append(dst, q.mu.commands[:n]...)
	left := copy(q.mu.commands, q.mu.commands[n:])
	clear(q.mu.commands[left:])
	q.mu.commands, q.mu.asked = q.mu.commands[:left], 0
	if left == 0 && cap(q.mu.commands) <= commandsFew {
		q.mu.commands = nil
	}
	q.mu.room.Broadcast()
	return dst
}

// cover notes that a question begins: its answer is for all commands that wait for one.
func (q *requestQueue) cover() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.covered = len(q.mu.commands) - q.mu.asked
}

// answer gives the revision to the commands that were there when it was asked for. After an error
// those that create watches go on waiting: to refuse a watch would end it for good in the client, for
// a change of leaders that takes a second. Requests for progress are dropped: a client repeats them.
// It reports whether commands wait for another answer, and whether those are in a hurry.
func (q *requestQueue) answer(rev int64, err error) (waits, hurries bool) {
	defer q.schedule()
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.mu.commands[q.mu.asked:]
	switch {
	case q.mu.closed || errors.Is(err, shard.ErrStopped):
		q.mu.commands = q.mu.commands[:q.mu.asked]
	case err == nil:
		for i := range waiting[:q.mu.covered] {
			waiting[i].setRevision(rev)
		}
		q.mu.asked += q.mu.covered
	default:
		kept := slices.DeleteFunc(waiting, func(c command) bool { return c.kind == commandProgress })
		q.mu.commands = q.mu.commands[:q.mu.asked+len(kept)]
	}
	q.mu.covered = 0
	for q.mu.asked < len(q.mu.commands) && !q.mu.commands[q.mu.asked].asks {
		q.mu.asked++
	}
	q.mu.asking = q.mu.asked < len(q.mu.commands)
	q.mu.urgent = slices.ContainsFunc(q.mu.commands[q.mu.asked:], func(c command) bool { return c.kind != commandProgress })
	q.mu.room.Broadcast()
	return q.mu.asking, q.mu.urgent
}

// setRevision takes the current revision.
func (c *command) setRevision(rev int64) {
	if !c.asks {
		return
	}
	c.revision = rev
	if c.kind == commandCreate && c.req.Start == 0 {
		c.req.Start, c.req.FromNow = rev+1, true
	}
}
