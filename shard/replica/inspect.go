package replica

import "github.com/cespare/xxhash/v2"

// Digest tells what this replica's state is at the index that it has applied: equal indexes have
// equal digests on every replica. It covers every version, the compaction revision and the range's
// own state. The host must not drive the replica meanwhile.
func (r *Replica) Digest() (index, digest uint64, err error) {
	ref, err := r.stores.acquire()
	if err != nil {
		return 0, 0, err
	}
	defer r.stores.release(ref)
	h, compact, err := ref.HashAt(max(ref.LastRevision(), ref.CompactRevision()))
	if err != nil {
		return 0, 0, err
	}
	d := xxhash.New()
	ref.RangeState("", func(key string, v []byte) bool {
		d.WriteString(key)
		d.Write(v)
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.m.Index, d.Sum64() ^ h ^ uint64(compact), nil
}

// Locks counts the transactions that hold locks here.
func (r *Replica) Locks() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.m.Prepared)
}
