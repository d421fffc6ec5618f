package mvcc

import (
	"bytes"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// trimStage says which part of a store is being freed of keys outside of its span. Memory comes first: what is in it
// is in the log too, and a restart would bring it back.
type trimStage int

const (
	trimMemory trimStage = iota
	trimBase
	trimLog
	trimLeases
	trimDone
)

// trim removes what was cut off, in steps. It lives in memory only: after a crash it begins again, and finds done what
// it had done. Settling and sweeping go before each of its steps.
type trim struct {
	span   shard.Span // stays
	stage  trimStage
	cursor []byte // of log and leases: where the next step begins
	visits int    // entries that a step may walk over
}

// TrimPending reports whether keys that were cut off may still be in memory or in the file. Where Maintain has nothing
// to do meanwhile, it waits for a Flush or for a reader of a moment before the cut.
func (x *Maintenance) TrimPending() bool {
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	e := &x.mem.extent
	return e.pending || !e.durable.Equal(e.span())
}

// trimTogether is how many times more entries of the base than others a step removes: they lie together, whole pages of
// them, and a transaction that frees much writes a long list of free pages.
const trimTogether = 4

// trimStep removes the next keys outside of what is kept, about budget of them, in one transaction. The last step says
// in the same transaction that nothing is left.
func (x *Maintenance) trimStep(budget int) error {
	t := x.disk.trim
	if span := *x.mem.extent.kept.Load(); !t.span.Equal(span) || t.stage == trimDone {
		t = trim{span: span, visits: x.opt.steps.visits}
	}
	if t.stage == trimMemory {
		if mutate.On(mutate.TrimMemory) || !t.dropMemory(x.mem, budget) {
			t.stage = trimBase
		}
		x.disk.trim = t
		return nil
	}
	var next trim
	last, left := false, false
	err := x.commitLocked("trim", func(tx *bolt.Tx, _ *slab) error {
		next = t
		if err := next.step(x.file, tx, budget); err != nil {
			return err
		}
		if last = next.stage == trimDone; !last {
			return nil
		}
		durable := x.mem.extent.durable // disk is held
		left = !t.span.Equal(durable)   // cut again meanwhile
		return putExtent(tx, durable, left)
	})
	if err != nil {
		return err
	}
	x.disk.trim = next
	if last {
		x.mem.mu.Lock()
		defer x.mem.mu.Unlock()
		x.mem.extent.pending = left
	}
	return nil
}

// step does a part of one stage, and goes to the next one at its end.
func (t *trim) step(f *file, tx *bolt.Tx, budget int) error {
	var dead [][]byte
	var end bool
	var err error
	name := bucketBase
	switch t.stage {
	case trimBase:
		dead, end = t.outsideBase(tx.Bucket(name).Cursor(), trimTogether*budget)
	case trimLog:
		name = bucketLog
		dead, end, err = t.outside(tx.Bucket(name).Cursor(), budget, func(k, rec []byte) ([]byte, error) {
			v, err := decodeLogRecord(k, rec)
			return v.kv.Key, err
		})
	default:
		name = bucketLease
		dead, end, err = t.outside(tx.Bucket(name).Cursor(), budget, func(k, rec []byte) ([]byte, error) {
			if len(k) < leaseKeyHead {
				return nil, errKeyShort
			}
			return k[leaseKeyHead:], checkLeaseRecord(k, rec)
		})
	}
	if err != nil {
		return f.corrupt(name, t.cursor, err)
	}
	bk := tx.Bucket(name)
	for _, k := range dead {
		if err := bk.Delete(k); err != nil {
			return err
		}
	}
	if end {
		t.stage++
		t.cursor = nil
	}
	return nil
}

// outsideBase returns the next entries of the base that do not stay; end says that these are the last. They lie
// together, below and above the span, so that no cursor needs to be kept: what has been deleted is not found again.
func (t *trim) outsideBase(c *bolt.Cursor, budget int) (dead [][]byte, end bool) {
	lo := appendEscaped(nil, t.span.Start)
	k, _ := c.First()
	for ; k != nil && bytes.Compare(k, lo) < 0; k, _ = c.Next() {
		if dead = append(dead, bytes.Clone(k)); len(dead) >= budget {
			return dead, false
		}
	}
	if t.span.Unbounded() {
		return dead, true
	}
	for k, _ = c.Seek(appendEscaped(nil, t.span.End)); k != nil; k, _ = c.Next() {
		if dead = append(dead, bytes.Clone(k)); len(dead) >= budget {
			return dead, false
		}
	}
	return dead, true
}

// outside returns the next entries of a bucket whose user key does not stay, from the cursor on, which it moves; end
// says that there are no more.
func (t *trim) outside(c *bolt.Cursor, budget int, userKey func(k, rec []byte) ([]byte, error)) (dead [][]byte, end bool, err error) {
	k, rec := c.Seek(t.cursor)
	for visits := 0; k != nil; visits++ {
		if visits >= t.visits || len(dead) >= budget {
			t.cursor = bytes.Clone(k)
			return dead, false, nil
		}
		key, err := userKey(k, rec)
		if err != nil {
			t.cursor = bytes.Clone(k)
			return nil, false, err
		}
		if !t.span.Contains(key) {
			dead = append(dead, bytes.Clone(k))
		}
		k, rec = c.Next()
	}
	return dead, true, nil
}

// dropMemory takes about n versions of keys that do not stay from memory; more says that others are left. They are in
// the file: it says that they were cut off, and nothing of them was applied after that.
func (t *trim) dropMemory(m *memtable, n int) (more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var drop []*entry
	take := func(it indexItem) bool {
		if t.span.Contains(it.key) {
			return false
		}
		if more = n <= 0; more {
			return false
		}
		drop = append(drop, it.e)
		n -= len(it.e.vers)
		return true
	}
	m.mu.index.tree.Ascend(take)
	if !t.span.Unbounded() && !more {
		m.mu.index.tree.AscendGreaterOrEqual(indexItem{key: t.span.End}, take)
	}
	for _, e := range drop {
		bytes := 0
		for _, v := range e.vers {
			bytes += v.bytes()
		}
		m.mu.index.trim(e, len(e.vers), bytes)
	}
	m.mu.leftover = min(m.mu.leftover, m.mu.index.bytes)
	m.countMemoryLocked()
	return more
}
