package mvcc

import (
	"bytes"
	"errors"
	"fmt"

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
	by       string // who makes it, for the hooks
	path     string
	id       shard.RangeID
	opt      *Options // of the first source
	shared   bool     // by several sources: no place in the log is taken twice
	db       *bolt.DB // nil: closed
	settle   int64    // up to here everything is in the base
	swept    int64
	cursor   []byte // of settling under way: the log's next key
	unsynced int    // bytes
}

var (
	errCopyLate  = errors.New("nothing was to come at or below it any more")
	errCopyTwice = errors.New("the log has another key there")
)

// open makes the file anew.
func (f *copiedFile) open() (err error) {
	if err := removeFile(f.path); err != nil {
		return err
	}
	f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout: lockWait, NoSync: true, NoGrowSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return err
	}
	return f.db.Update(func(tx *bolt.Tx) error { return initBuckets(tx, f.id) })
}

func (f *copiedFile) reset() error {
	err := f.close()
	f.cursor, f.unsynced = nil, 0
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
	return putLog(bk, v, mem)
}

func (f *copiedFile) misplaced(v *version, why error) error {
	return fmt.Errorf("%w: version of %q at %d/%d, settled up to %d: %w", shard.ErrInvalid, v.kv.Key[:min(len(v.kv.Key), 64)],
		v.kv.ModRevision, v.sub, f.settle, why)
}

// settleTo copies about budget versions from the new file's log to its base, up to target; end says that it is settled
// to there. Nothing at or below target is copied any more after.
func (f *copiedFile) settleTo(target int64, budget int) (end bool, err error) {
	if target <= f.settle {
		return true, nil
	}
	err = f.commit(func(tx *bolt.Tx, mem *slab) error {
		if f.cursor == nil {
			f.cursor = appendLogKey(nil, Rev{f.settle + 1, 0})
		}
		base := tx.Bucket(bucketBase)
		c := tx.Bucket(bucketLog).Cursor()
		k, rec := c.Seek(f.cursor)
		for n, size := 0, 0; k != nil; k, rec = c.Next() {
			v, err := decodeLogRecord(k, rec)
			if err != nil {
				return err
			}
			if v.kv.ModRevision > target {
				break
			}
			if n >= budget || size >= f.opt.steps.bytes {
				f.cursor = bytes.Clone(k)
				return nil
			}
			n++
			size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
			if err := putBase(base, &v, mem); err != nil {
				return err
			}
		}
		f.settle, f.cursor, end = target, nil, true
		return nil
	})
	return end, err
}
