package raftlog

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// Options tunes a store. The zero value is good.
type Options struct {
	// CacheBytes bounds the recent entries that are kept in memory, over all groups.
	// Default 16 MiB.
	CacheBytes int64
	// MemTableBytes is how much Pebble gathers before it writes a table: entries that are
	// truncated before that are never written twice. Default 32 MiB.
	MemTableBytes uint64
	// NoSync gives up durability: for benchmarks and for nodes that are told so.
	NoSync bool
	// OnFatal hears, once, that the store can no longer save anything, also when nobody is saving
	// just now: Pebble writes in the background, too. Must not block. Save fails from then on.
	OnFatal func(error)
	// Wrote hears of every write that was synced: how many bytes it had, and how long it took with its sync. It must not block.
	Wrote func(bytes int, took time.Duration)
	// FS replaces the file system, for tests.
	FS     vfs.FS
	Logger *slog.Logger
}

// Store is a raftgroup.Log.
type Store struct {
	dir  string
	db   *pebble.DB
	opts Options
	sync *pebble.WriteOptions

	broken *breakage
	groups shard.Table[*groupLog]
	count  struct{ saves, updates, entries atomic.Uint64 }

	// Of the goroutine that calls Save.
	recent *list.List // of *groupLog with cached entries, most recently appended first
	cached int64
}

var _ raftgroup.Log = (*Store)(nil)

// Open opens the store in dir, and creates it when it is not there.
func Open(dir string, opts Options) (*Store, error) {
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 16 << 20
	}
	if opts.MemTableBytes == 0 {
		opts.MemTableBytes = 32 << 20
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	broken := newBreakage(opts.OnFatal)
	db, err := openPebble(dir, pebbleOptions(opts, broken), broken)
	if err != nil {
		broken.stop()
		return nil, fmt.Errorf("raftlog: open %s: %w", dir, err)
	}
	s := &Store{dir: dir, db: db, opts: opts, sync: pebble.Sync, broken: broken, recent: list.New()}
	if opts.NoSync {
		s.sync = pebble.NoSync
	}
	if err := s.checkFormat(); err != nil {
		broken.stop()
		return nil, errors.Join(fmt.Errorf("raftlog: open %s: %w", dir, err), db.Close())
	}
	return s, nil
}

func pebbleOptions(opts Options, broken *breakage) *pebble.Options {
	o := &pebble.Options{
		FS:                          opts.FS,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   8 << 20,
		MemTableSize:                opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       16, // half as many layers: a table waits, and most of it is truncated meanwhile
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                256,
		WALBytesPerSync:             0,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLogger{opts.Logger, broken},
		EventListener:               &pebble.EventListener{DataCorruption: broken.damaged},
	}
	// Most of what is written to a table is gone soon: to compress it costs more than its bytes.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	return o
}

