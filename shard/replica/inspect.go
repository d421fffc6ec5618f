package replica

import "github.com/cespare/xxhash/v2"

// Digest tells what this replica's state is at the index that it has applied: equal indexes have
// equal digests on every replica. It covers every version, the compaction revision and the range's
// own state. The host must not drive the replica meanwhile.
func (d *reads) Digest() (index, digest uint64, err error) {
	ref, err := d.r.stores.acquire()
	if err != nil {
		return 0, 0, err
	}
	defer d.r.stores.release(ref)
	h, compact, err := ref.HashAt(max(ref.LastRevision(), ref.CompactRevision()), false)
	if err != nil {
		return 0, 0, err
	}
	sum := xxhash.New()
	ref.RangeState("", func(key string, v []byte) bool {
		sum.WriteString(key)
		sum.Write(v)
		return true
	})
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	return d.r.mu.m.Index, sum.Sum64() ^ h ^ uint64(compact), nil
}

// Locks counts the transactions that hold locks here.
func (d *reads) Locks() int {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	return len(d.r.mu.m.Prepared)
}
