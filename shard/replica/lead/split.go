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

// CheckSplit says why the range cannot be cut like this, as far as it can be known before: the entry is checked once
// more where it applies.
func (l *Leader) CheckSplit(s *pb.Split) error {
	if err := l.m.CheckSplit(s); err != nil {
		return fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	return nil
}
