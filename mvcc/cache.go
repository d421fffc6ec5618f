package mvcc

import (
	"bytes"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/ristretto/v2"
)

// Cache keeps records that were read from files, by (key, revision). They are immutable, so nothing is ever
// invalidated, and revisions are unique in a cluster, so a range that is cut off another finds what that has read. One
// cache serves all stores of a node, which are of one cluster.
type Cache struct {
	c *ristretto.Cache[uint64, *version]
}

const (
	cachedBytesTypical = 512 // sizes the admission counters only
	cacheCountersMin   = 1 << 10
	cacheBufferItems   = 64
)

// NewCache returns a cache of at most so many bytes of records. Close it when its stores are
// closed.
func NewCache(bytes int64) (*Cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[uint64, *version]{
		NumCounters: max(cacheCountersMin, 10*bytes/cachedBytesTypical),
		MaxCost:     bytes,
		BufferItems: cacheBufferItems,
	})
	if err != nil {
		return nil, fmt.Errorf("mvcc: cache of %d bytes: %w", bytes, err)
	}
	return &Cache{c: c}, nil
}

// Close stops the cache's goroutines. A nil cache may be closed.
func (c *Cache) Close() {
	if c != nil {
		c.c.Close()
	}
}

// get returns the record under a base key, as it is in files, whose escaped user key and revision are given too: hits are
// compared in full.
func (c *Cache) get(boltKey, esc []byte, r Rev) *version {
	if c == nil {
		return nil
	}
	v, ok := c.c.Get(xxhash.Sum64(boltKey))
	if !ok || v.rev() != r || !escapedEqual(esc, v.kv.Key) {
		return nil
	}
	return v
}

// put keeps v, which nobody writes to any more.
func (c *Cache) put(boltKey []byte, v *version) {
	if c == nil {
		return
	}
	c.c.Set(xxhash.Sum64(boltKey), v, int64(v.bytes()+len(v.kv.Key)))
}

// escapedEqual reports whether esc is the escaped form of key.
func escapedEqual(esc, key []byte) bool {
	if len(esc) == len(key)+2 { // nothing escaped in esc, or not equal
		return bytes.Equal(esc[:len(key)], key) && bytes.IndexByte(key, escapeByte) < 0
	}
	var buf [256]byte
	return bytes.Equal(esc, appendEscaped(buf[:0], key))
}
