package etcdapi

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/internal/fifo"
	"pontoon/watchfanout"
)

// watchStream is one client's watch stream. What it is asked and what the hub has for it is dealt
// with in turns. A turn never blocks: the stream has one write under way at most, and the next turn
// comes when the connection has taken that. So few goroutines serve all streams, one behind the
// other, and what they write to the same connection meanwhile leaves together.
type watchStream struct {
	api    *API
	ctx    context.Context // done when the stream is
	reader requestReader
	hub    eventSource
	guard  *leaderGuard
	write  messageWriter
	rights watchRights
	timers reminders

	// Of the turn under way. Of most watches nothing is kept: the hub does.
	watches  int
	notified map[int64]*notified // nil: none
	nextID   int64

	mu struct {
		sync.Mutex
		turn   turnState
		again  bool // something has happened since the turn under way began
		closed bool
		err    error     // why it has to end; nil: it does not, or the client or the connection has ended it
		ended  sync.Cond // the turn under way has, when closed

		due     due
		writing bool // the connection has not taken everything yet
		waiting bool // a turn has, therefore, not done what it could
	}
}

type turnState uint8

const (
	turnIdle turnState = iota
	turnQueued
	turnRunning
)

// due is what is to be done when time has passed.
type due uint8

const (
	dueProgress due = 1 << iota // a round of periodic progress
	dueLeader                   // to look for leaders
)

// notified is a watch that wants periodic progress.
type notified struct {
	quiet bool // nothing was sent since the last round
	asked bool // the hub was asked for a marker of this watch
}

func newWatchStream(api *API, rpc watchRPC) *watchStream {
	s := &watchStream{api: api, reader: requestReader{api: api, source: newRequestSource(api, rpc)}, write: newMessageWriter(rpc, api.metrics)}
	s.ctx = s.reader.source.ctx
	s.guard = api.guardLeader(s.ctx)
	s.mu.ended.L = &s.mu
	s.reader.queue = requestQueue{ctx: s.ctx, questions: &api.questions, schedule: s.schedule}
	s.reader.queue.open()
	s.rights = watchRights{guard: &api.guard, schedule: s.schedule, fail: s.fail}
	s.hub.begin(api.cfg.Beats, s.schedule)
	var group *watchfanout.Group
	group, s.hub.leave = api.connections.join(s.ctx)
	s.hub.WatchStream = api.cfg.Watch(watchfanout.StreamOptions{Group: group, Notify: s.hub.come})
	s.mu.Lock()
	s.timers.progress.beginLocked(s, dueProgress, jittered(api.cfg.ProgressInterval))
	s.timers.leader.beginLocked(s, dueLeader, s.guard.every)
	s.mu.Unlock()
	api.streams.add(s)
	return s
}

// close returns when no turn is under way, and lets none begin.
func (s *watchStream) close() {
	s.api.endless.left(s)
	s.api.streams.remove(s)
	s.mu.Lock()
	s.mu.closed = true
	s.timers.progress.stop()
	s.timers.leader.stop()
	for s.mu.turn == turnRunning {
		s.mu.ended.Wait()
	}
	s.mu.Unlock()
	s.reader.source.close()
	s.reader.queue.close()
	s.hub.Close()
	s.hub.leave()
}

// over is for the server's stop.
func (s *watchStream) over() { s.fail(rpctypes.ErrGRPCStopped) }

// fail ends the stream, behind the turn under way. It does not block, and any goroutine may call it.
func (s *watchStream) fail(err error) {
	s.mu.Lock()
	first := !s.mu.closed
	if first {
		s.mu.closed, s.mu.err = true, watchEnd(err)
	}
	running := s.mu.turn == turnRunning
	s.mu.Unlock()
	if first && !running {
		s.end()
	}
}

// end has the one who reads, or waits, return.
func (s *watchStream) end() { s.reader.source.end(s.outcome(nil)) }

// outcome is what the stream has ended with, err being what reading did.
func (s *watchStream) outcome(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.err != nil:
		return s.mu.err
	case err != nil:
		return err
	default:
		return watchEnd(s.ctx.Err())
	}
}

// reminders are those of a stream.
type reminders struct{ progress, leader reminder }

// reminder has a stream's turns do something again and again.
type reminder struct {
	timer *time.Timer // nil: never
	of    due
	every time.Duration
}

// beginLocked begins it; it never does if every is 0.
func (r *reminder) beginLocked(s *watchStream, of due, every time.Duration) {
	if every == 0 {
		return
	}
	r.of, r.every = of, every
	r.timer = time.AfterFunc(every, func() {
		if r.remind(s) {
			s.schedule()
		}
	})
}

