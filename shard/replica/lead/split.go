package lead

import (
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Change proposes an entry that changes the descriptor, a Split or a GenRise, once the range is drained. Nothing else is proposed
// meanwhile, so no revision is lost by it. done is called by the core with how long requests have waited; it may only
// emit actions. With an error the range is as it was, unless the term has ended: then the outcome is for the next
// leader to tell. shard.ErrTimeout: the range did not come to rest before the deadline.
func (bs *barriers) Change(e *pb.Entry, deadline time.Time, done func(stood time.Duration, err error)) {
	b := &barrier{deadline: deadline, patience: bs.l.lim.Election, done: done}
	b.act = func() {
		// Drained: whatever has been handed out and could be of this range has applied.
		e.Closed = bs.l.maxAllocated
		bs.l.Proposals.proposeEntry(&proposal{done: func(err error) { bs.acted(b.id, err) }}, e)
	}
	b.abort = func() {} // what is in the log cannot be called back
	bs.raise(b)
}

// Reconfigure lets begin propose a change of the group's configuration that brings the range to the generation after the present one. Requests go
// on meanwhile, and no other change of the descriptor is proposed: the step's context says what the descriptor is after it, and it is never
// refused where it applies. begin is called without the core's lock. It is answered with Acted(id, why) if nothing was appended. done is
// called by the core; with an error the range is as it was, unless the term has ended.
func (bs *barriers) Reconfigure(begin func(id uint64), done func(err error)) {
	b := &barrier{patience: bs.l.lim.Election, brings: bs.l.m.Desc.Generation + 1, done: func(_ time.Duration, err error) { done(err) }}
	b.abort = func() {} // what is in the log cannot be called back
	if bs.enter(b) {
		b.step = barrierActing
		bs.l.Emit(Action{Kind: ActCall, Fn: func() { begin(b.id) }})
	}
}

// reshaped is told of every change of the descriptor that has applied.
func (bs *barriers) reshaped(gen shard.Generation) {
	if b := bs.cur; b != nil && b.brings != 0 && b.brings <= gen {
		bs.over(nil)
	}
}

// Rebase goes on over another base, and over what the machine has become with it, the union of two ranges: nothing is under way behind the drain, and
// the transactions that were anchored in the other are this leader's from now on.
func (bs *barriers) Rebase(base Base) {
	l := bs.l
	l.base, l.Evaluations.predictor.base = base, base
	l.advanceBase()
	l.Resolutions.recoverTxns()
}

// CheckSplit says why the range cannot be cut like this, as far as it can be known before: the entry is checked once
// more where it applies.
func (l *Leader) CheckSplit(s *pb.Split) error {
	if err := l.m.CheckSplit(s); err != nil {
		return fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	return nil
}
