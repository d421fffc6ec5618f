package host

import (
	"time"

	"pontoon/shard"
)

// urgentRun is how many urgent steps go before one that is not: nothing starves.
const urgentRun = 8

// maintenanceQueue says whose store is stepped next. A range is in it at most once, so it is as long as the node
// has ranges. It has neither a clock nor a lock; the zero value is not ready, newMaintenanceQueue's is.
type maintenanceQueue struct {
	byID   map[shard.RangeID]*queuedRange
	urgent rangeList // somebody waits for it
	due    rangeList
	later  rangeList // in the order of their times
	run    int       // urgent ones since the last other one
	free   *queuedRange
}

// queuedRange is a range in one of the lists.
type queuedRange struct {
	id     shard.RangeID
	list   *rangeList
	at     time.Time // of one in later: when it is due
	urgent bool      // of one in later: it is urgent then
	before *queuedRange
	after  *queuedRange
}

func newMaintenanceQueue() *maintenanceQueue {
	return &maintenanceQueue{byID: map[shard.RangeID]*queuedRange{}}
}

// Touch makes a range due, unless it is already.
func (q *maintenanceQueue) Touch(id shard.RangeID) {
	if e := q.entry(id); e.list == nil || e.list == &q.later {
		q.move(e, &q.due)
	}
}

// TouchUrgent makes a range due before all that are not urgent.
func (q *maintenanceQueue) TouchUrgent(id shard.RangeID) {
	if e := q.entry(id); e.list != &q.urgent {
		q.move(e, &q.urgent)
	}
}

// TouchLater makes a range due at a time, unless it is in the queue already. Times never go back from call to call.
func (q *maintenanceQueue) TouchLater(id shard.RangeID, at time.Time, urgent bool) {
	if e := q.entry(id); e.list == nil {
		e.at, e.urgent = at, urgent
		q.move(e, &q.later)
	}
}

// Next takes the range that is to be stepped now.
func (q *maintenanceQueue) Next(now time.Time) (id shard.RangeID, ok bool) {
	q.ripen(now)
	if q.due.len == 0 || q.run < urgentRun {
		if id, ok = q.take(&q.urgent); ok {
			q.run++
			return id, true
		}
	}
	q.run = 0
	return q.take(&q.due)
}

// NextUrgent takes the next range that somebody waits for.
func (q *maintenanceQueue) NextUrgent() (id shard.RangeID, ok bool) { return q.take(&q.urgent) }

func (q *maintenanceQueue) take(list *rangeList) (id shard.RangeID, ok bool) {
	e := list.first
	if e == nil {
		return 0, false
	}
	id = e.id
	list.remove(e)
	delete(q.byID, id)
	*e = queuedRange{after: q.free}
	q.free = e
	return id, true
}

// Due is how many ranges are to be stepped now.
func (q *maintenanceQueue) Due(now time.Time) int {
	q.ripen(now)
	return q.urgent.len + q.due.len
}

// Urgent reports whether somebody waits for a step.
func (q *maintenanceQueue) Urgent() bool { return q.urgent.len > 0 }

// NextDue is when the first of those that are not due yet will be; false where there is none.
func (q *maintenanceQueue) NextDue() (at time.Time, ok bool) {
	if q.later.first == nil {
		return at, false
	}
	return q.later.first.at, true
}

// ripen moves those whose time has come.
func (q *maintenanceQueue) ripen(now time.Time) {
	for e := q.later.first; e != nil && !now.Before(e.at); e = q.later.first {
		if e.urgent {
			q.move(e, &q.urgent)
		} else {
			q.move(e, &q.due)
		}
	}
}

// entry is a range's place in the queue. A new one is in no list: the caller moves it into one.
func (q *maintenanceQueue) entry(id shard.RangeID) *queuedRange {
	e := q.byID[id]
	if e != nil {
		return e
	}
	if e = q.free; e != nil {
		q.free = e.after
		*e = queuedRange{id: id}
	} else {
		e = &queuedRange{id: id}
	}
	q.byID[id] = e
	return e
}

func (q *maintenanceQueue) move(e *queuedRange, to *rangeList) {
	if e.list != nil {
		e.list.remove(e)
	}
	to.push(e)
}

// rangeList is a list of ranges, the oldest first.
type rangeList struct {
	first, last *queuedRange
	len         int
}

func (l *rangeList) push(e *queuedRange) {
	e.list, e.before, e.after = l, l.last, nil
	if l.last == nil {
		l.first = e
	} else {
		l.last.after = e
	}
	l.last = e
	l.len++
}

func (l *rangeList) remove(e *queuedRange) {
	if e.before == nil {
		l.first = e.after
	} else {
		e.before.after = e.after
	}
	if e.after == nil {
		l.last = e.before
	} else {
		e.after.before = e.before
	}
	e.list, e.before, e.after = nil, nil, nil
	l.len--
}
