package etcdapi

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"pontoon/shard"
)

const (
	// questionsApart is how long after one question the next begins, if all that wait for it ask for progress: who asks for that asks again and
	// again, and many do. An answer costs hardly more for many than for one.
	questionsApart = 5 * time.Millisecond

	currentRetryMin = 10 * time.Millisecond
	currentRetryMax = time.Second
)

// questions asks the oracle for the current revision, for all watch streams together and one question at a time. What comes
// while one is under way waits for the next: an answer holds for what was there before its question.
type questions struct {
	current func(context.Context) (int64, error)
	now     func() time.Time
	after   func(time.Duration, func())
	log     *slog.Logger

	mu struct {
		sync.Mutex
		waiting []*requestQueue // for the next question, each once
		urgent  bool            // that one is not to wait
		asking  bool
		timed   bool          // a call of due is on its way
		began   time.Time     // the latest question
		pause   time.Duration // after the next error; 0: the last question was answered
	}
}

func (q *questions) init(current func(context.Context) (int64, error), log *slog.Logger) {
	q.current, q.log, q.now = current, log, time.Now
	q.after = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
}

// add has the next question asked for a queue that waits for none. urgent: as soon as may be.
func (q *questions) add(of *requestQueue, urgent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.waiting = append(q.mu.waiting, of)
	if q.mu.urgent = q.mu.urgent || urgent; q.beginLocked() {
		go q.ask()
	}
}

// hurry does not let the next question wait, for a queue that waits for it already.
func (q *questions) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.urgent = len(q.mu.waiting) > 0; q.beginLocked() {
		go q.ask()
	}
}

// due is called when it is time for a question.
func (q *questions) due() {
	q.mu.Lock()
	q.mu.timed = false
	begin := q.beginLocked()
	q.mu.Unlock()
	if begin {
		q.ask()
	}
}

// beginLocked reports whether the caller is to ask now. If it is too early, due is called in time.
func (q *questions) beginLocked() bool {
	if q.mu.asking || len(q.mu.waiting) == 0 {
		return false
	}
	if early := questionsApart - q.now().Sub(q.mu.began); early > 0 && !q.mu.urgent {
		if !q.mu.timed {
			q.mu.timed = true
			q.after(early, q.due)
		}
		return false
	}
	q.mu.asking = true
	return true
}

// ask asks, and goes on as long as somebody waits who is due.
func (q *questions) ask() {
	for again := true; again; {
		q.mu.Lock()
		batch := q.mu.waiting
		q.mu.waiting, q.mu.urgent, q.mu.began = nil, false, q.now()
		q.mu.Unlock()
		for _, of := range batch {
			of.cover()
		}
		rev, err := q.current(context.Background())
		if err != nil {
			q.log.Debug("no current revision for watch streams, will ask again", "error", err, "streams", len(batch))
		}
		left := batch[:0]
		urgent := false
		for _, of := range batch {
			waits, hurries := of.answer(rev, err)
			if waits {
				left = append(left, of)
			}
			urgent = urgent || hurries
		}
		again = q.answered(left, urgent, err)
	}
}

// answered notes the end of a question, and who waits for another one; after an error not at once. It reports whether that is to be asked now.
func (q *questions) answered(left []*requestQueue, urgent bool, err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.asking = false
	if err != nil && !errors.Is(err, shard.ErrStopped) {
		q.mu.pause = min(max(2*q.mu.pause, currentRetryMin), currentRetryMax)
		if len(left) > 0 {
			q.after(q.mu.pause, func() { q.addAll(left) })
		}
		return q.beginLocked()
	}
	q.mu.pause = 0
	q.mu.waiting = append(q.mu.waiting, left...)
	q.mu.urgent = q.mu.urgent || urgent
	return q.beginLocked()
}

// addAll has the next question asked for those whom the last one has failed.
func (q *questions) addAll(left []*requestQueue) {
	q.mu.Lock()
	q.mu.waiting = append(q.mu.waiting, left...)
	q.mu.urgent = true
	begin := q.beginLocked()
	q.mu.Unlock()
	if begin {
		q.ask()
	}
}
