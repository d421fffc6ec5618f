package etcdapi

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"pontoon/internal/fifo"
	"pontoon/watchfanout"
)

// watchStream is one client's watch stream. What it is asked and what the hub has for it is dealt
// with in turns. A turn never blocks: the stream has one write under way at most, and the next turn
// comes when the connection has taken that. So few goroutines serve all streams, one behind the
// other, and what they write to the same connection meanwhile leaves together.
type watchStream struct {
	api    *API
	ctx    context.Context
	rpc    watchRPC
	hub    eventSource
	guard  *leaderGuard
	write  messageWriter
	failed chan error // at most one: why the stream ends

	requests requestQueue
	rights   watchRights

	// Of the turn under way. Of most watches nothing is kept: the hub does.
	watches  int
	notified map[int64]*notified
	nextID   int64

	mu struct {
		sync.Mutex
		turn   turnState
		again  bool // something has happened since the turn under way began
		closed bool
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

func newWatchStream(api *API, rpc watchRPC, write messageWriter) *watchStream {
	s := &watchStream{
		api: api, ctx: rpc.Context(), rpc: rpc, write: write, guard: api.guardLeader(rpc.Context()),
		failed: make(chan error, 1), notified: map[int64]*notified{},
	}
	s.mu.ended.L = &s.mu
	s.requests = requestQueue{questions: &api.questions, schedule: s.schedule}
	s.requests.open()
	s.rights = watchRights{guard: &api.guard, schedule: s.schedule, fail: s.fail}
	s.hub.begin(api.cfg.Beats, s.schedule)
	var group *watchfanout.Group
	group, s.hub.leave = api.connections.join(s.ctx)
	s.hub.WatchStream = api.cfg.Watch(watchfanout.StreamOptions{Group: group, Notify: s.hub.come})
	api.streams.add(s)
	return s
}

// close returns when no turn is under way, and lets none begin.
func (s *watchStream) close() {
	s.api.streams.remove(s)
	s.mu.Lock()
	s.mu.closed = true
	for s.mu.turn == turnRunning {
		s.mu.ended.Wait()
	}
	s.mu.Unlock()
	s.requests.close()
	s.hub.Close()
	s.hub.leave()
}

// fail ends the stream.
func (s *watchStream) fail(err error) {
	select {
	case s.failed <- err:
	default: // it is ending
	}
}

// scheduleFor has the next turn do something.
func (s *watchStream) scheduleFor(d due) {
	s.mu.Lock()
	s.mu.due |= d
	s.mu.Unlock()
	s.schedule()
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.turn = turnIdle
	if s.mu.closed {
		s.mu.ended.Broadcast()
		return false
	}
	if s.mu.again {
		s.mu.turn = turnQueued
	}
	return s.mu.again
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
	t.commands = s.requests.take(t.commands[:0])
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
	if err := s.write(data, messages, s.fail); err != nil {
		return watchEnd(err)
	}
	return nil
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
