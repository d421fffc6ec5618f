package host

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"pontoon/internal/patience"
	"pontoon/shard"
)

// maintainBudget is the work of one maintenance step, in versions: small, so that a write
// that waits for the store's file waits for milliseconds.
const maintainBudget = 2000

// maintainPause is the pause after a round of steps. Behind a step that takes longer than that is a
// pause as long, unless there is too much in memory: maintenance takes half of a processor at most.
// Nothing pauses while somebody waits for a step.
const maintainPause = 2 * time.Millisecond

// urgentAtOnce is how many ranges are stepped at a time that somebody waits for: each step waits for the disk a few
// times, and the disk serves several files at once.
const urgentAtOnce = 4

// laterPause is how long a range is left alone that waits for readers of what was compacted.
const laterPause = 200 * time.Millisecond

// scheduler is the queue of the stores that have something to do beside their writes. Safe for concurrent use.
type scheduler struct {
	mu    sync.Mutex
	queue *maintenanceQueue

	compactions *compactionLog

	wake       chan struct{} // gets one when something has come
	urgentWake chan struct{} // gets one when something urgent has come
}

func newScheduler(log *slog.Logger) *scheduler {
	return &scheduler{queue: newMaintenanceQueue(), compactions: newCompactionLog(log), wake: make(chan struct{}, 1), urgentWake: make(chan struct{}, 1)}
}

// touch makes a range due. It does not block.
func (s *scheduler) touch(id shard.RangeID, urgent bool) {
	s.mu.Lock()
	if urgent {
		s.queue.TouchUrgent(id)
	} else {
		s.queue.Touch(id)
	}
	s.mu.Unlock()
	patience.Wake(s.wake)
	if urgent {
		patience.Wake(s.urgentWake)
	}
}

// touchLater is touch after laterPause.
func (s *scheduler) touchLater(id shard.RangeID, urgent bool) {
	s.mu.Lock()
	s.queue.TouchLater(id, time.Now().Add(laterPause), urgent)
	s.mu.Unlock()
	patience.Wake(s.wake)
}

// next takes the range that is to be stepped now.
func (s *scheduler) next() (shard.RangeID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wakeLocked()
	return s.queue.Next(time.Now())
}

// wakeLocked lets another goroutine go if something urgent is left.
func (s *scheduler) wakeLocked() {
	if s.queue.Urgent() {
		patience.Wake(s.urgentWake)
	}
}

// nextUrgent waits until somebody waits for a step, and takes it; false: ctx has ended.
func (s *scheduler) nextUrgent(ctx context.Context) (shard.RangeID, bool) {
	for {
		s.mu.Lock()
		id, ok := s.queue.NextUrgent()
		s.wakeLocked()
		s.mu.Unlock()
		if ok {
			return id, true
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-s.urgentWake:
		}
	}
}

// due waits until something is due, and says how much; 0: ctx has ended.
func (s *scheduler) due(ctx context.Context) int {
	for ctx.Err() == nil {
		s.mu.Lock()
		n := s.queue.Due(time.Now())
		at, some := s.queue.NextDue()
		s.mu.Unlock()
		if n > 0 {
			return n
		}
		var ripe <-chan time.Time
		if some {
			ripe = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-ripe:
		}
	}
	return 0
}

// pause leaves the disk and the processor to requests, unless somebody waits for a step.
func (s *scheduler) pause(ctx context.Context, d time.Duration) {
	over := time.After(d)
	for {
		s.mu.Lock()
		urgent := s.queue.Urgent()
		s.mu.Unlock()
		if urgent {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-s.urgentWake:
		}
	}
}

// touched notes that a range has applied something, so that its store is looked after.
func (rs *ranges) touched(id shard.RangeID) { rs.scheduler.touch(id, false) }

// maintain steps the stores of ranges that changed, in turn, until ctx ends. A store that fails stops its group, not
// the node. It begins when the node serves, or after scrubPause: what a former life has left to do can wait.
func (rs *ranges) maintain(ctx context.Context, serves <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-serves:
	case <-time.After(scrubPause):
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range urgentAtOnce - 1 {
		wg.Go(func() { rs.maintainUrgent(ctx) })
	}
	rs.scheduler.compactions.stepped(rs.compactions) // a former life may have ended before it was told that a compaction had
	busy := false
	for {
		if rs.scheduler.due(ctx) == 0 {
			return
		}
		if !busy { // what settles already may be enough
			rs.settleLargest()
		}
		busy = false
		for range rs.scheduler.due(ctx) { // a round
			id, ok := rs.scheduler.next()
			if !ok || ctx.Err() != nil {
				break
			}
			began := time.Now()
			busy = rs.maintainStep(id) || busy
			if took := time.Since(began); took > maintainPause && rs.memory.Excess() == 0 {
				rs.scheduler.pause(ctx, took) // what nobody waits for can wait
			}
		}
		rs.scheduler.pause(ctx, maintainPause)
	}
}

// maintainUrgent steps ranges that somebody waits for, until ctx ends.
func (rs *ranges) maintainUrgent(ctx context.Context) {
	for {
		id, ok := rs.scheduler.nextUrgent(ctx)
		if !ok {
			return
		}
		rs.maintainStep(id)
	}
}

// maintainStep gives one range's store time for a step. more says that another one is due.
func (rs *ranges) maintainStep(id shard.RangeID) (more bool) {
	rep, ok := rs.get(id)
	if !ok {
		return false
	}
	more, err := rep.Maintain(maintainBudget)
	rs.scheduler.compactions.stepped(rs.compactions)
	switch {
	case err != nil:
		rs.log.Error("maintenance of a range failed", "range", id.String(), "error", err)
		if errors.Is(err, syscall.ENOSPC) {
			rs.repairs.full(id, err, false)
		}
		return false
	case more:
		rs.scheduler.touch(id, rep.Awaited())
	case rep.CompactPending(), rep.TrimPending():
		rs.scheduler.touchLater(id, rep.Awaited())
	}
	return more
}
