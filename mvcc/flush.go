package mvcc

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// NeedsFlush reports whether the buffer is large, or a compaction waits to be made durable, or
// settling was asked for and waits for what is in the buffer.
func (s *Store) NeedsFlush() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.active.bytes >= s.opt.FlushBytes || s.mu.active.to.compact > s.mu.durable.compact ||
		s.mu.settle && s.mu.active.dirty
}

// Flush writes what was applied into the file, in one transaction with its position. After a
// failed write every later one fails too: what a failed fsync left behind cannot be known.
func (s *Store) Flush() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	return s.flushLocked()
}

// flushLocked is Flush with disk held.
func (s *Store) flushLocked() error {
	s.mu.Lock()
	b := s.mu.active
	if !b.dirty {
		s.mu.Unlock()
		return nil
	}
	next := newBuffer()
	next.to = b.to
	s.mu.flushing, s.mu.active = b, next
	b.to.settle, b.to.swept = s.mu.durable.settle, s.mu.durable.swept
	s.mu.Unlock()
	err := s.commitLocked("flush", func(tx *bolt.Tx, mem *slab) error {
		if err := s.verifyLog(b.vers); err != nil {
			return err
		}
		return b.write(tx, mem)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.flushing = nil
	s.mu.durable = b.to
	return nil
}

// commitLocked runs one write transaction with disk held, then the hook of the step. What fn writes to mem
// is there until the transaction has ended.
func (s *Store) commitLocked(step string, fn func(tx *bolt.Tx, mem *slab) error) error {
	var mem slab
	err := s.hook("before " + step)
	if err == nil {
		err = s.update(func(tx *bolt.Tx) error { return fn(tx, &mem) })
	}
	if err == nil {
		mem.release()
		err = s.hook(step)
	}
	if err != nil {
		s.disk.failed = fmt.Errorf("mvcc: %s: %s: %w", s.opt.Path, step, err)
	}
	return s.disk.failed
}

func (s *Store) hook(point string) error {
	if s.opt.hook == nil {
		return nil
	}
	return s.opt.hook(point)
}
