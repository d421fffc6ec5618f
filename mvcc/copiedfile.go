package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

const (
	// copyUnsynced is how much a copier writes before it waits for the disk, in bytes: so neither one of its steps nor
	// its end waits for much.
	copyUnsynced = 8 << 20
	// copyStretch is into how many stretches of the log, that hold little of what is copied, a step's budget is cut.
	copyStretch = 4
)

// copiedFile is the file that a copier makes.
type copiedFile struct {
	by     string // who makes it, for the hooks
	path   string
	id     shard.RangeID
	opt    *Options  // of the first source
	shared bool      // by several sources: no place in the log is taken twice
	mmap   int       // address space to begin with
	db     *boltFile // nil: closed
	settle int64     // up to here everything is in the base
	swept  int64
	pass   *settling // nil: none under way
	// Bytes: what has been put into the log since the last pass, and into the file since it was made durable.
	unsettled, unsynced int
}

// settling is a pass over the log of a copied file that puts what is in it into the base. It goes by user keys, as a store's does: so a page
// of the base is written once for all that is new on it. In the order of the log each version would cost a page of its own.
type settling struct {
	target int64 // up to this revision; less, where that would be too much at once
	next   []byte
	found  []settlingVersion // sorted once all are there
	sorted bool
	done   int
}

// settlingVersion is a version by its place in the log, and its key in the base.
type settlingVersion struct {
	rev  Rev
	base []byte
}

const (
	// settlingBytes is what a version is taken to have, for the bound of a pass: one of many small ones remembers 64 Ki of them, some MiB of keys.
	settlingBytes = 256
	// settlingLook is how many versions are looked at in a step for one that is put.
	settlingLook = 8
)

var (
	errCopyLate  = errors.New("nothing was to come at or below it any more")
	errCopyTwice = errors.New("the log has another key there")
)

// open makes the file anew.
func (f *copiedFile) open() (err error) {
	if f.db, err = newBoltFile(f.path, f.mmap); err != nil {
		return err
	}
	return f.db.Update(func(tx *bolt.Tx) error { return initBuckets(tx, f.id) })
}

func (f *copiedFile) reset() error {
	err := f.close()
	f.pass, f.unsettled, f.unsynced = nil, 0, 0
	return errors.Join(err, f.open())
}

func (f *copiedFile) close() error {
	if f.db == nil {
		return nil
	}
	db := f.db
	f.db = nil
	return db.Close()
}

// commit runs one write transaction, with the hooks of the store's own.
func (f *copiedFile) commit(fn func(tx *bolt.Tx, mem *slab) error) error {
	var mem slab
	if err := f.hook("before " + f.by); err != nil {
		return err
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return fn(tx, &mem) }); err != nil {
		return err
	}
	f.unsynced += len(mem.chunks) * slabChunk
	mem.release()
	return f.hook(f.by)
}

func (f *copiedFile) hook(point string) error {
	if f.opt.hook == nil {
		return nil
	}
	return f.opt.hook(point)
}

func (f *copiedFile) sync() error {
	f.unsynced = 0
	if f.opt.NoSync {
		return nil
	}
	return f.db.Sync()
}

// finish writes the last rounds and what the file says about itself, in one transaction, makes it durable and closes it.
func (f *copiedFile) finish(sources []*source, p progress, state []StateUpdate) error {
	err := f.commit(func(tx *bolt.Tx, mem *slab) error {
		for _, src := range sources {
			for end := false; !end; {
				var err error
				if end, err = src.copy(tx, mem, f, copyAll, copyAll); err != nil {
					return err
				}
			}
		}
		if err := writeState(tx.Bucket(bucketState), state); err != nil {
			return err
		}
		return putProgress(tx, p)
	})
	if err == nil {
		err = f.sync()
	}
	return errors.Join(err, f.close())
}

// copyFirst copies about budget versions of a source's first copy; end says that these were the last.
func (f *copiedFile) copyFirst(src *source, budget int) (end bool, err error) {
	c := &src.first
	if f.shared && mutate.On(mutate.MergeGarbage) {
		c.walk.span = shard.All
	}
	err = f.commit(func(tx *bolt.Tx, mem *slab) error {
		n, size := 0, 0
		c.walk.inView = func(vers []*version) error {
			for _, v := range vers {
				n++
				size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
				if err := c.put(tx, v, mem, f); err != nil {
					return err
				}
			}
			return nil
		}
		for !end && n < budget && size < f.opt.steps.bytes {
			if _, end, err = c.walk.step(); err != nil {
				return err
			}
		}
		return nil
	})
	return end, err
}

