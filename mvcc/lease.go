package mvcc

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// LeaseKeys returns the keys, of those that are served, whose newest version carries lease, in key order, at most limit of
// them; 0 means all.
func (s *Store) LeaseKeys(lease int64, limit int) ([][]byte, error) {
	span := s.mem.extent.span()
	if mutate.On(mutate.CutLease) {
		span = shard.All
	}
	changes := s.mem.leaseChanges(lease)
	w := newLeaseWalk(lease, limit, span, changes)
	for w.from != nil {
		err := s.file.view(func(tx *bolt.Tx) error {
			if err := s.mem.extent.whole(span); err != nil {
				return err
			}
			return w.step(&s.file, tx, s.opt.steps.visits)
		})
		if err != nil {
			return nil, err
		}
	}
	keys := w.keys
	for key, carries := range changes {
		if carries && span.Contains([]byte(key)) {
			keys = append(keys, []byte(key))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
	}
	return keys, nil
}

// leaseWalk reads the keys of one lease from the lease index in the file, in steps.
type leaseWalk struct {
	prefix []byte          // of the lease's entries
	limit  int             // of keys; 0: none
	span   shard.Span      // other keys are left out
	skip   map[string]bool // these keys are left out, whatever their value
	from   []byte          // where the next step begins; nil at the end
	keys   [][]byte
}

func newLeaseWalk(lease int64, limit int, span shard.Span, skip map[string]bool) leaseWalk {
	prefix := binary.BigEndian.AppendUint64(nil, uint64(lease))
	return leaseWalk{prefix: prefix, limit: limit, span: span, skip: skip, from: prefix}
}

// step walks over so many entries.
func (w *leaseWalk) step(f *file, tx *bolt.Tx, visits int) error {
	c := tx.Bucket(bucketLease).Cursor()
	k, rec := c.Seek(w.from)
	for n := 0; n < visits && bytes.HasPrefix(k, w.prefix); n++ {
		if err := checkLeaseRecord(k, rec); err != nil {
			return f.corrupt(bucketLease, k, err)
		}
		if w.limit > 0 && len(w.keys) >= w.limit {
			k = nil
			break
		}
		key := k[len(w.prefix):]
		if _, skipped := w.skip[string(key)]; !skipped && w.span.Contains(key) {
			w.keys = append(w.keys, bytes.Clone(key))
		}
		k, rec = c.Next()
	}
	if w.from = nil; bytes.HasPrefix(k, w.prefix) {
		w.from = bytes.Clone(k)
	}
	return nil
}
