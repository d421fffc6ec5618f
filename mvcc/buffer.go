package mvcc

import (
	"maps"
	"math"
	"slices"
	"sort"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// recordOverhead is what a buffered version costs in the file beside its bytes, roughly.
const recordOverhead = 64

// buffer holds what was applied and is not in the file yet. The active one is guarded by the
// memtable's mu; once it is being flushed nobody changes it.
type buffer struct {
	vers    []*version // in order of application
	ordered bool       // vers is ascending: no late insert among them
	minRev  int64      // lowest revision applied, MaxInt64 when there is none
	state   []StateUpdate
	leases  map[int64]map[string]bool // lease -> key -> carries it (true) or does not any more
	bytes   int
	to      progress    // what the file will say once this buffer is in it
	dirty   bool        // something was applied, be it a position only
	cut     *shard.Span // what is served from here on; nil: as before
}

func newBuffer() *buffer { return &buffer{ordered: true, minRev: math.MaxInt64} }

func (b *buffer) addVersion(v *version) {
	if n := len(b.vers); n > 0 && v.rev().Less(b.vers[n-1].rev()) {
		b.ordered = false
	}
	b.vers = append(b.vers, v)
	b.noteRev(v.kv.ModRevision)
	b.bytes += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
}

// noteRev keeps settling below a revision until the buffer is in the file. Mutations that
// change nothing count too: after a crash they are applied again.
func (b *buffer) noteRev(rev int64) { b.minRev = min(b.minRev, rev) }

// setLease records that key's newest version carries lease, or does not any more.
func (b *buffer) setLease(lease int64, key []byte, carries bool) {
	if b.leases == nil {
		b.leases = make(map[int64]map[string]bool)
	}
	keys := b.leases[lease]
	if keys == nil {
		keys = make(map[string]bool)
		b.leases[lease] = keys
	}
	keys[string(key)] = carries
	b.bytes += recordOverhead + len(key)
}

// between returns the versions with from <= revision <= to, in revision order.
func (b *buffer) between(from, to int64) []*version {
	if b == nil || to < b.minRev {
		return nil
	}
	if b.ordered {
		lo := sort.Search(len(b.vers), func(i int) bool { return b.vers[i].kv.ModRevision >= from })
		hi := sort.Search(len(b.vers), func(i int) bool { return b.vers[i].kv.ModRevision > to })
		return slices.Clone(b.vers[lo:hi])
	}
	var out []*version
	for _, v := range b.vers {
		if from <= v.kv.ModRevision && v.kv.ModRevision <= to {
			out = append(out, v)
		}
	}
	sortByRev(out)
	return out
}

func sortByRev(vs []*version) {
	slices.SortFunc(vs, func(a, b *version) int { return compareRev(a.rev(), b.rev()) })
}

func compareRev(a, b Rev) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	default:
		return 0
	}
}

// write puts the buffer into tx.
func (b *buffer) write(tx *bolt.Tx, mem *slab) error {
	if err := b.writeLog(tx.Bucket(bucketLog), mem); err != nil {
		return err
	}
	if err := writeState(tx.Bucket(bucketState), b.state); err != nil {
		return err
	}
	if err := b.writeLeases(tx.Bucket(bucketLease)); err != nil {
		return err
	}
	if b.cut != nil {
		if err := putExtent(tx, *b.cut, true); err != nil {
			return err
		}
	}
	return putProgress(tx, b.to)
}

func (b *buffer) writeLog(bk *bolt.Bucket, mem *slab) error {
	bk.FillPercent = fillAppend
	vers := b.vers
	if !b.ordered {
		vers = slices.Clone(vers)
		sortByRev(vers)
	}
	for _, v := range vers {
		if err := putLog(bk, v, mem); err != nil {
			return err
		}
	}
	return nil
}

// putLog and putBase write the record to mem, which has to stay as it is until the transaction ends.
func putLog(bk *bolt.Bucket, v *version, mem *slab) error {
	mem.key = appendLogKey(mem.key[:0], v.rev())
	rec := mem.buf(recordHeadMax + len(v.kv.Key) + len(v.kv.Value))
	return bk.Put(mem.key, appendLogRecord(rec, mem.key, v))
}

func putBase(bk *bolt.Bucket, v *version, mem *slab) error {
	mem.key = appendBaseKey(mem.key[:0], v.kv.Key, v.rev())
	rec := mem.buf(recordHeadMax + len(v.kv.Value))
	return bk.Put(mem.key, appendBaseRecord(rec, mem.key, v))
}

func writeState(bk *bolt.Bucket, ups []StateUpdate) error {
	for _, u := range ups {
		k := []byte(u.Key)
		if u.Value == nil {
			if err := bk.Delete(k); err != nil {
				return err
			}
			continue
		}
		rec := append(make([]byte, crcLen, crcLen+len(u.Value)), u.Value...)
		if err := bk.Put(k, sealed(k, rec)); err != nil {
			return err
		}
	}
	return nil
}

func (b *buffer) writeLeases(bk *bolt.Bucket) error {
	for _, lease := range slices.Sorted(maps.Keys(b.leases)) {
		keys := b.leases[lease]
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			k := appendLeaseKey(nil, lease, []byte(key))
			var err error
			if keys[key] {
				err = bk.Put(k, leaseRecord(k))
			} else {
				err = bk.Delete(k)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
