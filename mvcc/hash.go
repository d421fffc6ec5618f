package mvcc

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// HashKV sums a hash of (key, revision, record) over the versions up to rev, as if everything
// were compacted at the compaction revision. The sum does not depend on where ranges are cut,
// nor on what was settled or deleted yet: hashes of ranges may be added up. math.MaxInt64 means
// everything.
func (s *Store) HashKV(rev int64) (uint64, error) {
	hash, _, err := s.HashAt(rev, false)
	return hash, err
}

// HashAt is HashKV, and tells the compaction revision that the hash is logical at. With content set it is of what there is at rev, as if
// everything were compacted there: a compaction at rev or below does not change it.
func (s *Store) HashAt(rev int64, content bool) (hash uint64, compact int64, err error) {
	p := s.mem.newPin()
	defer s.mem.unpin(p)
	if rev < p.compact {
		return 0, p.compact, &shard.CompactedError{Revision: p.compact}
	}
	keep := survivors{compact: p.compact}
	if content {
		keep.compact = rev
	}
	var buf []byte
	w := versionWalk{s: s, p: p, span: p.span}
	if mutate.On(mutate.CutHash) {
		w.span = shard.All
	}
	err = w.each(func(v *version) error {
		if v.kv.ModRevision <= rev && keep.keeps(v) {
			buf = appendHashed(buf[:0], v)
			hash += xxhash.Sum64(buf)
		}
		return nil
	})
	if err != nil {
		return 0, p.compact, err
	}
	return hash, p.compact, nil
}

// appendHashed appends what the hash of one version covers.
func appendHashed(dst []byte, v *version) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v.kv.Key)))
	dst = append(dst, v.kv.Key...)
	dst = appendLogKey(dst, v.rev())
	return appendBody(dst, v)
}
