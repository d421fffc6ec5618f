package mvcc

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"pontoon/internal/durable"
	"pontoon/internal/extsort"
	"pontoon/shard"
)

// buildLogBytes is what of a log is sorted in memory while a file is built. Versions come in key order, which is none in the log: put as they come,
// each transaction would write pages all over it.
const buildLogBytes = 32 << 20

// Build is a store's file that is made of versions which somebody else has numbered: each comes as it is, with the revision in which its key came
// into being and its version, which cannot be told from what is left of a history. Use Begin, Put for every version, Finish; or Discard.
type Build struct {
	path string
	t    restorer
	keep survivors
	last version // for the order
	any  bool
}

// BeginBuild begins a store's file at path, in a directory that is there, over what is there. What it holds is final up to the revision last, and
// history below compact is forgotten: versions that a compaction there forgets are left out.
func BeginBuild(path string, id shard.RangeID, pos Position, last, compact int64) (*Build, error) {
	b := &Build{path: path, keep: survivors{compact: compact}}
	if last < 0 || compact < 0 || compact > last {
		return nil, b.fault(fmt.Errorf("%w: up to %d, compacted at %d", shard.ErrInvalid, last, compact))
	}
	db, err := newBoltFile(path, fillMmap)
	if err != nil {
		return nil, b.fault(err)
	}
	b.t = restorer{db: db, batch: restoreBytes, log: extsort.New(filepath.Dir(path), filepath.Base(path)+"-log", buildLogBytes)}
	if err := b.t.header(snapshotHeader{id: id, pos: pos, last: last, compact: compact, settle: last}); err != nil {
		return nil, errors.Join(b.fault(err), b.Discard())
	}
	return b, nil
}

func (b *Build) fault(err error) error { return fmt.Errorf("mvcc: build %s: %w", b.path, err) }

// Put adds a version. Versions come in key order, of each key the newest first. The bytes are the caller's.
func (b *Build) Put(kv *shard.KeyValue, sub int64, del bool) error {
	v := (&version{kv: *kv, sub: sub, del: del}).clone()
	switch {
	case len(v.kv.Key) > MaxKeyBytes:
		return b.fault(fmt.Errorf("%w: a key of %d bytes", shard.ErrInvalid, len(v.kv.Key)))
	case v.kv.ModRevision <= 0 || v.kv.ModRevision > b.t.head.last || sub < 0 || sub == math.MaxInt64:
		return b.fault(fmt.Errorf("%w: revision %d/%d", shard.ErrInvalid, v.kv.ModRevision, sub))
	case b.any && baseOrder(&b.last, v) >= 0:
		return b.fault(fmt.Errorf("%w: %q at %d is out of order", shard.ErrInvalid, v.kv.Key[:min(len(v.kv.Key), 64)], v.kv.ModRevision))
	}
	b.any, b.last = true, *v
	if !exported(&b.keep, v) {
		return nil
	}
	if err := b.t.version(v); err != nil {
		return b.fault(err)
	}
	return nil
}

// Finish writes the range's state and makes the file durable.
func (b *Build) Finish(state []StateUpdate) error {
	for _, u := range state {
		if err := b.t.state([]byte(u.Key), u.Value); err != nil {
			return b.fault(err)
		}
	}
	if err := b.t.finish(); err != nil {
		return b.fault(err)
	}
	if err := errors.Join(b.t.log.Close(), b.t.db.Sync(), b.t.db.Close()); err != nil {
		return b.fault(err)
	}
	if err := durable.SyncDir(filepath.Dir(b.path)); err != nil {
		return b.fault(err)
	}
	return nil
}

// Discard removes what is not finished.
func (b *Build) Discard() error {
	var err error
	if b.t.tx != nil {
		err = b.t.tx.Rollback()
	}
	return errors.Join(err, b.t.log.Close(), b.t.db.Close(), removeFile(b.path))
}

// AppendOrder appends what sorts versions, by its bytes, into the order of Build.Put.
func AppendOrder(dst, key []byte, rev Rev) []byte { return appendBaseKey(dst, key, rev) }
