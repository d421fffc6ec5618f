package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"pontoon/internal/durable"
	"pontoon/shard"
)

// formatVersion is raised with every change of a byte layout; there is one reader, for this
// version.
const formatVersion = 2

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = time.Second

// fillAppend leaves little room in pages that only grow at their end.
const fillAppend = 0.95

var (
	bucketLog   = []byte("log")
	bucketBase  = []byte("base")
	bucketLease = []byte("lease")
	bucketState = []byte("state")
	bucketMeta  = []byte("meta")

	metaFormat   = []byte("format")
	metaProgress = []byte("progress")
	metaExtent   = []byte("extent")
)

// ErrDamaged is wrapped, together with shard.ErrCorrupt, by every error that says that the store's
// file does not hold what was written to it. The error names the file.
var ErrDamaged = fmt.Errorf("the store's file is damaged: %w", shard.ErrCorrupt)

// errOldFormat is wrapped by Open for a file of another format version.
var errOldFormat = errors.New("written in another format version")

// progress is what the file says about itself, changed with what it describes.
type progress struct {
	pos     Position
	last    int64 // highest revision applied
	compact int64 // logical compaction revision
	swept   int64 // physical compaction is done up to here
	settle  int64 // everything up to here is in the base
	keys    int64 // live keys
}

const progressLen = crcLen + 7*8

func (p progress) encode() []byte {
	b := make([]byte, crcLen, progressLen)
	for _, x := range []uint64{p.pos.Index, p.pos.Term, uint64(p.last), uint64(p.compact),
		uint64(p.swept), uint64(p.settle), uint64(p.keys)} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return sealed(metaProgress, b)
}

func decodeProgress(rec []byte) (progress, error) {
	b, err := unseal(metaProgress, rec)
	if err != nil {
		return progress{}, err
	}
	if len(rec) != progressLen {
		return progress{}, errRecordShort
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	p := progress{
		pos: Position{field(0), field(1)}, last: int64(field(2)), compact: int64(field(3)),
		swept: int64(field(4)), settle: int64(field(5)), keys: int64(field(6)),
	}
	if p.last < 0 || p.compact < 0 || p.swept < 0 || p.settle < 0 || p.keys < 0 {
		return progress{}, errRecordField
	}
	return p, nil
}

func putProgress(tx *bolt.Tx, p progress) error {
	return tx.Bucket(bucketMeta).Put(metaProgress, p.encode())
}

func encodeFormat(id shard.RangeID) []byte {
	b := make([]byte, crcLen, crcLen+12)
	b = binary.BigEndian.AppendUint32(b, formatVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(id))
	return sealed(metaFormat, b)
}

// checkFormat compares the file's format record with what this build and caller expect. The
// version is looked at before the checksum, so that a later format may move the rest.
func checkFormat(rec []byte, id shard.RangeID) error {
	if len(rec) < crcLen+4 {
		return fmt.Errorf("%w: format record: %w", ErrDamaged, errRecordShort)
	}
	if v := binary.BigEndian.Uint32(rec[crcLen:]); v != formatVersion {
		return fmt.Errorf("%w: it has %d, this program reads %d", errOldFormat, v, formatVersion)
	}
	b, err := unseal(metaFormat, rec)
	if err == nil && len(b) != 12 {
		err = errRecordShort
	}
	if err != nil {
		return fmt.Errorf("%w: format record: %w", ErrDamaged, err)
	}
	if has := shard.RangeID(binary.BigEndian.Uint64(b[4:])); has != id {
		return fmt.Errorf("%w: it belongs to range %v, not %v", shard.ErrInvalid, has, id)
	}
	return nil
}

// openBolt opens an existing file. A damaged one, one in use, and one that was cut short are
// told apart by the error, which names the file.
func openBolt(o *Options) (db *boltFile, x *scrub, err error) {
	defer rescue(o.Path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if x, err = beginScrub(o.Path); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil && x != nil {
			err = errors.Join(err, x.unmap())
		}
	}()
	db, err = openBoltFile(o.Path, &bolt.Options{
		Timeout:         lockWait,
		InitialMmapSize: o.InitialMmapSize,
		FreelistType:    bolt.FreelistMapType,
		NoSync:          o.NoSync,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, x, fmt.Errorf("mvcc: %s is in use by another process: %w", o.Path, err)
	case errors.Is(err, os.ErrPermission):
		return nil, x, fmt.Errorf("mvcc: %w", err)
	case err != nil:
		return nil, x, fmt.Errorf("mvcc: %s: %w: %w", o.Path, ErrDamaged, err)
	}
	return db, x, nil
}

// createBolt makes a store's file, empty but for its state, under a temporary name, fsyncs it and renames it, so
// that a crash leaves either nothing or a whole file.
func createBolt(path string, id shard.RangeID, birth []StateUpdate) error {
	tmp := path + ".new"
	if err := writeEmpty(tmp, id, birth); err != nil {
		return fmt.Errorf("mvcc: create %s: %w", path, err)
	}
	if err := durable.Rename(tmp, path); err != nil {
		return fmt.Errorf("mvcc: create: %w", err)
	}
	return nil
}

func writeEmpty(path string, id shard.RangeID, birth []StateUpdate) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := initBuckets(tx, id); err != nil {
			return err
		}
		return writeState(tx.Bucket(bucketState), birth)
	})
	return errors.Join(err, db.Close())
}

func initBuckets(tx *bolt.Tx, id shard.RangeID) error {
	for _, name := range [][]byte{bucketLog, bucketBase, bucketLease, bucketState, bucketMeta} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketMeta).Put(metaFormat, encodeFormat(id)); err != nil {
		return err
	}
	return putProgress(tx, progress{})
}
