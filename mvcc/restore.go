package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/durable"
	"pontoon/internal/extsort"
)

const (
	// restoreBytes is what one transaction of a restore takes in.
	restoreBytes = 8 << 20
	// fillMmap is the address space mapped of a file that is being filled. One that outgrows it is mapped again, and bbolt copies what the open
	// transaction has read and written so far: with its own 32 KiB to begin with, half of what a restore takes.
	fillMmap = 1 << 30
)

// RestoreSnapshot writes a store's file at path from a stream of WriteSnapshot, and fsyncs it
// and its directory. A file that is there is replaced; after an error nothing is left. The
// caller renames the file into place before it resets the Raft log.
func RestoreSnapshot(path string, r io.Reader) (Position, error) {
	pos, err := restoreFile(path, r, restoreBytes)
	if err != nil {
		return Position{}, errors.Join(fmt.Errorf("mvcc: restore into %s: %w", path, err), removeFile(path))
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return Position{}, fmt.Errorf("mvcc: restore into %s: %w", path, err)
	}
	return pos, nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("mvcc: %w", err)
	}
	return nil
}

func restoreFile(path string, r io.Reader, batch int) (Position, error) {
	db, err := newBoltFile(path, fillMmap)
	if err != nil {
		return Position{}, err
	}
	t := restorer{db: db, batch: batch}
	err = readSnapshot(r, snapshotSink{header: t.header, state: t.state, version: t.version})
	if err == nil {
		err = t.finish()
	}
	if t.tx != nil {
		err = errors.Join(err, t.tx.Rollback())
	}
	if err == nil {
		err = db.Sync()
	}
	return t.head.pos, errors.Join(err, db.Close())
}

// restorer is a snapshot's sink: it fills a new file.
type restorer struct {
	db    *boltFile
	tx    *bolt.Tx
	mem   slab // of the open transaction
	batch int  // bytes per transaction
	size  int  // bytes in the open transaction
	late  lateRecords
	log   *extsort.Sorter // takes the log's records until all are there; nil: each transaction has its own, late
	head  snapshotHeader
	keys  int64
	key   []byte // of the last version seen
	seen  bool   // there was a version
}

// room commits the open transaction when it is large, and sees that one is open.
func (t *restorer) room(bytes int) error {
	if t.size += bytes; t.size > t.batch && t.tx != nil {
		if err := t.commit(); err != nil {
			return err
		}
		t.size = bytes
	}
	if t.tx != nil {
		return nil
	}
	var err error
	t.tx, err = t.db.Begin(true)
	return err
}

func (t *restorer) commit() error {
	err := t.late.put(t.tx)
	if err != nil {
		return err
	}
	tx := t.tx
	t.tx = nil
	if err = tx.Commit(); err == nil {
		t.mem.release()
	}
	return err
}

// lateRecords are those of the open transaction that do not come in the order of their bucket: bbolt keeps what a transaction puts into a
// page in one array until it commits, so each record in front of others moves all of them. They are put in order, when it ends.
type lateRecords struct{ log, lease []lateRecord }

type lateRecord struct{ key, value []byte }

// put puts them and forgets them.
func (l *lateRecords) put(tx *bolt.Tx) error {
	for _, in := range []struct {
		bucket  []byte
		records *[]lateRecord
	}{{bucketLog, &l.log}, {bucketLease, &l.lease}} {
		slices.SortFunc(*in.records, func(a, b lateRecord) int { return bytes.Compare(a.key, b.key) })
		bk := tx.Bucket(in.bucket)
		for _, r := range *in.records {
			if err := bk.Put(r.key, r.value); err != nil {
				return err
			}
		}
		*in.records = (*in.records)[:0]
	}
	return nil
}

func (t *restorer) header(h snapshotHeader) error {
	t.head = h
	if err := t.room(0); err != nil {
		return err
	}
	return initBuckets(t.tx, h.id)
}

func (t *restorer) state(key, value []byte) error {
	if err := t.room(len(key) + len(value)); err != nil {
		return err
	}
	return writeState(t.tx.Bucket(bucketState), []StateUpdate{{string(key), append([]byte{}, value...)}})
}

// version puts one version where a store that was settled up to the header's settle revision
// and compacted at its compaction revision has it.
func (t *restorer) version(v *version) error {
	if err := t.room(len(v.kv.Key) + len(v.kv.Value) + recordOverhead); err != nil {
		return err
	}
	rev := v.kv.ModRevision
	if rev <= t.head.settle {
		base := t.tx.Bucket(bucketBase)
		base.FillPercent = fillAppend
		if err := putBase(base, v, &t.mem); err != nil {
			return err
		}
	}
	if rev >= t.head.compact || rev > t.head.settle {
		k := appendLogKey(t.mem.buf(revLen), v.rev())
		r := lateRecord{k, appendLogRecord(t.mem.buf(recordHeadMax+len(v.kv.Key)+len(v.kv.Value)), k, v)}
		if t.log == nil {
			t.late.log = append(t.late.log, r)
		} else if err := t.log.Add(r.key, r.value); err != nil {
			return err
		}
	}
	if t.seen && bytes.Equal(t.key, v.kv.Key) {
		return nil // not the key's newest
	}
	t.seen, t.key = true, append(t.key[:0], v.kv.Key...)
	if v.del {
		return nil
	}
	t.keys++
	if v.kv.Lease == 0 {
		return nil
	}
	k := appendLeaseKey(nil, v.kv.Lease, v.kv.Key)
	t.late.lease = append(t.late.lease, lateRecord{k, leaseRecord(k)})
	return nil
}

func (t *restorer) finish() error {
	p := progress{
		pos: t.head.pos, last: t.head.last, compact: t.head.compact,
		swept: t.head.compact, settle: t.head.settle, keys: t.keys,
	}
	if err := t.putLog(); err != nil {
		return err
	}
	if err := t.room(0); err != nil {
		return err
	}
	if err := putProgress(t.tx, p); err != nil {
		return err
	}
	return t.commit()
}

// putLog puts what the log's sorter has, in the order of revisions, which is that of the bucket: each page is written once.
func (t *restorer) putLog() error {
	if t.log == nil {
		return nil
	}
	m, err := t.log.Merge()
	if err != nil {
		return err
	}
	for m.Next() {
		k, v := m.Key(), m.Value()
		if err = t.room(len(k) + len(v) + recordOverhead); err != nil {
			break
		}
		bk := t.tx.Bucket(bucketLog)
		bk.FillPercent = fillAppend
		if err = bk.Put(k, append(t.mem.buf(len(v)), v...)); err != nil { // bbolt copies the key, and keeps the value until it commits
			break
		}
	}
	return errors.Join(err, m.Err(), m.Close())
}
