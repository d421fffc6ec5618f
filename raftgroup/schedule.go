package raftgroup

import "sync"

type slotState uint8

const (
	slotIdle slotState = iota
	slotQueued
	slotRunning
	slotAgain // running, and woken meanwhile
)

// slot is something that wants a worker's attention from time to time, and never from two
// workers at once. Its state belongs to the runQueue.
type slot struct {
	run   func()
	state slotState
}

// runQueue hands slots to workers in the order in which they were woken.
type runQueue struct {
	mu struct {
		sync.Mutex
		ready  []*slot
		closed bool
	}
	more sync.Cond // waits on mu
}

func newRunQueue() *runQueue {
	q := &runQueue{}
	q.more.L = &q.mu
	return q
}

// wake makes sure that s runs (again) after this call.
func (q *runQueue) wake(s *slot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch s.state {
	case slotIdle:
		s.state = slotQueued
		q.mu.ready = append(q.mu.ready, s)
		q.more.Signal()
	case slotRunning:
		s.state = slotAgain
	}
}

// take moves up to len(buf) ready slots into buf, waiting for the first if wait is set.
// It leaves some to other workers. 0 means closed, or nothing to do.
func (q *runQueue) take(buf []*slot, wait bool, workers int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for wait && len(q.mu.ready) == 0 && !q.mu.closed {
		q.more.Wait()
	}
	if q.mu.closed {
		return 0
	}
	n := min(len(buf), (len(q.mu.ready)+workers-1)/max(workers, 1))
	copy(buf, q.mu.ready[:n])
	rest := copy(q.mu.ready, q.mu.ready[n:])
	clear(q.mu.ready[rest:])
	q.mu.ready = q.mu.ready[:rest]
	for _, s := range buf[:n] {
		s.state = slotRunning
	}
	return n
}

// done ends a run that take began.
func (q *runQueue) done(s *slot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := s.state == slotAgain
	s.state = slotIdle
	if again {
		s.state = slotQueued
		q.mu.ready = append(q.mu.ready, s)
		q.more.Signal()
	}
}

// work is one worker of so many: a round of at most batch slots, then after. It returns when the queue is closed.
func (q *runQueue) work(batch, workers int, after func()) {
	buf := make([]*slot, batch)
	for {
		n := q.take(buf, true, workers)
		if n == 0 {
			return
		}
		for _, s := range buf[:n] {
			s.run()
			q.done(s)
		}
		after()
	}
}

// one runs a slot that is ready, if there is one.
func (q *runQueue) one() {
	var buf [1]*slot
	if q.take(buf[:], false, 1) == 1 {
		buf[0].run()
		q.done(buf[0])
	}
}

func (q *runQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.mu.ready)
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.mu.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}