// copyRound copies about budget versions of a source's round; end says that these were the last.
func (f *copiedFile) copyRound(src *source, budget int) (end bool, err error) {
	err = f.commit(func(tx *bolt.Tx, mem *slab) error {
		end, err = src.copy(tx, mem, f, budget, f.opt.steps.bytes)
		return err
	})
	return end, err
}

// putRound is putLog for a version of a round.
func (f *copiedFile) putRound(bk *bolt.Bucket, v *version, mem *slab, later bool) error {
	if later && v.kv.ModRevision <= f.settle && !mutate.On(mutate.MergeLate) {
		return f.misplaced(v, errCopyLate)
	}
	return f.putLog(bk, v, mem)
}

// putLog puts a version into the log.
func (f *copiedFile) putLog(bk *bolt.Bucket, v *version, mem *slab) error {
	if f.shared && !mutate.On(mutate.MergeTwice) {
		mem.key = appendLogKey(mem.key[:0], v.rev())
		if rec := bk.Get(mem.key); rec != nil {
			before, err := decodeLogRecord(mem.key, rec)
			if err != nil {
				return err
			}
			if !bytes.Equal(before.kv.Key, v.kv.Key) {
				return f.misplaced(v, errCopyTwice)
			}
		}
	}
	if v.kv.ModRevision > f.settle {
		f.unsettled += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
	}
	return putLog(bk, v, mem)
}

func (f *copiedFile) misplaced(v *version, why error) error {
	return fmt.Errorf("%w: version of %q at %d/%d, settled up to %d: %w", shard.ErrInvalid, v.kv.Key[:min(len(v.kv.Key), 64)],
		v.kv.ModRevision, v.sub, f.settle, why)
}

// settleTo does one step of a pass that copies what the new file's log has up to target to its base, about budget versions; end says that it is
// settled to there. Nothing at or below target is copied any more after.
func (f *copiedFile) settleTo(target int64, budget int) (end bool, err error) {
	if f.pass == nil {
		f.unsettled = 0
		if target <= f.settle {
			return true, nil
		}
		f.beginPass(target)
	}
	p := f.pass
	if !p.sorted {
		return false, f.collect(p, budget)
	}
	if err := f.commit(func(tx *bolt.Tx, mem *slab) error { return f.settlePart(p, tx, mem, budget) }); err != nil {
		return false, err
	}
	if p.done < len(p.found) {
		return false, nil
	}
	if f.settle = p.target; f.settle < target {
		f.beginPass(target)
		return false, nil
	}
	f.pass = nil
	return true, nil
}

func (f *copiedFile) beginPass(target int64) {
	f.pass = &settling{target: target, next: appendLogKey(nil, Rev{f.settle + 1, 0})}
}

// collect looks for the next versions of a pass. A pass has whole revisions: one that would be too large ends with the one before.
func (f *copiedFile) collect(p *settling, budget int) error {
	looks := budget
	if looks < copyAll {
		looks *= settlingLook
	}
	return f.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		k, rec := c.Seek(p.next)
		for ; k != nil; k, rec = c.Next() {
			if looks--; looks < 0 {
				p.next = bytes.Clone(k)
				return nil
			}
			v, err := decodeLogRecord(k, rec)
			if err != nil {
				return err
			}
			if v.kv.ModRevision > p.target {
				break
			}
			if n := len(p.found); n >= f.opt.steps.settle/settlingBytes && v.kv.ModRevision > p.found[n-1].rev.Main {
				if !mutate.On(mutate.SplitPart) {
					p.target = p.found[n-1].rev.Main
				}
				break
			}
			p.found = append(p.found, settlingVersion{rev: v.rev(), base: appendBaseKey(nil, v.kv.Key, v.rev())})
		}
		slices.SortFunc(p.found, func(a, b settlingVersion) int { return bytes.Compare(a.base, b.base) })
		p.sorted = true
		return nil
	})
}

// settlePart puts the next versions of a pass into the base.
func (f *copiedFile) settlePart(p *settling, tx *bolt.Tx, mem *slab, budget int) error {
	log, base := tx.Bucket(bucketLog), tx.Bucket(bucketBase)
	for n, size := 0, 0; p.done < len(p.found) && n < budget && size < f.opt.steps.bytes; n++ {
		at := &p.found[p.done]
		mem.key = appendLogKey(mem.key[:0], at.rev)
		v, err := decodeLogRecord(mem.key, log.Get(mem.key))
		if err != nil {
			return err
		}
		size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
		if err := putBase(base, &v, mem); err != nil {
			return err
		}
		p.done++
	}
	return nil
}
