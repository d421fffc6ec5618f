package etcdapi

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"pontoon/shard"
)

const (
	// commandsMax and commandBytesMax bound what the reader of a stream hands to its turns; beyond them
	// the reader stops reading from the client.
	commandsMax     = 64
	commandBytesMax = 1 << 20

	currentRetryMin = 10 * time.Millisecond
	currentRetryMax = time.Second
)

// requestQueue holds what a client has asked on a stream until a turn takes it. What needs the current
// revision waits for it, and so does what came behind, so that answers come in order.
type requestQueue struct {
	ctx      context.Context // the stream's
	current  func(context.Context) (int64, error)
	schedule func() // some of it is ready, or none will be
	log      *slog.Logger

	mu struct {
		sync.Mutex
		commands []command // to be executed, in order
		asked    int       // of these have what they need
		asking   bool      // the oracle is being asked for the others
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
	for q.fullLocked() && !q.mu.closed {
		q.mu.room.Wait()
	}
	if q.mu.closed {
		return false, false
	}
	q.mu.commands = append(q.mu.commands, c)
	switch {
	case q.mu.asking:
		return false, true
	case c.asks:
		q.mu.asking = true
		go q.ask()
		return false, true
	default:
		q.mu.asked++
		return true, true
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
	q.mu.room.Broadcast()
	return dst
}

// ask asks the oracle for all commands that wait for it: the answer holds for what the client has
// sent before the question. It goes on until none waits.
func (q *requestQueue) ask() {
	pause := currentRetryMin
	for {
		q.mu.Lock()
		covered := len(q.mu.commands) - q.mu.asked
		q.mu.Unlock()
		rev, err := q.current(q.ctx)
		over := q.ctx.Err() != nil || errors.Is(err, shard.ErrStopped)
		if q.answer(covered, rev, err, over) {
			return
		}
		if err == nil {
			pause = currentRetryMin
			continue
		}
		q.log.Debug("no current revision for a watch stream, will ask again", "error", err)
		select {
		case <-time.After(pause):
		case <-q.ctx.Done():
		}
		pause = min(2*pause, currentRetryMax)
	}
}

// answer gives the revision to the commands that were there when it was asked for. After an error
// those that create watches go on waiting: to refuse a watch would end it for good in the client, for
// a change of leaders that takes a second. Requests for progress are dropped: a client repeats them.
// It reports whether nobody waits any more.
func (q *requestQueue) answer(covered int, rev int64, err error, over bool) bool {
	defer q.schedule()
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.mu.commands[q.mu.asked:]
	switch {
	case over:
		q.mu.commands = q.mu.commands[:q.mu.asked]
	case err == nil:
		for i := range waiting[:covered] {
			waiting[i].setRevision(rev)
		}
		q.mu.asked += covered
	default:
		kept := slices.DeleteFunc(waiting, func(c command) bool { return c.kind == commandProgress })
		q.mu.commands = q.mu.commands[:q.mu.asked+len(kept)]
	}
	for q.mu.asked < len(q.mu.commands) && !q.mu.commands[q.mu.asked].asks {
		q.mu.asked++
	}
	q.mu.asking = q.mu.asked < len(q.mu.commands)
	q.mu.room.Broadcast()
	return !q.mu.asking
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
