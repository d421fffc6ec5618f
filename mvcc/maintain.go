package mvcc

import (
	"fmt"

	"pontoon/shard"
)

// passKind says what the present pass of Maintain does.
type passKind int

const (
	passNone passKind = iota
	passSettle
	passSweep
)

// pass is settling or sweeping under way. It lives in memory only: after a crash it begins
// again, and what it had done is found done.
type pass struct {
	kind    passKind
	target  int64  // settle: up to this revision; sweep: the compaction revision
	compact int64  // settle: what is dead at this compaction revision needs no place in the base
	cursor  []byte // settle: next user key; sweep: next log key
}

// CompactPending reports whether compacted versions may still be in the file.
func (s *Store) CompactPending() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sweepsLocked(s.compactRev.Load())
}

// sweepsLocked reports whether a compaction at compact has something to delete. Where every version is older
// than the last sweep, each key has its newest alone, and the next compaction kills none of them: a compaction
// costs nothing in ranges that nobody has written to since the one before.
func (s *Store) sweepsLocked(compact int64) bool {
	swept := s.mu.durable.swept
	return swept < compact && s.mu.last > 0 && s.mu.last >= swept
}

// RequestSettle makes the next calls of Maintain settle, whatever the size of the index: for
// the scheduler that divides a node's memory over its ranges.
func (s *Store) RequestSettle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.settle = true
}

// Maintain does one bounded step of settling or physical compaction, of about budget records
// and at most a few MiB, in one transaction, or of Scrub where that has to come first. more says that another step is due now; false that
// there is nothing to do, or that it waits for a Flush, the floor or a pinned reader.
func (s *Store) Maintain(budget int) (more bool, err error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := s.usableLocked(); err != nil {
		return false, err
	}
	p := &s.disk.pass
	if p.kind == passNone {
		if *p = s.nextPass(); p.kind == passNone {
			return false, nil
		}
	}
	if more, err := s.Scrub(); more || err != nil { // deletes must find all pages good
		return more, err
	}
	budget = max(budget, 1)
	if p.kind == passSettle {
		err = s.settleStep(p, budget)
	} else {
		err = s.sweepStep(p, budget)
	}
	if err != nil {
		return false, err
	}
	if p.kind != passNone {
		return true, nil
	}
	*p = s.nextPass()
	return p.kind != passNone, nil
}

func (s *Store) usableLocked() error {
	if s.disk.failed != nil {
		return s.disk.failed
	}
	if s.disk.closed {
		return fmt.Errorf("mvcc: %w", shard.ErrStopped)
	}
	return nil
}

// nextPass decides what to do next; disk is held.
func (s *Store) nextPass() pass {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.mu.durable
	compact := s.physicalLocked()
	target := s.settleTargetLocked()
	full := s.mu.index.bytes >= max(s.opt.SettleBytes, s.mu.held+s.opt.SettleBytes/4)
	sweeps := s.sweepsLocked(compact)
	wanted := full || s.mu.settle || d.settle < compact && sweeps
	if wanted && target > d.settle {
		s.mu.settle = false
		s.mu.target = target
		return pass{kind: passSettle, target: target, compact: compact}
	}
	s.mu.settle = false
	// The base is swept only when nothing at or below the compaction revision is still on its
	// way there: what masks a dead version must be seen beside it.
	if sweeps && d.settle >= compact {
		return pass{kind: passSweep, target: compact}
	}
	return pass{}
}

// settleTargetLocked is how far the log may be settled: to the floor, and no further than the
// last version that is in the file with all before it.
func (s *Store) settleTargetLocked() int64 {
	t := min(s.mu.floor, max(s.mu.durable.last, s.mu.durable.compact))
	for _, b := range []*buffer{s.mu.flushing, s.mu.active} {
		if b != nil {
			t = min(t, b.minRev-1)
		}
	}
	return t
}
