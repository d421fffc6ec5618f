package etcdapi

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"

	"pontoon/shard"
)

// questioner has questions asked of a test, by the clock of that test.
type questioner struct {
	t      *testing.T
	q      questions
	at     time.Duration
	timers []time.Duration // when something is to be called
	calls  []func()
	asked  chan struct{} // a question has come
	answer chan answer
}

type answer struct {
	rev int64
	err error
}

func newQuestioner(t *testing.T) *questioner {
	r := &questioner{t: t, asked: make(chan struct{}), answer: make(chan answer), at: time.Hour}
	r.q.init(func(context.Context) (int64, error) {
		r.asked <- struct{}{}
		a := <-r.answer
		return a.rev, a.err
	}, slog.New(slog.DiscardHandler))
	r.q.now = func() time.Time { return time.Time{}.Add(r.at) }
	r.q.after = func(d time.Duration, f func()) {
		r.timers, r.calls = append(r.timers, r.at+d), append(r.calls, f)
	}
	return r
}

// stream is the queue of a stream, which tells when it has been answered.
func (r *questioner) stream() (q *requestQueue, answered chan struct{}) {
	answered = make(chan struct{}, 8)
	q = &requestQueue{questions: &r.q, schedule: func() { answered <- struct{}{} }}
	q.open()
	return q, answered
}

func (r *questioner) push(q *requestQueue, kinds ...commandKind) {
	for _, kind := range kinds {
		if !q.push(command{kind: kind, asks: true}) {
			r.t.Error("not taken")
		}
	}
}

// begins waits for a question; nothing but that has one asked which is due by now.
func (r *questioner) begins() { <-r.asked }

// none waits until the last question is over, and fails if there is another.
func (r *questioner) none() {
	r.t.Helper()
	for asking := true; asking; runtime.Gosched() {
		select {
		case <-r.asked:
			r.t.Fatal("there is a question")
		default:
		}
		r.q.mu.Lock()
		asking = r.q.mu.asking
		r.q.mu.Unlock()
	}
}

// pass lets time pass, and calls what is due then.
func (r *questioner) pass(d time.Duration) {
	r.t.Helper()
	r.none()
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	r.at += d
	for i := len(r.timers) - 1; i >= 0; i-- {
		if r.timers[i] <= r.at {
			go r.calls[i]()
			r.timers, r.calls = slices.Delete(r.timers, i, i+1), slices.Delete(r.calls, i, i+1)
		}
	}
}

// got is what a turn takes: the revisions of commands.
func (r *questioner) got(q *requestQueue, answered chan struct{}, want ...int64) {
	r.t.Helper()
	<-answered
	var revs []int64
	for _, c := range q.take(nil) {
		revs = append(revs, c.revision)
	}
	if !slices.Equal(revs, want) {
		r.t.Fatalf("revisions %d, want %d", revs, want)
	}
}

// TestQuestionsAreShared: the first question for progress is asked at once, and those that come soon after share one; what creates a watch does not wait, nor
// does who waited before it. What comes while one is under way is given the answer to the next.
func TestQuestionsAreShared(t *testing.T) {
	r := newQuestioner(t)
	a, aDone := r.stream()
	b, bDone := r.stream()
	r.push(a, commandProgress)
	r.begins()
	r.push(a, commandProgress) // too late for this one
	r.push(b, commandProgress)
	r.answer <- answer{rev: 7}
	r.got(a, aDone, 7)
	r.none()
	r.pass(questionsApart - 1)
	r.none()
	r.pass(1)
	r.begins()
	r.answer <- answer{rev: 9}
	r.got(a, aDone, 9)
	r.got(b, bDone, 9)

	r.push(a, commandProgress)
	r.none()
	r.push(b, commandCreate)
	r.begins()
	r.push(a, commandCreate)
	r.answer <- answer{rev: 11}
	r.got(b, bDone, 11)
	r.got(a, aDone, 11)
	r.begins() // for the watch that came meanwhile
	r.answer <- answer{rev: 12}
	r.got(a, aDone, 12)

	r.push(a, commandProgress)
	r.none()
	r.push(a, commandCreate) // behind it, and in a hurry
	r.begins()
	r.answer <- answer{rev: 13}
	r.got(a, aDone, 13, 13)
}

// TestQuestionsThatFail: without an answer who asks for progress is sent away, and who creates a watch asks again, later and later, until all is over.
func TestQuestionsThatFail(t *testing.T) {
	r := newQuestioner(t)
	a, aDone := r.stream()
	r.push(a, commandCreate, commandProgress)
	r.begins()
	r.answer <- answer{err: shard.ErrUnavailable}
	r.got(a, aDone)
	for n, pause := 0, currentRetryMin; n < 9; n++ {
		r.pass(pause)
		r.begins()
		r.answer <- answer{err: shard.ErrUnavailable}
		r.got(a, aDone)
		pause = min(2*pause, currentRetryMax)
	}
	r.pass(currentRetryMax)
	r.begins()
	r.answer <- answer{rev: 5}
	r.got(a, aDone, 5)
	r.push(a, commandCreate)
	r.begins()
	r.answer <- answer{err: errors.Join(shard.ErrStopped)}
	r.got(a, aDone)
	r.none()
	if len(r.timers) > 0 {
		t.Error("it goes on")
	}
}
