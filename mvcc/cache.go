package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/ristretto/v2"

	"pontoon/shard"
)

// Cache keeps records that were read from files, by (range, key, revision). They are immutable,
// so nothing is ever invalidated. One cache serves all stores of a node.
type Cache struct {
	c *ristretto.Cache[uint64, *cached]
}

type cached struct {
	id shard.RangeID
	v  version
}

const (
	cachedBytesTypical = 512 // sizes the admission counters only
	cacheCountersMin   = 1 << 10
	cacheBufferItems   = 64
)

// NewCache returns a cache of at most so many bytes of records. Close it when its stores are
// closed.
func NewCache(bytes int64) (*Cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[uint64, *cached]{
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

// cacheHash mixes range and base key (user key and revision, as in the file) to 64 bits; hits
// are compared in full.
func cacheHash(id shard.RangeID, boltKey []byte) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(id)*0x9e3779b97f4a7c15)
	return xxhash.Sum64(boltKey) ^ xxhash.Sum64(b[:])
}

// get returns the record under a base key whose escaped user key and revision are given too.
func (c *Cache) get(id shard.RangeID, boltKey, esc []byte, r Rev) *version {
	if c == nil {
		return nil
	}
	e, ok := c.c.Get(cacheHash(id, boltKey))
	if !ok || e.id != id || e.v.rev() != r || !escapedEqual(esc, e.v.kv.Key) {
		return nil
	}
	return &e.v
}

func (c *Cache) put(id shard.RangeID, boltKey []byte, v *version) {
	if c == nil {
		return
	}
	e := &cached{id: id, v: *v}
	c.c.Set(cacheHash(id, boltKey), e, int64(v.bytes()+len(v.kv.Key)))
}

// escapedEqual reports whether esc is the escaped form of key.
func escapedEqual(esc, key []byte) bool {
	if len(esc) == len(key)+2 { // nothing escaped in esc, or not equal
		return bytes.Equal(esc[:len(key)], key) && bytes.IndexByte(key, escapeByte) < 0
	}
	var buf [256]byte
	return bytes.Equal(esc, appendEscaped(buf[:0], key))
}
