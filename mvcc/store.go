package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
	bolt "go.etcd.io/bbolt"
)

// Store is the versioned store of one range. Methods may be called from any goroutine, except
// that Apply has one caller at a time.
type Store struct {
	opt Options
	db  *bolt.DB

	// compactRev is the logical compaction revision. It is set before anything is deleted for
	// it, so a reader that looks at it after opening its transaction knows whether what it sees
	// is whole.
	compactRev atomic.Int64

	scrub atomic.Pointer[scrub] // nil: the file has been verified

	opened atomic.Bool // Open has returned, and no damage has been seen since
	// wedged says that a write transaction ended in a panic: bbolt may still hold its locks, and
	// closing would wait for them for ever.
	wedged atomic.Bool

	// disk is held by whoever writes to the file: Flush, Maintain, Close. It is taken before mu,
	// never while holding it.
	disk struct {
		sync.Mutex
		failed error // a write failed: what the file holds is unknown, nothing is tried again
		pass   pass  // settling or sweeping under way
		closed bool
	}

	mu struct {
		sync.RWMutex
		index    *index
		active   *buffer // takes new changes
		flushing *buffer // on its way into the file; nil when none
		state    *btree.BTreeG[stateItem]
		pos      Position
		last     int64
		keys     int64
		floor    int64
		durable  progress // what the file holds
		target   int64    // settling under way to here: nothing may be inserted below
		settle   bool     // settling was asked for
		held     int      // bytes that the last settling had to leave in the index
		counted  int64    // of the index, in the node's Memory
		pins     map[*pin]struct{}
	}

	scratch []previous // of Apply
}

type stateItem struct {
	key   string
	value []byte
}

func stateLess(a, b stateItem) bool { return a.key < b.key }

// Open opens the store at o.Path, or creates an empty one. A file that is damaged, in use, of
// another range or of another format version is refused with an error that names it.
func Open(o Options) (*Store, error) {
	o = o.withDefaults()
	if _, err := os.Stat(o.Path); errors.Is(err, os.ErrNotExist) {
		if err := createBolt(o.Path, o.RangeID); err != nil {
			return nil, err
		}
	}
	db, x, err := openBolt(&o)
	if err != nil {
		return nil, err
	}
	s := &Store{opt: o, db: db}
	s.scrub.Store(x)
	s.mu.index = newIndex(0)
	s.mu.active = newBuffer()
	s.mu.state = btree.NewG(indexDegree, stateLess)
	s.mu.floor = math.MaxInt64
	s.mu.pins = make(map[*pin]struct{})
	if err := s.view(s.load); err != nil {
		return nil, errors.Join(err, s.endScrub(), db.Close())
	}
	s.countMemoryLocked() // nobody else has the store yet
	s.opened.Store(true)
	return s, nil
}

// load reads progress, state and the log above the settle revision.
func (s *Store) load(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketLog, bucketBase, bucketLease, bucketState, bucketMeta} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("mvcc: %s: %w: no bucket %s", s.opt.Path, ErrDamaged, name)
		}
	}
	meta := tx.Bucket(bucketMeta)
	if err := checkFormat(meta.Get(metaFormat), s.opt.RangeID); err != nil {
		return fmt.Errorf("mvcc: %s: %w", s.opt.Path, err)
	}
	p, err := decodeProgress(meta.Get(metaProgress))
	if err != nil {
		return s.corrupt(bucketMeta, metaProgress, err)
	}
	s.mu.durable, s.mu.pos, s.mu.last, s.mu.keys = p, p.pos, p.last, p.keys
	s.mu.active.to = p
	s.compactRev.Store(p.compact)
	if err := s.loadState(tx.Bucket(bucketState)); err != nil {
		return err
	}
	return s.loadIndex(s.cursor(tx, bucketLog), p)
}

func (s *Store) loadState(bk *bolt.Bucket) error {
	return bk.ForEach(func(k, rec []byte) error {
		v, err := unseal(k, rec)
		if err != nil {
			return s.corrupt(bucketState, k, err)
		}
		s.mu.state.ReplaceOrInsert(stateItem{string(k), append([]byte{}, v...)})
		return nil
	})
}

// loadIndex takes what has not been settled from the log. That is most of what a start costs: tens of
// thousands of versions, whose memory is taken for many at a time.
func (s *Store) loadIndex(c *cursor, p progress) error {
	var vers copies
	for k, rec := c.Seek(appendLogKey(nil, Rev{p.settle + 1, 0})); k != nil; k, rec = c.Next() {
		v, err := decodeLogRecord(k, rec)
		if err != nil {
			return s.corrupt(bucketLog, k, err)
		}
		vers.add(&v)
	}
	// There may be more keys than that, of those that were deleted: the index grows then.
	s.mu.index = newIndex(int(min(int64(vers.n), p.keys)))
	for _, chunk := range vers.chunks {
		for i := range chunk {
			v := &chunk[i]
			s.mu.index.add(s.mu.index.enter(v.kv.Key), v) // which gives it a key of its own
		}
	}
	return nil
}

