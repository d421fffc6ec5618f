package mvcc

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
)

// stepFlush is what the step is called that writes what was applied.
const stepFlush = "flush"

// idleLag is how many entries a compaction that deletes nothing may be ahead of the file: so much of the log is kept
// for it, and applied again at the next start.
const idleLag = 64

// NeedsFlush reports whether the buffer is large, or a compaction waits to be made durable that deletes something or
// keeps the log from being cut, or a Cut does, or settling was asked for and waits for what is in the buffer. While the file
// is written anew all but much and a Cut can wait.
func (x *Maintenance) NeedsFlush() bool {
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	m := &x.mem.mu
	if x.held.Load() {
		return m.active.bytes >= heldFlushes*x.opt.FlushBytes && !mutate.On(mutate.DefragmentHolds) || m.active.cut != nil
	}
	compacts := m.active.to.compact > m.durable.compact &&
		(x.mem.sweepsLocked(m.active.to.compact) || m.active.to.pos.Index >= m.durable.pos.Index+idleLag)
	return m.active.bytes >= x.opt.FlushBytes || compacts || m.settle && m.active.dirty || m.active.cut != nil
}

// Flush writes what was applied into the file, in one transaction with its position. After a
// failed write every later one fails too: what a failed fsync left behind cannot be known.
func (x *Maintenance) Flush() error {
	x.disk.Lock()
	defer x.disk.Unlock()
	if err := x.usableLocked(); err != nil {
		return err
	}
	return x.flushLocked()
}

// flushLocked is Flush with disk held.
func (x *Maintenance) flushLocked() error {
	b := x.mem.seal()
	if b == nil {
		return nil
	}
	err := x.commitLocked(stepFlush, func(tx *bolt.Tx, mem *slab) error {
		if err := x.file.verifyLog(b.vers); err != nil {
			return err
		}
		return b.write(tx, mem)
	})
	if err != nil {
		return err
	}
	x.mem.flushed(b)
	return nil
}

// commitLocked runs one write transaction with disk held, then the hook of the step. What fn writes to mem
// is there until the transaction has ended.
func (x *Maintenance) commitLocked(step string, fn func(tx *bolt.Tx, mem *slab) error) error {
	var mem slab
	if !mutate.On(mutate.DefragmentWritten) {
		x.giveUpLocked()
	}
	err := x.hook("before " + step)
	if err == nil {
		err = x.file.update(step, func(tx *bolt.Tx) error { return fn(tx, &mem) })
	}
	if err == nil {
		mem.release()
		err = x.hook(step)
	}
	if err != nil {
		x.disk.failed = fmt.Errorf("mvcc: %s: %s: %w", x.file.path, step, err)
	}
	return x.disk.failed
}

func (x *Maintenance) hook(point string) error {
	if x.opt.hook == nil {
		return nil
	}
	return x.opt.hook(point)
}
