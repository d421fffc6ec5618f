package mvcc

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"

	"github.com/google/btree"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// file is a store's bbolt file: the only way to it is through view and update. Whoever writes to it holds
// Maintenance.disk.
type file struct {
	path    string
	id      shard.RangeID
	cache   *Cache // of records that were read from it
	db      atomic.Pointer[boltFile]
	damaged func(error) // told by notice; nil: nobody is
	gap     func()      // of tests; called before each view

	committed func(Commit) // told of each update; nil: nobody is

	scrub atomic.Pointer[scrub] // nil: the file has been verified

	opened atomic.Bool // Open has returned, and no damage has been seen since
	// wedged says that a write transaction ended in a panic: bbolt may still hold its locks, and
	// closing would wait for them for ever.
	wedged atomic.Bool
}

// boltFile is an open bbolt file, and the file itself for who looks at its pages.
type boltFile struct {
	*bolt.DB
	in *os.File // closed by DB
}

// openBoltFile opens or creates a bbolt file.
func openBoltFile(path string, o *bolt.Options) (*boltFile, error) {
	f := &boltFile{}
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		in, err := os.OpenFile(name, flag, mode)
		f.in = in
		return in, err
	}
	db, err := bolt.Open(path, 0o600, o)
	if err != nil {
		return nil, err
	}
	f.DB = db
	return f, nil
}

// newBoltFile opens a file that is to be filled, anew, with so much address space to begin with. Nothing of it is durable before Sync.
func newBoltFile(path string, mmap int) (*boltFile, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	return openBoltFile(path, &bolt.Options{
		Timeout: lockWait, NoSync: true, NoGrowSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: mmap,
	})
}

// view runs fn in a read transaction. It must be short, and what is read from memory beside it
// is taken before: see the package's invariants.
func (f *file) view(fn func(*bolt.Tx) error) (err error) {
	if f.gap != nil {
		f.gap()
	}
	defer f.notice(&err)
	defer rescue(f.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	for {
		db := f.db.Load()
		if err = db.View(fn); errors.Is(err, bolterrors.ErrDatabaseNotOpen) && f.db.Load() != db {
			continue // another file has taken its place before fn began
		}
		return stopped(err)
	}
}

// update runs fn in a write transaction and commits it, as the named step.
func (f *file) update(step string, fn func(*bolt.Tx) error) (err error) {
	defer f.notice(&err)
	defer rescue(f.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	f.wedged.Store(true)
	var in *bolt.Tx
	err = f.db.Load().Update(func(tx *bolt.Tx) error {
		in = tx
		return fn(tx)
	})
	f.wedged.Store(false) // not after a panic
	if err == nil && f.committed != nil {
		st := in.Stats()
		f.committed(Commit{Flush: step == stepFlush, Rebalance: st.GetRebalanceTime(), Spill: st.GetSpillTime(), Write: st.GetWriteTime()})
	}
	return stopped(err)
}

// notice tells the owner, once, that the file is damaged.
func (f *file) notice(err *error) {
	if f.opened.Load() && errors.Is(*err, ErrDamaged) && f.opened.CompareAndSwap(true, false) && f.damaged != nil {
		f.damaged(*err)
	}
}

func stopped(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return fmt.Errorf("mvcc: %w", shard.ErrStopped)
	}
	return err
}

// corrupt names the record that failed a check.
func (f *file) corrupt(bucket, key []byte, err error) error {
	return fmt.Errorf("mvcc: %s: bucket %s, key %x: %w: %w", f.path, bucket, key, ErrDamaged, err)
}

// checked returns what the file says about itself, if it is a whole file of the store's range and format.
func (f *file) checked(tx *bolt.Tx) (progress, error) {
	for _, name := range [][]byte{bucketLog, bucketBase, bucketLease, bucketState, bucketMeta} {
		if tx.Bucket(name) == nil {
			return progress{}, fmt.Errorf("mvcc: %s: %w: no bucket %s", f.path, ErrDamaged, name)
		}
	}
	meta := tx.Bucket(bucketMeta)
	if err := checkFormat(meta.Get(metaFormat), f.id); err != nil {
		return progress{}, fmt.Errorf("mvcc: %s: %w", f.path, err)
	}
	p, err := decodeProgress(meta.Get(metaProgress))
	if err != nil {
		return progress{}, f.corrupt(bucketMeta, metaProgress, err)
	}
	return p, nil
}

// readState reads the range state.
func (f *file) readState(tx *bolt.Tx) (*btree.BTreeG[stateItem], error) {
	state := btree.NewG(indexDegree, stateLess)
	err := tx.Bucket(bucketState).ForEach(func(k, rec []byte) error {
		v, err := unseal(k, rec)
		if err != nil {
			return f.corrupt(bucketState, k, err)
		}
		state.ReplaceOrInsert(stateItem{string(k), append([]byte{}, v...)})
		return nil
	})
	return state, err
}

// readUnsettled takes what has not been settled from the log. That is most of what a start costs: tens of
// thousands of versions, whose memory is taken for many at a time.
func (f *file) readUnsettled(tx *bolt.Tx, p progress, e *extent) (*index, error) {
	var vers copies
	c := f.cursor(tx, bucketLog)
	for k, rec := c.Seek(appendLogKey(nil, Rev{p.settle + 1, 0})); k != nil; k, rec = c.Next() {
		v, err := decodeLogRecord(k, rec)
		if err != nil {
			return nil, f.corrupt(bucketLog, k, err)
		}
		if e.keeps(v.kv.Key) || mutate.On(mutate.CutStart) {
			vers.add(&v)
		}
	}
	// There may be more keys than that, of those that were deleted: the index grows then.
	x := newIndex(int(min(int64(vers.n), p.keys)))
	for _, chunk := range vers.chunks {
		for i := range chunk {
			v := &chunk[i]
			x.add(x.enter(v.kv.Key), v) // which gives it a key of its own
		}
	}
	return x, nil
}

// sizes returns the bytes of the file, and those of them that are not free. A file that was closed has
// none; that is no error of the caller.
func (f *file) sizes() (all, used int64) {
	_ = f.view(func(tx *bolt.Tx) error { all = tx.Size(); return nil })
	db := f.db.Load()
	st := db.Stats()
	free := int64(st.FreePageN+st.PendingPageN) * int64(db.Info().PageSize)
	return all, max(0, all-free)
}

// openReads is how many read transactions are open.
func (f *file) openReads() int { return f.db.Load().Stats().OpenTxN }

// close gives up what has not been verified, and closes the file unless bbolt's locks may be held for ever:
// it then stays open and mapped until the process ends.
func (f *file) close() error {
	if f.wedged.Load() {
		return nil
	}
	return errors.Join(f.endScrub(), f.db.Load().Close())
}

// rescue turns a panic into an error of a corrupt file: bbolt panics where a page makes no
// sense, and reading a mapped page that the disk cannot deliver is a fault, which becomes a
// panic under SetPanicOnFault. One damaged range must not take the others down with it.
func rescue(path string, err *error) {
	switch p := recover().(type) {
	case nil:
	case damage:
		*err = fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, p.error)
	default:
		*err = fmt.Errorf("mvcc: %s: %w: %v\n%s", path, ErrDamaged, p, debug.Stack())
	}
}