// Close flushes and closes the file. It must not run beside readers.
func (s *Store) Close() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if s.disk.closed {
		return nil
	}
	s.disk.closed = true
	defer s.uncountMemory()
	err := s.disk.failed
	if err == nil {
		err = s.flushLocked()
	}
	if s.wedged.Load() {
		return err // the file stays open and mapped until the process ends
	}
	return errors.Join(err, s.endScrub(), s.db.Close())
}

// Position is the place in the Raft log up to which changes were applied.
func (s *Store) Position() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.pos
}

// DurablePosition is the position that a crash would leave; the Raft log is kept above it.
func (s *Store) DurablePosition() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.durable.pos
}

// LastRevision is the highest revision applied.
func (s *Store) LastRevision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.last
}

// CompactRevision is the logical compaction revision: reads below it are refused.
func (s *Store) CompactRevision() int64 { return s.compactRev.Load() }

// Keys is the number of live keys.
func (s *Store) Keys() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.keys
}

// SetFloor sets the hold-back: the lowest effective floor of the range's prepared transactions,
// math.MaxInt64 when there is none. Settling never passes it.
func (s *Store) SetFloor(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.floor = rev
}

// State returns one value of the range state, nil when there is none.
func (s *Store) State(key string) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	it, _ := s.mu.state.Get(stateItem{key: key})
	return it.value
}

// RangeState calls fn for the range state under prefix, in key order, until fn returns false.
// It shows one moment; fn may call the store.
func (s *Store) RangeState(prefix string, fn func(key string, v []byte) bool) {
	var items []stateItem
	s.mu.RLock()
	s.mu.state.AscendGreaterOrEqual(stateItem{key: prefix}, func(it stateItem) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		items = append(items, it)
		return true
	})
	s.mu.RUnlock()
	for _, it := range items {
		if !fn(it.key, it.value) {
			return
		}
	}
}

// Stats returns sizes of file and memory.
func (s *Store) Stats() Stats {
	var st Stats
	s.mu.RLock()
	st.BufferBytes = int64(s.mu.active.bytes)
	if s.mu.flushing != nil {
		st.BufferBytes += int64(s.mu.flushing.bytes)
	}
	st.IndexBytes = int64(s.mu.index.bytes)
	st.SettleRevision = s.mu.durable.settle
	s.mu.RUnlock()
	// A store that was closed has no sizes; that is no error of the caller.
	_ = s.view(func(tx *bolt.Tx) error { st.FileBytes = tx.Size(); return nil })
	ds := s.db.Stats()
	free := int64(ds.FreePageN+ds.PendingPageN) * int64(s.db.Info().PageSize)
	st.InUseBytes = max(0, st.FileBytes-free)
	return st
}

// LeaseKeys returns the keys whose newest version carries lease, in key order, at most limit of
// them; 0 means all.
func (s *Store) LeaseKeys(lease int64, limit int) ([][]byte, error) {
	over := make(map[string]bool)
	s.mu.RLock()
	for _, b := range []*buffer{s.mu.flushing, s.mu.active} {
		if b == nil {
			continue
		}
		for key, carries := range b.leases[lease] {
			over[key] = carries
		}
	}
	s.mu.RUnlock()
	keys, err := s.storedLeaseKeys(lease, limit, over)
	if err != nil {
		return nil, err
	}
	for key, carries := range over {
		if carries {
			keys = append(keys, []byte(key))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
	}
	return keys, nil
}

// storedLeaseKeys reads the lease index in the file, without the keys in skip.
func (s *Store) storedLeaseKeys(lease int64, limit int, skip map[string]bool) ([][]byte, error) {
	var keys [][]byte
	prefix := binary.BigEndian.AppendUint64(nil, uint64(lease))
	from := prefix
	for from != nil {
		err := s.view(func(tx *bolt.Tx) error {
			c := tx.Bucket(bucketLease).Cursor()
			k, rec := c.Seek(from)
			for n := 0; n < s.opt.steps.visits && bytes.HasPrefix(k, prefix); n++ {
				if err := checkLeaseRecord(k, rec); err != nil {
					return s.corrupt(bucketLease, k, err)
				}
				if limit > 0 && len(keys) >= limit {
					k = nil
					break
				}
				if _, skipped := skip[string(k[len(prefix):])]; !skipped {
					keys = append(keys, bytes.Clone(k[len(prefix):]))
				}
				k, rec = c.Next()
			}
			if from = nil; bytes.HasPrefix(k, prefix) {
				from = bytes.Clone(k)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return keys, nil
}
