package lead

import (
	"fmt"
	"time"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// A barrier gives a range to one change alone: everything ahead of it in the table ends first, everything behind it
// waits. Reads and fences do not wait for it.
//
//	draining --> acting --> over
//	   |  ^         |
//	   v  |         +--- failed: gives way
//	  pausing
//
// A drain is over when nothing can allocate a revision, or hold a lock, that the change would orphan (hazards 64, 66).
// It has a budget, after which it gives way for a pause and tries again: two ranges may drain for one another's
// transactions, and a range that stands is a stall for its clients (hazard 69).

// barrierStep is the state of a barrier.
type barrierStep uint8

const (
	barrierDraining barrierStep = iota // in the table: waits for what is ahead
	barrierPausing                     // out of the table, between two drains
	barrierActing                      // in the table: drained, and the change is under way
)

// drainBudget is how long the first drain may take, or drainBatches times as long as a batch lately took: where all requests take long because the node
// has no time left, a drain does too, and there the lead is to go. Each further one may take twice as long as the one before, up to Limits.Election.
// drainPauses is how much longer than a drain the pause behind it is.
const (
	drainBudget  = 50 * time.Millisecond
	drainBatches = 3
	drainPauses  = 10
)

// barrier is one request for the range.
type barrier struct {
	id       uint64
	step     barrierStep
	budget   time.Duration // of the present drain, or of the action
	until    time.Time     // when the step is over; zero: its time begins with the next tick
	deadline time.Time     // no drain begins after it

	patience time.Duration // for the action
	act      func()        // begins the change; it is answered with Acted
	abort    func()        // ends a change that takes too long; it is answered with Acted too
	aborting bool
	moves    bool             // the change succeeds by the end of the term, and by nothing else
	brings   shard.Generation // the change succeeds when this generation applies; 0: it says so itself
	done     func(stood time.Duration, err error)
	entered  time.Time // when it entered the table, by Limits.Clock
}

// barriers keeps the barrier of the range, one at a time. Its events are Transfer, Change, Reconfigure, Acted, ticks, and whatever lets a
// drain advance.
type barriers struct {
	l    *Leader
	cur  *barrier
	item *Item // its place in the table; nil: nothing waits for it
	// usual is about how long batches lately took, from when they were closed until they were answered.
	usual time.Duration
}

// answered is told how long a batch has taken.
func (bs *barriers) answered(took time.Duration) {
	if mutate.On(mutate.DrainHasty) {
		return
	}
	bs.usual += (took - bs.usual) / 4
}

// Transfer hands the leadership to replica to, or, where that is 0, to whoever is level, once the range is drained.
// No request fails by it for good: what waits is refused with NotLeaderError once another leads. done is called by
// the core, with how long requests have waited; it may only emit actions. nil: this replica leads no more.
func (bs *barriers) Transfer(to shard.ReplicaID, deadline time.Time, done func(stood time.Duration, err error)) {
	patience := min(max(bs.l.lim.Election/4, drainBatches*bs.usual), bs.l.lim.Election)
	b := &barrier{deadline: deadline, patience: patience, moves: true, done: done}
	b.act = func() { bs.l.Emit(Action{Kind: ActTransfer, Id: b.id, N: int(to)}) }
	b.abort = func() { bs.l.Emit(Action{Kind: ActAbortTransfer, Id: b.id}) }
	bs.raise(b)
}

// raise begins the first drain.
func (bs *barriers) raise(b *barrier) {
	if bs.enter(b) {
		bs.drain()
		bs.l.Run()
	}
}

// enter makes it the only change of the range; false: it has been refused.
func (bs *barriers) enter(b *barrier) bool {
	switch {
	case bs.l.deposed:
		b.done(0, bs.l.NotLeader())
		return false
	case !bs.l.ownTermApplied:
		b.done(0, shard.ErrUnavailable)
		return false
	case bs.cur != nil:
		b.done(0, fmt.Errorf("%w: another change of the range is under way", shard.ErrTooManyRequests))
		return false
	}
	b.id = bs.l.id()
	bs.cur = b
	return true
}

// drain enters the table. The item has no accesses and is in none of the table's indexes: everything that enters
// behind it waits for it, also what has no key yet.
func (bs *barriers) drain() {
	b := bs.cur
	b.step, b.until = barrierDraining, time.Time{}
	b.budget = min(max(2*b.budget, drainBudget, drainBatches*bs.usual), bs.l.lim.Election)
	b.entered = bs.l.lim.Clock()
	bs.item = &Item{phase: phaseBlocked}
	bs.l.tab.enter(bs.item)
}

// await makes an item that enters the table wait for the barrier.
func (bs *barriers) await(it *Item) {
	bs.item.evalWaiters = append(bs.item.evalWaiters, it)
	it.blockers++
}

// advance acts once the drain is over.
func (bs *barriers) advance() {
	if b := bs.cur; b.step == barrierDraining && (bs.drained() || mutate.On(mutate.BarrierNoDrain)) {
		b.step, b.until = barrierActing, time.Time{}
		b.act()
	}
}

// drained reports whether nothing is ahead, no revision is being allocated, nothing is locked, and what was proposed
// has applied.
func (bs *barriers) drained() bool {
	l := bs.l
	return l.tab.first == bs.item && len(l.Batches.allocating) == 0 && len(l.Coordinations.commits) == 0 &&
		(len(l.m.Prepared) == 0 || mutate.On(mutate.DrainKeepsLocks)) &&
		len(l.Participants.pendingResolves) == 0 && len(l.Proposals.proposals) == 0
}

// ahead says what a drain waits for.
func (bs *barriers) ahead() string {
	l, n := bs.l, 0
	for it := l.tab.first; it != nil && it != bs.item; it = it.next {
		n++
	}
	return fmt.Sprintf("%d requests ahead, %d allocations, %d locks of transactions, %d entries not applied",
		n, len(l.Batches.allocating), len(l.m.Prepared), len(l.Proposals.proposals)+len(l.Participants.pendingResolves))
}

// tick lets a drain give way, begins the next one, and ends a change that takes too long.
func (bs *barriers) tick(now time.Time) {
	b := bs.cur
	if b.until.IsZero() {
		b.until = now.Add(b.budget)
		if b.step == barrierActing {
			b.until = now.Add(b.patience)
		}
	}
	if now.Before(b.until) {
		return
	}
	switch b.step {
	case barrierPausing:
		bs.drain()
	case barrierActing:
		if !b.aborting {
			b.aborting = true
			b.abort()
		}
	case barrierDraining:
		pause := now.Add(drainPauses * b.budget)
		if !b.deadline.IsZero() && !pause.Before(b.deadline) {
			bs.over(fmt.Errorf("%w: the range did not come to rest: %s", shard.ErrTimeout, bs.ahead()))
			return
		}
		bs.lower()
		b.step, b.until = barrierPausing, pause
	}
}

// Acted answers what act emitted: the change is over. With an error it has had no effect. That the leadership has
// moved says nothing here: what waits must begin no more, and ends with the term.
func (bs *barriers) Acted(id uint64, err error) {
	bs.acted(id, err)
	bs.l.Run()
}

func (bs *barriers) acted(id uint64, err error) {
	b := bs.cur
	if bs.l.deposed || b == nil || b.id != id || b.step != barrierActing || b.moves && err == nil {
		return
	}
	bs.over(err)
}

// over ends the barrier.
func (bs *barriers) over(err error) {
	b := bs.cur
	stood := bs.lower()
	bs.cur = nil
	b.done(stood, err)
}

// lower takes the barrier out of the table. What has waited is looked at anew: keys that the range does not hold any
// more are refused here, and all else begins with its evaluation. It returns how long the range stood.
func (bs *barriers) lower() time.Duration {
	it := bs.item
	if it == nil {
		return 0
	}
	bs.item = nil
	waiting := it.evalWaiters
	it.evalWaiters, it.phase = nil, phaseDone
	bs.l.tab.leave(it)
	for _, w := range waiting {
		if w.phase != phaseDone && !bs.l.holds(w) {
			bs.l.finish(w, nil, bs.l.m.WrongRange())
		}
	}
	bs.l.unblock(waiting)
	return bs.l.lim.Clock().Sub(bs.cur.entered)
}

// depose ends the barrier with the term. What waits ends with the term too.
func (bs *barriers) depose(err error) {
	b := bs.cur
	if b == nil {
		return
	}
	if b.step == barrierActing && b.moves {
		err = nil
	}
	stood := time.Duration(0)
	if bs.item != nil {
		stood = bs.l.lim.Clock().Sub(b.entered)
		bs.item.evalWaiters, bs.item.phase = nil, phaseDone
		bs.l.tab.leave(bs.item)
	}
	bs.cur, bs.item = nil, nil
	b.done(stood, err)
}