// checkFormat refuses a directory that holds something else, and marks a new one.
func (s *Store) checkFormat() error {
	v, closer, err := s.db.Get(formatKey)
	if err == nil {
		defer closer.Close()
		if string(v) != formatName {
			return fmt.Errorf("%w: format is %q, this version knows %q", shard.ErrCorrupt, v, formatName)
		}
		return nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	empty := !it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if !empty {
		return fmt.Errorf("%w: it has no format mark", shard.ErrCorrupt)
	}
	return s.db.Set(formatKey, []byte(formatName), pebble.Sync)
}

// Close moves everything into tables and closes the store: damage in a table is always found, while
// damage in the last block of the write-ahead log looks like a write that a crash cut off. Nothing
// may be under way. One that is broken is left as it is, with what it
// holds open: Pebble would wait for a write that has ended for good.
func (s *Store) Close() error {
	err := s.broken.guard(s.db.Flush)
	s.broken.stop()
	if !s.broken.stuck() {
		err = errors.Join(err, s.db.Close())
	}
	if err != nil {
		return fmt.Errorf("raftlog: close %s: %w", s.dir, err)
	}
	return nil
}

// Save implements raftgroup.Log.
func (s *Store) Save(batch []raftgroup.Update) error {
	b := s.db.NewBatch()
	how := pebble.NoSync
	touched := make([]*groupLog, len(batch))
	for i := range batch {
		if !batch[i].Lazy {
			how = s.sync
		}
		gl, err := s.load(batch[i].Group)
		if err != nil {
			return err
		}
		touched[i] = gl
		if err := s.encode(b, gl, &batch[i]); err != nil {
			return fmt.Errorf("raftlog: %s: %v: %w", s.dir, batch[i].Group, err)
		}
	}
	size, began := b.Len(), time.Now()
	if err := s.broken.guard(func() error { return errors.Join(b.Commit(how), b.Close()) }); err != nil {
		return fmt.Errorf("raftlog: write to %s: %w", s.dir, err)
	}
	if s.opts.Wrote != nil && how == pebble.Sync {
		s.opts.Wrote(size, time.Since(began))
	}
	for i := range batch {
		s.note(touched[i], &batch[i])
		s.count.entries.Add(uint64(len(batch[i].Entries)))
	}
	s.count.saves.Add(1)
	s.count.updates.Add(uint64(len(batch)))
	s.evict()
	return nil
}

// Stats counts what has been saved since Open.
type Stats struct {
	Saves   uint64 // writes, each synced once
	Updates uint64 // of groups, in these writes
	Entries uint64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	return Stats{Saves: s.count.saves.Load(), Updates: s.count.updates.Load(), Entries: s.count.entries.Load()}
}

// encode adds an update to a batch. What earlier updates of the batch do to the group is in
// gl.next, which is what encode goes by.
func (s *Store) encode(b *pebble.Batch, gl *groupLog, u *raftgroup.Update) error {
	next := &gl.next
	if u.Remove {
		*next = logEnds{}
		if err := b.DeleteRange(metaKey(u.Group, 0), metaKey(u.Group+1, 0), nil); err != nil {
			return err
		}
	}
	if u.Replica != nil {
		if err := b.Set(metaKey(u.Group, kindReplica), encodeReplica(u.Replica), nil); err != nil {
			return err
		}
	}
	if u.Reset != nil {
		next.truncated, next.last = *u.Reset, u.Reset.Index
		if err := b.DeleteRange(entryKey(u.Group, 0), entriesEnd(u.Group), nil); err != nil {
			return err
		}
		if err := b.Set(metaKey(u.Group, kindTruncated), encodePosition(u.Reset), nil); err != nil {
			return err
		}
	}
	if u.HardState != nil {
		op := b.SetDeferred(metaKeyLen, hardStateLen(u.HardState)) // comes with most entries
		putMetaKey(op.Key, u.Group, kindHardState)
		putHardState(op.Value, u.HardState)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if u.Conf != nil {
		v, err := encodeConf(u.Conf)
		if err != nil {
			return err
		}
		if err := b.Set(metaKey(u.Group, kindConf), v, nil); err != nil {
			return err
		}
	}
	if len(u.Entries) > 0 {
		if err := encodeEntries(b, next, u); err != nil {
			return err
		}
	}
	if u.Truncate != nil {
		return encodeTruncate(b, next, u)
	}
	return nil
}

func encodeEntries(b *pebble.Batch, next *logEnds, u *raftgroup.Update) error {
	first := u.Entries[0].GetIndex()
	if first > next.last+1 || first <= next.truncated.Index {
		return fmt.Errorf("entries from %d on do not follow (%d, %d]", first, next.truncated.Index, next.last)
	}
	if first <= next.last {
		if err := b.DeleteRange(entryKey(u.Group, first), entryKey(u.Group, next.last+1), nil); err != nil {
			return err
		}
	}
	for i, e := range u.Entries {
		if e.GetIndex() != first+uint64(i) {
			return fmt.Errorf("entry %d stands where %d belongs", e.GetIndex(), first+uint64(i))
		}
		op := b.SetDeferred(entryKeyLen, entryValueLen(e))
		putEntryKey(op.Key, u.Group, e.GetIndex())
		putEntryValue(op.Value, e)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	next.last = first + uint64(len(u.Entries)) - 1
	if change := lastChange(u.Entries); change != 0 {
		return b.Set(metaKey(u.Group, kindChange), encodeUints(change), nil)
	}
	return nil
}

// lastChange is the index of the last change of the configuration among entries, 0: there is none.
func lastChange(ents []*raftpb.Entry) uint64 {
	for _, e := range slices.Backward(ents) {
		if e.GetType() != raftpb.EntryNormal {
			return e.GetIndex()
		}
	}
	return 0
}

func encodeTruncate(b *pebble.Batch, next *logEnds, u *raftgroup.Update) error {
	if u.Truncate.Index <= next.truncated.Index {
		return nil
	}
	if u.Truncate.Index > next.last {
		return fmt.Errorf("truncation at %d is above the end, %d", u.Truncate.Index, next.last)
	}
	lo, hi := entryKey(u.Group, next.truncated.Index+1), entryKey(u.Group, u.Truncate.Index+1)
	if err := b.DeleteRange(lo, hi, nil); err != nil {
		return err
	}
	next.truncated = *u.Truncate
	return b.Set(metaKey(u.Group, kindTruncated), encodePosition(u.Truncate), nil)
}

// Load implements raftgroup.Log.
func (s *Store) Load(g shard.RangeID) (raftgroup.LogState, bool, error) {
	gl, err := s.load(g)
	if err != nil {
		return raftgroup.LogState{}, false, err
	}
	gl.mu.Lock()
	defer gl.mu.Unlock()
	return gl.mu.state, gl.mu.exists, nil
}

// load returns what is known of a group, from Pebble the first time.
func (s *Store) load(g shard.RangeID) (*groupLog, error) {
	if gl, ok := s.groups.Get(g); ok {
		return gl, nil
	}
	gl := &groupLog{id: g}
	if err := s.read(gl); err != nil {
		return nil, fmt.Errorf("raftlog: %s: %v: %w", s.dir, g, err)
	}
	return s.groups.GetOrPut(g, gl), nil
}

func (s *Store) read(gl *groupLog) (err error) {
	st := &gl.mu.state
	if _, err := read(s, gl.id, kindReplica, &st.Replica, func(b []byte) (raftgroup.Replica, error) { return decodeReplica(gl.id, b) }); err != nil {
		return err
	}
	ok, err := read(s, gl.id, kindTruncated, &st.Truncated, decodePosition)
	if err != nil || !ok {
		return err
	}
	gl.mu.exists = true
	if _, err := read(s, gl.id, kindHardState, &st.HardState, decodeHardState); err != nil {
		return err
	}
	if _, err := read(s, gl.id, kindConf, &st.Conf, decodeConf); err != nil {
		return err
	}
	if _, err := read(s, gl.id, kindChange, &st.Change, decodeChange); err != nil {
		return err
	}
	if st.Last, err = s.readLast(gl.id, st.Truncated.Index); err != nil {
		return err
	}
	gl.next = logEnds{truncated: st.Truncated, last: st.Last}
	return nil
}

// read decodes one of a group's values into v; false when there is none.
func read[T any](s *Store, g shard.RangeID, kind byte, v *T, decode func([]byte) (T, error)) (bool, error) {
	return s.get(metaKey(g, kind), func(b []byte) (err error) {
		*v, err = decode(b)
		return err
	})
}

// Replicas implements raftgroup.Log.
func (s *Store) Replicas() ([]raftgroup.Replica, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: metaKey(1, 0)})
	if err != nil {
		return nil, fmt.Errorf("raftlog: %s: %w", s.dir, err)
	}
	var out []raftgroup.Replica
	for ok := it.First(); ok; {
		if len(it.Key()) < metaKeyLen {
			return nil, errors.Join(fmt.Errorf("raftlog: %s: %w: key %x", s.dir, shard.ErrCorrupt, it.Key()), it.Close())
		}
		g := shard.RangeID(binary.BigEndian.Uint64(it.Key()))
		gl, err := s.load(g)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		gl.mu.Lock()
		r := gl.mu.state.Replica
		gl.mu.Unlock()
		r.Group = g
		out = append(out, r)
		ok = g < math.MaxUint64 && it.SeekGE(metaKey(g+1, 0))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("raftlog: %s: %w", s.dir, err)
	}
	return out, nil
}

func (s *Store) readLast(g shard.RangeID, truncated uint64) (uint64, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(g, 0), UpperBound: entriesEnd(g)})
	if err != nil {
		return 0, err
	}
	last := truncated
	if it.Last() {
		_, last, err = decodeEntryKey(it.Key())
	}
	if err == nil && last < truncated {
		err = fmt.Errorf("%w: entry %d below the truncated front %d", shard.ErrCorrupt, last, truncated)
	}
	return last, errors.Join(err, it.Close())
}

