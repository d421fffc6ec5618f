package mvcc

import (
	"errors"
	"math"
	"os"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Store is the versioned store of one range. Methods may be called from any goroutine, except
// that Apply has one caller at a time.
type Store struct {
	opt         Options
	mem         memtable
	file        file
	maintenance Maintenance

	scratch []previous // of Apply
}

// Open opens the store at o.Path, or creates an empty one, with o.Birth as its state. A file that is damaged, in use, of
// another range or of another format version is refused with an error that names it.
func Open(o Options) (*Store, error) {
	o = o.withDefaults()
	if err := removeFile(o.Path + defragmentedSuffix); err != nil { // of a life that ended meanwhile
		return nil, err
	}
	if _, err := os.Stat(o.Path); errors.Is(err, os.ErrNotExist) {
		if err := createBolt(o.Path, o.RangeID, o.Birth); err != nil {
			return nil, err
		}
	}
	db, x, err := openBolt(&o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		opt:  o,
		mem:  memtable{id: o.RangeID, node: o.Memory, extent: extent{id: o.RangeID}},
		file: file{path: o.Path, id: o.RangeID, cache: o.Cache, damaged: o.Damaged, gap: o.gap, committed: o.Committed},
	}
	s.file.db.Store(db)
	s.maintenance.opt, s.maintenance.mem, s.maintenance.file = &s.opt, &s.mem, &s.file
	s.file.scrub.Store(x)
	s.mem.mu.active = newBuffer()
	s.mem.mu.floor = math.MaxInt64
	s.mem.mu.pins = make(map[*pin]struct{})
	load := func(tx *bolt.Tx) error {
		p, err := s.file.checked(tx)
		if err != nil {
			return err
		}
		return s.mem.load(&s.file, tx, p)
	}
	if err := s.file.view(load); err != nil {
		return nil, errors.Join(err, s.file.close())
	}
	s.mem.countMemoryLocked() // nobody else has the store yet
	s.file.opened.Store(true)
	return s, nil
}

// Maintenance is what the store has to do beside reads and writes.
func (s *Store) Maintenance() *Maintenance { return &s.maintenance }

// Close flushes and closes the file. It must not run beside readers.
func (s *Store) Close() error { return s.maintenance.close() }

// Position is the place in the Raft log up to which changes were applied.
func (s *Store) Position() Position {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	return s.mem.mu.pos
}

// DurablePosition is the position that a crash would leave; the Raft log is kept above it.
func (s *Store) DurablePosition() Position {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	return s.mem.mu.durable.pos
}

// LastRevision is the highest revision applied.
func (s *Store) LastRevision() int64 {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	return s.mem.mu.last
}

// CompactRevision is the logical compaction revision: reads below it are refused.
func (s *Store) CompactRevision() int64 { return s.mem.compact.Load() }

// Keys is the number of live keys, of those that are served.
func (s *Store) Keys() int64 {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	return s.mem.mu.keys
}

// SetFloor sets the hold-back: the lowest effective floor of the range's prepared transactions,
// math.MaxInt64 when there is none. Settling never passes it.
func (s *Store) SetFloor(rev int64) {
	s.mem.mu.Lock()
	defer s.mem.mu.Unlock()
	s.mem.mu.floor = rev
}

// State returns one value of the range state, nil when there is none.
func (s *Store) State(key string) []byte {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	it, _ := s.mem.mu.state.Get(stateItem{key: key})
	return it.value
}

// RangeState calls fn for the range state under prefix, in key order, until fn returns false.
// It shows one moment; fn may call the store.
func (s *Store) RangeState(prefix string, fn func(key string, v []byte) bool) {
	var items []stateItem
	s.mem.mu.RLock()
	s.mem.mu.state.AscendGreaterOrEqual(stateItem{key: prefix}, func(it stateItem) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		items = append(items, it)
		return true
	})
	s.mem.mu.RUnlock()
	for _, it := range items {
		if !fn(it.key, it.value) {
			return
		}
	}
}

// emptyPages is how large the file of a store is in which nothing was ever put, with what it says of itself, in pages.
const emptyPages = 8

// Taken is how many bytes the store takes for what was put into it: of its file, whose free pages count until it is written anew, beyond that of an empty
// store; and what waits in memory to be written there.
func (st Stats) Taken() int64 {
	return max(0, st.FileBytes-emptyPages*int64(os.Getpagesize())) + st.BufferBytes
}

// Stats returns sizes of file and memory.
func (s *Store) Stats() Stats {
	var st Stats
	s.mem.mu.RLock()
	st.BufferBytes = int64(s.mem.mu.active.bytes)
	if s.mem.mu.flushing != nil {
		st.BufferBytes += int64(s.mem.mu.flushing.bytes)
	}
	st.IndexBytes = int64(s.mem.mu.index.bytes)
	st.SettleRevision = s.mem.mu.durable.settle
	s.mem.mu.RUnlock()
	st.FileBytes, st.InUseBytes = s.file.sizes()
	return st
}