// remind notes what is due; false if the stream has ended.
func (r *reminder) remind(s *watchStream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	s.mu.due |= r.of
	r.timer.Reset(r.every)
	return true
}

func (r *reminder) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// eventSource is the hub's stream. It asks for a turn at the next beat once events have come: a write that carries what came until then costs hardly more
// than one with the first of it.
type eventSource struct {
	WatchStream
	beats    Beats // nil: there are none
	schedule func()
	beat     func()
	waiting  atomic.Bool // for the next one
	leave    func()      // ends its part in what its connection may keep
}

func (e *eventSource) begin(beats Beats, schedule func()) {
	e.beats, e.schedule = beats, schedule
	e.beat = func() {
		e.waiting.Store(false)
		schedule()
	}
}

// come is the hub's notice.
func (e *eventSource) come() {
	switch {
	case e.beats == nil:
		e.schedule()
	case e.waiting.CompareAndSwap(false, true):
		e.beats.Next(e.beat)
	}
}

// schedule asks for a turn.
func (s *watchStream) schedule() {
	s.mu.Lock()
	queue := false
	switch {
	case s.mu.closed:
	case s.mu.turn == turnIdle:
		s.mu.turn, queue = turnQueued, true
	case s.mu.turn == turnRunning:
		s.mu.again = true
	}
	s.mu.Unlock()
	if queue {
		s.api.turns.add(s)
	}
}

// run takes a turn; true if there is to be another.
func (s *watchStream) run(t *watchTurn) (again bool) {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.turn = turnIdle
		s.mu.Unlock()
		return false
	}
	s.mu.turn, s.mu.again = turnRunning, false
	s.mu.Unlock()
	if err := s.guarded(t); err != nil {
		s.fail(err)
	}
	again, failed := s.ran()
	if failed {
		s.end()
	}
	return again
}

// ran notes the end of a turn. There may be another, or the stream has failed meanwhile.
func (s *watchStream) ran() (again, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.turn = turnIdle
	if s.mu.closed {
		s.mu.ended.Broadcast()
		return false, s.mu.err != nil
	}
	if s.mu.again {
		s.mu.turn = turnQueued
	}
	return s.mu.again, false
}

// guarded keeps a panic from ending the process.
func (s *watchStream) guarded(t *watchTurn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.api.panicked("Watch", p)
		}
	}()
	return s.turn(t)
}

// begin takes what the turn has to execute; false if it must wait for the connection.
func (s *watchStream) begin(t *watchTurn) (d due, ok bool) {
	s.mu.Lock()
	if s.mu.writing {
		s.mu.waiting = true
		s.mu.Unlock()
		return 0, false
	}
	d = s.mu.due
	s.mu.due = 0
	s.mu.Unlock()
	t.commands = s.reader.queue.take(t.commands[:0])
	return d, true
}

// send hands a turn's responses to the connection.
func (s *watchStream) send(o *responseBuffer) error {
	messages := o.messages
	data := o.take(s)
	defer data.Free()
	s.mu.Lock()
	s.mu.writing = true
	s.mu.Unlock()
	return s.write(data, messages, s.fail)
}

// Get is there for the interface: buffers are taken elsewhere.
func (s *watchStream) Get(n int) *[]byte { return responsePool.Get(n) }

// Put hears that the connection has taken a turn's responses: nobody refers to the buffer any more.
func (s *watchStream) Put(b *[]byte) {
	responsePool.Put(b)
	s.mu.Lock()
	waiting := s.mu.waiting
	s.mu.writing, s.mu.waiting = false, false
	s.mu.Unlock()
	if waiting {
		s.schedule()
	}
}

// turnQueue has few goroutines take the turns of all streams. They are there while there is
// something to do.
type turnQueue struct {
	mu      sync.Mutex
	streams fifo.Queue[*watchStream]
	workers int
}

func (q *turnQueue) add(s *watchStream) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.streams.Push(s)
	if q.workers < runtime.GOMAXPROCS(0) {
		q.workers++
		go q.work()
	}
}

func (q *turnQueue) work() {
	t := turnPool.Get().(*watchTurn)
	defer turnPool.Put(t)
	for s := q.next(nil); s != nil; {
		var back *watchStream
		if s.run(t) {
			back = s
		}
		s = q.next(back)
	}
}

// next takes the stream whose turn it is; nil if the worker is to end. The one that it has served
// goes back to the end if it wants another turn.
func (q *turnQueue) next(back *watchStream) *watchStream {
	q.mu.Lock()
	defer q.mu.Unlock()
	if back != nil {
		q.streams.Push(back)
	}
	s, ok := q.streams.Pop()
	if !ok {
		q.workers--
	}
	return s
}