// get hands the value of a key to fn; false when there is none.
func (s *Store) get(key []byte, fn func([]byte) error) (bool, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = fn(v)
	if err != nil {
		err = fmt.Errorf("%w: key %x: %w", shard.ErrCorrupt, key, err)
	}
	return true, errors.Join(err, closer.Close())
}

// Entries implements raftgroup.Log.
func (s *Store) Entries(g shard.RangeID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	gl, err := s.load(g)
	if err != nil {
		return nil, err
	}
	tail, cachedFrom, err := gl.recent(lo, hi)
	if err != nil {
		return nil, err
	}
	var ents []*raftpb.Entry
	size := uint64(0)
	if lo < cachedFrom {
		if ents, size, err = s.readEntries(g, lo, min(hi, cachedFrom), maxBytes); err != nil {
			return nil, fmt.Errorf("raftlog: %s: %v: %w", s.dir, g, err)
		}
		if lo+uint64(len(ents)) < min(hi, cachedFrom) {
			return ents, nil
		}
	}
	for _, e := range tail {
		size += entryBytes(e)
		if size > maxBytes && len(ents) > 0 {
			break
		}
		ents = append(ents, e)
	}
	return ents, nil
}

// readEntries reads from Pebble, at least one entry, and checks that none is missing.
func (s *Store) readEntries(g shard.RangeID, lo, hi, maxBytes uint64) ([]*raftpb.Entry, uint64, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(g, lo), UpperBound: entryKey(g, hi)})
	if err != nil {
		return nil, 0, err
	}
	var ents []*raftpb.Entry
	var size uint64
	want := lo
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var e *raftpb.Entry
		if !bytes.Equal(it.Key(), entryKey(g, want)) {
			err = fmt.Errorf("%w: entry %d is missing", shard.ErrCorrupt, want)
			break
		}
		if e, err = readEntry(it, want); err != nil {
			break
		}
		size += entryBytes(e)
		if size > maxBytes && len(ents) > 0 {
			return ents, size, it.Close()
		}
		ents = append(ents, e)
		want++
	}
	if err == nil && want < hi {
		err = errors.Join(it.Error(), fmt.Errorf("%w: entry %d is missing", raftgroup.ErrNoEntry, want))
	}
	return ents, size, errors.Join(err, it.Close())
}

func readEntry(it *pebble.Iterator, index uint64) (*raftpb.Entry, error) {
	v, err := it.ValueAndErr()
	if err != nil {
		return nil, err
	}
	e, err := decodeEntry(index, v)
	if err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", shard.ErrCorrupt, index, err)
	}
	return e, nil
}

// Term implements raftgroup.Log.
func (s *Store) Term(g shard.RangeID, index uint64) (uint64, error) {
	gl, err := s.load(g)
	if err != nil {
		return 0, err
	}
	tail, from, err := gl.recent(index, index+1)
	if err != nil {
		return 0, err
	}
	if from <= index && len(tail) == 1 {
		return tail[0].GetTerm(), nil
	}
	var term uint64
	ok, err := s.get(entryKey(g, index), func(b []byte) (err error) {
		term, err = decodeEntryTerm(b)
		return err
	})
	if err == nil && !ok {
		err = raftgroup.ErrNoEntry
	}
	if err != nil {
		return 0, fmt.Errorf("raftlog: %s: %v: entry %d: %w", s.dir, g, index, err)
	}
	return term, nil
}
