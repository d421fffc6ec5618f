package mvcc

import (
	"bytes"
	"errors"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
)

// settleItem is what one step does with one key: the n oldest versions in the index leave it;
// those in put go into the base first, and where clean is set, the base's versions of the key
// below it go first.
type settleItem struct {
	key   []byte
	entry *entry // has these versions until the step has ended, and only gets more
	n     int
	bytes int // of the n versions: nobody comes back to them, which costs a cache miss each
	put   []*version
	clean *version
}

// errBudget ends a walk that did as much as one step may.
var errBudget = errors.New("budget used up")

// settleStep copies the next keys' versions up to the pass's target from the index into the
// base, commits, and then trims the index. The last step moves the settle revision in the same
// transaction. A version that died at the pass's compaction revision is left out; a tombstone
// that did takes the base's older versions of its key with it, in the same transaction or ones
// before, and stays in index and log until then.
func (x *Maintenance) settleStep(p *pass, budget int) error {
	items, next := x.settleItems(p, budget)
	last := next == nil
	d := x.mem.durable()
	done := 0
	err := x.commitLocked("settle", func(tx *bolt.Tx, mem *slab) error {
		done = 0
		bk := tx.Bucket(bucketBase)
		left := budget
		for _, it := range items {
			if err := it.write(bk, mem, &left); errors.Is(err, errBudget) {
				return nil
			} else if err != nil {
				return err
			}
			done++
		}
		if last {
			d.settle = p.target
			return putProgress(tx, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	last = last && done == len(items)
	x.mem.mu.Lock()
	defer x.mem.mu.Unlock()
	for _, it := range items[:done] {
		x.mem.mu.index.trim(it.entry, it.n, it.bytes)
	}
	x.mem.countMemoryLocked()
	switch {
	case last:
		x.mem.mu.durable.settle = p.target
		x.mem.mu.target, x.mem.mu.leftover = 0, x.mem.mu.index.bytes
		*p = pass{}
	case done < len(items):
		p.cursor = items[done].key
	default:
		p.cursor = next
	}
	return nil
}

// settleItems collects about budget versions of the index in key order, from the pass's cursor.
// next is the key to go on with, nil when none are left.
func (x *Maintenance) settleItems(p *pass, budget int) (items []settleItem, next []byte) {
	visits, size := 0, 0
	var all []*version // of the items
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	x.mem.mu.index.tree.AscendGreaterOrEqual(indexItem{key: p.cursor}, func(at indexItem) bool {
		if budget <= 0 || size >= x.opt.steps.bytes || visits >= x.opt.steps.visits {
			next = at.key
			return false
		}
		visits++
		n := at.e.countBelow(Rev{p.target + 1, 0})
		if n == 0 {
			return true
		}
		it := settleItem{key: at.key, entry: at.e, n: min(n, budget)}
		all = append(all, at.e.vers[:it.n]...)
		it.put = all[len(all)-it.n : len(all) : len(all)]
		for _, v := range it.put {
			size += len(v.kv.Key) + len(v.kv.Value)
			it.bytes += v.bytes()
		}
		if !x.mem.extent.keeps(at.key) && !mutate.On(mutate.CutSettle) {
			it.put = nil // cut off
		} else if newest := at.e.at(p.compact); newest != nil {
			it.dropDead(newest, p.compact)
		}
		items = append(items, it)
		if budget -= it.n; it.n < n {
			next = at.key // the rest of its versions
			return false
		}
		return true
	})
	return items, next
}

// dropDead takes out of put what is dead at the compaction revision, where newest is the key's
// newest version at or below it: everything before newest, and newest itself when it is a
// tombstone that leaves the index in this step. A tombstone at the compaction revision itself
// is still history, and goes the way of the living until the next compaction.
func (it *settleItem) dropDead(newest *version, compact int64) {
	keep := it.put[:0]
	for _, v := range it.put {
		switch {
		case v.rev().Less(newest.rev()):
		case v == newest && v.del && v.kv.ModRevision < compact:
			it.clean = v
		default:
			keep = append(keep, v)
		}
	}
	it.put = keep
}

// write does the item's part in a transaction. It returns errBudget when the key has more dead
// versions in the base than may be deleted now: the key is then taken up again.
func (it *settleItem) write(bk *bolt.Bucket, mem *slab, left *int) error {
	if it.clean != nil {
		if err := deleteFrom(bk, it.key, it.clean.rev(), left); err != nil {
			return err
		}
	}
	for _, v := range it.put {
		*left--
		if err := putBase(bk, v, mem); err != nil {
			return err
		}
	}
	return nil
}

// deleteFrom deletes the base's versions of key at or below r, at most *left and one of them;
// errBudget says that there are more.
func deleteFrom(bk *bolt.Bucket, key []byte, r Rev, left *int) error {
	from := appendBaseKey(nil, key, r)
	esc := from[:len(from)-revLen]
	var dead [][]byte
	c := bk.Cursor()
	k, _ := c.Seek(from)
	for ; sameKey(k, esc) && len(dead) <= *left; k, _ = c.Next() {
		dead = append(dead, bytes.Clone(k))
	}
	more := sameKey(k, esc)
	for _, k := range dead {
		*left--
		if err := bk.Delete(k); err != nil {
			return err
		}
	}
	if more {
		return errBudget
	}
	return nil
}
