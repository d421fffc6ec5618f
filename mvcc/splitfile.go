package mvcc

import (
	"bytes"
	"errors"
	"math"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

const (
	// splitUnsynced is how much a Split writes before it waits for the disk, in bytes: so neither one of its steps nor
	// Finish waits for much.
	splitUnsynced = 8 << 20
	// splitStretch is into how many stretches of the log, that hold little of the right part, a step's budget is cut.
	splitStretch = 4
)

// splitFile is the file that a Split makes.
type splitFile struct {
	path     string
	child    shard.RangeID
	opt      *Options // of the store that it is cut from
	db       *bolt.DB // nil: closed
	settle   int64    // up to here everything is in the base
	swept    int64
	cursor   []byte // of settling under way: the log's next key
	unsynced int    // bytes
}

func newSplitFile(path string, child shard.RangeID, s *Store) (*splitFile, error) {
	f := &splitFile{path: path, child: child, opt: &s.opt}
	return f, f.open()
}

// open makes the file anew.
func (f *splitFile) open() (err error) {
	if err := removeFile(f.path); err != nil {
		return err
	}
	f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout: lockWait, NoSync: true, NoGrowSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return err
	}
	return f.db.Update(func(tx *bolt.Tx) error { return initBuckets(tx, f.child) })
}

func (f *splitFile) reset() error {
	err := f.close()
	f.cursor, f.unsynced = nil, 0
	return errors.Join(err, f.open())
}

func (f *splitFile) close() error {
	if f.db == nil {
		return nil
	}
	db := f.db
	f.db = nil
	return db.Close()
}

// commit runs one write transaction, with the hooks of the store's own.
func (f *splitFile) commit(fn func(tx *bolt.Tx, mem *slab) error) error {
	var mem slab
	if err := f.hook("before split"); err != nil {
		return err
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return fn(tx, &mem) }); err != nil {
		return err
	}
	f.unsynced += len(mem.chunks) * slabChunk
	mem.release()
	return f.hook("split")
}

func (f *splitFile) hook(point string) error {
	if f.opt.hook == nil {
		return nil
	}
	return f.opt.hook(point)
}

func (f *splitFile) sync() error {
	f.unsynced = 0
	if f.opt.NoSync {
		return nil
	}
	return f.db.Sync()
}

// finish writes the last round and what the file says about itself, in one transaction, makes it durable and closes it.
func (f *splitFile) finish(r *splitRound, s *Store, span shard.Span, p progress, state []StateUpdate) error {
	err := f.commit(func(tx *bolt.Tx, mem *slab) error {
		for end := false; !end; {
			var err error
			if end, err = r.copy(tx, mem, s, span, splitAll, splitAll); err != nil {
				return err
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

// splitWalk is the first copy: what is alive of the right part at the pinned moment, as a store has it that was settled
// and compacted then.
type splitWalk struct {
	walk versionWalk
	keep survivors
	key  []byte // of the last version
	seen bool   // there was one
	keys int64  // live ones
}

// copyBase copies about budget versions of the first copy; end says that these were the last.
func (f *splitFile) copyBase(w *splitWalk, budget int) (end bool, err error) {
	err = f.commit(func(tx *bolt.Tx, mem *slab) error {
		n, size := 0, 0
		w.walk.inView = func(vers []*version) error {
			for _, v := range vers {
				n++
				size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
				if err := w.put(tx, v, mem, f.settle); err != nil {
					return err
				}
			}
			return nil
		}
		for !end && n < budget && size < f.opt.steps.bytes {
			if _, end, err = w.walk.step(); err != nil {
				return err
			}
		}
		return nil
	})
	return end, err
}

// put writes a version to the base, if it belongs there, and of each key's newest what follows from it. The log has
// what is above the settle revision.
func (w *splitWalk) put(tx *bolt.Tx, v *version, mem *slab, settle int64) error {
	if !w.walk.p.sees(v) {
		return nil
	}
	// A delete at the compaction revision is no state any more, but still history.
	if stays := w.keep.keeps(v) || mutate.On(mutate.SplitDead) || v.del && v.kv.ModRevision == w.keep.compact; stays && v.kv.ModRevision <= settle {
		base := tx.Bucket(bucketBase)
		base.FillPercent = fillAppend
		if err := putBase(base, v, mem); err != nil {
			return err
		}
	}
	if w.seen && bytes.Equal(w.key, v.kv.Key) {
		return nil
	}
	w.seen, w.key = true, append(w.key[:0], v.kv.Key...)
	if v.del {
		return nil
	}
	w.keys++
	if v.kv.Lease == 0 {
		return nil
	}
	k := appendLeaseKey(nil, v.kv.Lease, v.kv.Key)
	return tx.Bucket(bucketLease).Put(k, leaseRecord(k))
}

// splitRound is what is to be copied from log and buffer: once what was there at the pinned moment, and then each time
// what was applied since.
type splitRound struct {
	from, to int64   // revisions
	late     []int64 // others below them
	leases   map[int64]map[string]bool
	settle   int64    // what is copied then may be settled up to here
	reading  *history // nil: the next part has not been begun
}

// next begins the next part of the log; false: there is none.
func (r *splitRound) next(s *Store, span shard.Span) bool {
	h := &history{s: s, spans: []shard.Span{span}, left: math.MaxInt, pinned: true}
	switch {
	case r.reading != nil:
		return true
	case r.from <= r.to:
		h.next, h.to = r.from, r.to
		r.from = r.to + 1
	case len(r.late) > 0:
		h.next, h.to = r.late[0], r.late[0]
		r.late = r.late[1:]
	default:
		return false
	}
	r.reading = h
	return true
}

// copyRound copies about budget versions of a round; end says that these were the last, and that the lease index is as
// it was when the round began.
func (f *splitFile) copyRound(r *splitRound, s *Store, span shard.Span, budget int) (end bool, err error) {
	err = f.commit(func(tx *bolt.Tx, mem *slab) error {
		end, err = r.copy(tx, mem, s, span, budget, f.opt.steps.bytes)
		return err
	})
	return end, err
}

// copy is copyRound within a transaction, of so many bytes at most.
func (r *splitRound) copy(tx *bolt.Tx, mem *slab, s *Store, span shard.Span, budget, bytes int) (end bool, err error) {
	bk := tx.Bucket(bucketLog)
	bk.FillPercent = fillAppend
	for n, size := 0, 0; n < budget && size < bytes; {
		if !r.next(s, span) {
			b := buffer{leases: r.leases}
			return true, b.writeLeases(tx.Bucket(bucketLease))
		}
		h := r.reading
		if err := h.step(); err != nil {
			return false, err
		}
		for _, v := range h.out {
			n++
			size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
			if err := putLog(bk, v, mem); err != nil {
				return false, err
			}
		}
		if h.out = nil; h.next > h.to {
			r.reading = nil
		} else {
			n += budget / splitStretch
		}
	}
	return false, nil
}

// settleTo copies about budget versions from the new file's log to its base, up to target; end says that it is settled
// to there. Nothing at or below target is copied any more after.
func (f *splitFile) settleTo(target int64, budget int) (end bool, err error) {
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
