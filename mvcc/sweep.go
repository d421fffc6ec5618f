package mvcc

import (
	"bytes"
	"errors"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
)

// sweepStep deletes what the pass's compaction revision killed. Every key that has something to
// delete has a version in the log since the last sweep, so the work follows the changes, not
// the size of the base. A step takes the next log entries, cleans the base of their keys, and
// then deletes the entries below the compaction revision; those at it stay for watchers that
// begin there.
func (x *Maintenance) sweepStep(p *pass, budget int) error {
	d := x.mem.durable()
	last := false
	cursor := p.cursor
	deleted := 0
	if x.opt.Sweep != nil {
		swept := x.opt.Sweep()
		defer func() { swept(deleted) }()
	}
	err := x.commitLocked("sweep", func(tx *bolt.Tx, _ *slab) error {
		keys, entries, end, err := x.file.sweepBatch(tx.Bucket(bucketLog), p, budget, &x.mem.extent)
		if err != nil {
			return err
		}
		left := budget
		defer func() { deleted += budget - left }()
		for _, key := range keys {
			if err := x.file.sweepKey(tx.Bucket(bucketBase), key, p.target, &left); errors.Is(err, errBudget) {
				return nil // the same log entries again, with less left to delete
			} else if err != nil {
				return err
			}
		}
		if err := deleteLog(tx.Bucket(bucketLog), entries, p.target, &deleted); err != nil {
			return err
		}
		if last = end; last {
			d.swept = p.target
			return putProgress(tx, d)
		}
		cursor = append(bytes.Clone(entries[len(entries)-1]), 0)
		return nil
	})
	if err != nil {
		return err
	}
	p.cursor = cursor
	if last {
		x.mem.mu.Lock()
		defer x.mem.mu.Unlock()
		x.mem.mu.durable.swept = p.target
		*p = pass{}
	}
	return nil
}

// sweepBatch returns the next log entries up to the target, and their user keys in order; end
// says that these are the last.
func (f *file) sweepBatch(bk *bolt.Bucket, p *pass, budget int, e *extent) (keys, entries [][]byte, end bool, err error) {
	c := bk.Cursor()
	k, rec := c.Seek(p.cursor)
	for ; k != nil && len(entries) < budget; k, rec = c.Next() {
		v, err := decodeLogRecord(k, rec)
		if err != nil {
			return nil, nil, false, f.corrupt(bucketLog, k, err)
		}
		if v.kv.ModRevision > p.target {
			k = nil
			break
		}
		if e.keeps(v.kv.Key) || mutate.On(mutate.CutSweep) { // what was cut off is trimmed, dead or alive
			keys = append(keys, bytes.Clone(v.kv.Key))
		}
		entries = append(entries, bytes.Clone(k))
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), entries, k == nil, nil
}

// sweepKey deletes the key's versions in the base that are dead at compaction revision target.
func (f *file) sweepKey(bk *bolt.Bucket, key []byte, target int64, left *int) error {
	from := appendBaseKey(nil, key, newestAt(target))
	k, rec := bk.Cursor().Seek(from)
	if !sameKey(k, from[:len(from)-revLen]) {
		return nil
	}
	_, r, err := splitBaseKey(k)
	if err != nil {
		return f.corrupt(bucketBase, k, err)
	}
	del, err := isTombstone(rec)
	if err != nil {
		return f.corrupt(bucketBase, k, err)
	}
	if del && r.Main < target { // one at target is still history
		return deleteTombstone(bk, bytes.Clone(k), key, r, left)
	}
	return deleteFrom(bk, key, r.before(), left)
}

// deleteTombstone deletes what the tombstone hides, and it last.
func deleteTombstone(bk *bolt.Bucket, boltKey, key []byte, r Rev, left *int) error {
	if err := deleteFrom(bk, key, r.before(), left); err != nil {
		return err
	}
	*left--
	return bk.Delete(boltKey)
}

// before is the last revision below r.
func (r Rev) before() Rev {
	if r.Sub > 0 {
		return Rev{r.Main, r.Sub - 1}
	}
	return newestAt(r.Main - 1)
}

func deleteLog(bk *bolt.Bucket, entries [][]byte, target int64, deleted *int) error {
	for _, k := range entries {
		if r, err := decodeLogKey(k); err != nil || r.Main >= target {
			continue
		}
		if err := bk.Delete(k); err != nil {
			return err
		}
		*deleted++
	}
	return nil
}
