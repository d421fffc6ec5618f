package mvcc

import "sync"

// slabChunk is what a slab takes at a time; a record that is larger is allocated by itself.
const slabChunk = 32 << 10

var slabChunks = sync.Pool{New: func() any { return new([slabChunk]byte) }}

// slab is memory for the records of one transaction: bbolt keeps the values that it is given until the
// transaction ends, and copies its keys. The zero value is ready.
type slab struct {
	chunks []*[slabChunk]byte
	free   []byte // of the last chunk
	key    []byte // of the record that is being put
}

// buf returns an empty slice with room for n bytes, which nobody else writes to until release.
func (s *slab) buf(n int) []byte {
	if n > slabChunk {
		return make([]byte, 0, n)
	}
	if n > len(s.free) {
		c := slabChunks.Get().(*[slabChunk]byte)
		s.chunks, s.free = append(s.chunks, c), c[:]
	}
	b := s.free[:0:n]
	s.free = s.free[n:]
	return b
}

// release gives the memory back, to be written again: nothing may read any longer what was put with it.
// After an error it is left to the garbage collector, since the transaction may still hold it.
func (s *slab) release() {
	for _, c := range s.chunks {
		slabChunks.Put(c)
	}
	*s = slab{key: s.key[:0]}
}
