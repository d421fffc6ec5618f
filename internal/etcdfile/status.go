package etcdfile

import (
	"fmt"
	"hash/crc32"

	"pontoon/shard"
)

// Status is what etcdutl tells of a snapshot.
type Status struct {
	Hash      uint32 `json:"hash"`
	Revision  int64  `json:"revision"`
	TotalKey  int    `json:"totalKey"`
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"`
}

// Status reads everything in the file, and tells what etcdutl does: the revision of the last row, how many keys live, a hash over all buckets. It
// remembers every key that lives.
func (f *File) Status() (Status, error) {
	st := Status{TotalSize: f.size}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	live := map[string]struct{}{}
	err := f.Each(func(bucket string, key, value []byte) error {
		if key == nil {
			_, _ = sum.Write([]byte(bucket))
			return nil
		}
		_, _ = sum.Write(key)
		_, _ = sum.Write(value)
		switch {
		case bucket == bucketMeta && string(key) == keyStorageVersion:
			st.Version = string(value)
		case bucket == bucketKey:
			r, err := ParseRow(key, value)
			if err != nil {
				return fmt.Errorf("%w: revision %x: %w", shard.ErrCorrupt, key, err)
			}
			st.Revision = r.Main
			if r.Tombstone {
				delete(live, string(r.Key))
			} else {
				live[string(r.Key)] = struct{}{}
			}
		}
		return nil
	})
	st.TotalKey, st.Hash = len(live), sum.Sum32()
	return st, err
}
