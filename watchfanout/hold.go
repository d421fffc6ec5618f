package watchfanout

import (
	"sort"

	"pontoon/internal/fifo"
)

// A marker must not name a revision below that of an event, or a marker, that its stream has delivered. The
// lanes of a stream's watches stand at different revisions: one may be fed by a range that is written to all
// the time, and so always be ahead of one that is told only now and then how far it is closed. What is true
// of both is then named by nobody, however often it is looked at. So a stream whose watches have all come as
// far as was asked for, while some have been delivered more, holds back what is above the highest revision
// that it has queued until the others have come as far, too: for as long as it takes to close a range, and at
// most to the next tick.

// sendQueue is what waits for a stream's reader, in order, and what is held back from it. Its stream's lock
// guards it.
type sendQueue struct {
	queue fifo.Queue[entry]
	sent  int64 // highest revision that is in queue, or has left it

	holdAt int64             // events above it are held back; 0: nothing is
	held   fifo.Queue[entry] // these, and what comes behind them
}

// push appends e to the queue, or what of it is above a hold to what is held back. It returns of how many entries there are more.
func (q *sendQueue) push(e entry) (more int) {
	if q.holdAt == 0 {
		q.sent = max(q.sent, e.rev)
		q.queue.Push(e)
		return 1
	}
	n := sort.Search(len(e.evs), func(i int) bool { return e.evs[i].Rev() > q.holdAt })
	if n == len(e.evs) && (n > 0 || q.held.Len() == 0) {
		q.queue.Push(e) // all of it is below, or the end of a watch with nothing before it
		return 1
	}
	if n > 0 {
		front := e
		front.evs, front.weight, front.rev = e.evs[:n:n], weigh(e.evs[:n]), e.evs[n-1].Rev()
		e.evs, e.weight = e.evs[n:], e.weight-front.weight
		q.queue.Push(front)
		more++
	}
	q.held.Push(e)
	return more + 1
}

// enqueueMarker appends a marker, of a revision that markerRevision has named. Markers in a row become one.
func (q *sendQueue) enqueueMarker(e entry) {
	q.sent = max(q.sent, e.rev)
	if waiting := q.queue.Items(); len(waiting) > 0 {
		if last := &waiting[len(waiting)-1]; last.w == e.w && last.evs == nil && last.compact == 0 {
			last.rev, last.heard = max(last.rev, e.rev), e.heard
			return
		}
	}
	q.queue.Push(e)
}

// markerRevision returns the revision that a marker may name where everything at or below rev has been queued. If
// that is below what has been delivered, it begins to hold, and returns the revision that is to be reached
// first, too; otherwise that is 0.
func (q *sendQueue) markerRevision(rev int64) (named, reach int64) {
	switch {
	case q.holdAt > 0 && rev >= q.holdAt:
		return q.holdAt, 0
	case rev >= q.sent:
		return rev, 0
	case q.holdAt == 0:
		q.holdAt = q.sent
	}
	return rev, q.holdAt
}

// release ends the hold.
func (q *sendQueue) release() {
	for _, e := range q.held.Items() {
		q.sent = max(q.sent, e.rev)
		q.queue.Push(e)
	}
	q.holdAt, q.held = 0, fifo.Queue[entry]{}
}
