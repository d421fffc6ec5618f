package mvcc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// passKind says what the present pass of Maintain does.
type passKind int

const (
	passNone passKind = iota
	passSettle
	passSweep
	passTrim // one step of trim, which keeps its own place
)

// pass is settling or sweeping under way. It lives in memory only: after a crash it begins
// again, and what it had done is found done.
type pass struct {
	kind    passKind
	target  int64  // settle: up to this revision; sweep: the compaction revision
	compact int64  // settle: what is dead at this compaction revision needs no place in the base
	cursor  []byte // settle: next user key; sweep: next log key
}

// Maintenance writes a store's file: it flushes what was applied, settles the log into the base, deletes what
// was compacted or cut off, and verifies what has not been read yet. Whoever owns the store schedules that. Methods may
// be called from any goroutine, and beside reads and writes of the store; those that write wait for each other.
type Maintenance struct {
	opt  *Options
	mem  *memtable
	file *file

	// disk is held by whoever writes to the file: Flush, Maintain, Close. It is taken before the memtable's
	// mu, never while holding it.
	disk struct {
		sync.Mutex
		failed   error            // a write failed: what the file holds is unknown, nothing is tried again
		pass     pass             // settling or sweeping under way
		trim     trim             // trimming under way
		anew     *Defragmentation // under way; nil: none
		replaced bool             // another file is to take the place of this one
		closed   bool
	}
	held atomic.Bool // a defragmentation is under way: what can wait is not written
}

// CompactPending reports whether compacted versions may still be in the file.
func (x *Maintenance) CompactPending() bool {
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	return x.mem.sweepsLocked(x.mem.compact.Load())
}

// OpenReads is how many reads of the store's file are under way.
func (x *Maintenance) OpenReads() int { return x.file.openReads() }

// RequestSettle makes the next calls of Maintain settle, whatever the size of the index: for
// the scheduler that divides a node's memory over its ranges.
func (x *Maintenance) RequestSettle() {
	x.mem.mu.Lock()
	defer x.mem.mu.Unlock()
	x.mem.mu.settle = true
}

// Maintain does one bounded step of settling, physical compaction or trimming, of about budget records
// and at most a few MiB, in one transaction, or of Scrub where that has to come first. more says
// that another step is due now; false that there is nothing to do, or that it waits for a Flush,
// the floor, a pinned reader or the end of a Defragmentation.
func (x *Maintenance) Maintain(budget int) (more bool, err error) {
	x.disk.Lock()
	defer x.disk.Unlock()
	if err := x.usableLocked(); err != nil || x.held.Load() {
		return false, err
	}
	p := &x.disk.pass
	if p.kind == passNone {
		if *p = x.nextPass(); p.kind == passNone {
			return false, nil
		}
	}
	if more, err := x.Scrub(); more || err != nil { // deletes must find all pages good
		return more, err
	}
	budget = max(budget, 1)
	switch p.kind {
	case passSettle:
		err = x.settleStep(p, budget)
	case passSweep:
		err = x.sweepStep(p, budget)
	default:
		err = x.trimStep(budget)
		*p = pass{}
	}
	if err != nil {
		return false, err
	}
	if p.kind != passNone {
		return true, nil
	}
	*p = x.nextPass()
	return p.kind != passNone, nil
}

// Scrub verifies the next part of what the file held when it was opened. more says that there
// is something left: whoever owns the store calls it again, when there is time.
func (x *Maintenance) Scrub() (more bool, err error) { return x.file.scrubStep() }

// close flushes and closes the file.
func (x *Maintenance) close() error {
	x.disk.Lock()
	defer x.disk.Unlock()
	if x.disk.closed {
		return nil
	}
	x.disk.closed = true
	x.giveUpLocked()
	defer x.mem.uncountMemory()
	err := x.disk.failed
	if err == nil {
		err = x.flushLocked()
	}
	return errors.Join(err, x.file.close())
}

func (x *Maintenance) usableLocked() error {
	if x.disk.failed != nil {
		return x.disk.failed
	}
	if x.disk.closed {
		return fmt.Errorf("mvcc: %w", shard.ErrStopped)
	}
	return nil
}

// nextPass decides what to do next; disk is held.
func (x *Maintenance) nextPass() pass {
	x.mem.mu.Lock()
	defer x.mem.mu.Unlock()
	d := x.mem.mu.durable
	trims := x.mem.narrowLocked()
	compact := x.mem.physicalLocked()
	target := x.mem.settleTargetLocked()
	full := x.mem.mu.index.bytes >= max(x.opt.SettleBytes, x.mem.mu.leftover+x.opt.SettleBytes/4)
	sweeps := x.mem.sweepsLocked(compact)
	wanted := full || x.mem.mu.settle || d.settle < compact && sweeps
	if wanted && target > d.settle {
		x.mem.mu.settle = false
		x.mem.mu.target = target
		return pass{kind: passSettle, target: target, compact: compact}
	}
	x.mem.mu.settle = false
	// The base is swept only when nothing at or below the compaction revision is still on its
	// way there: what masks a dead version must be seen beside it.
	if sweeps && d.settle >= compact {
		return pass{kind: passSweep, target: compact}
	}
	if trims {
		return pass{kind: passTrim}
	}
	return pass{}
}

// sweepsLocked reports whether a compaction at compact has something to delete. Where every version is older
// than the last sweep, each key has its newest alone, and the next compaction kills none of them: a compaction
// costs nothing in ranges that nobody has written to since the one before.
func (m *memtable) sweepsLocked(compact int64) bool {
	swept := m.mu.durable.swept
	return swept < compact && m.mu.last > 0 && m.mu.last >= swept
}

// settleTargetLocked is how far the log may be settled: to the floor, and no further than the
// last version that is in the file with all before it.
func (m *memtable) settleTargetLocked() int64 {
	t := min(m.mu.floor, max(m.mu.durable.last, m.mu.durable.compact))
	for _, b := range []*buffer{m.mu.flushing, m.mu.active} {
		if b != nil {
			t = min(t, b.minRev-1)
		}
	}
	return t
}
