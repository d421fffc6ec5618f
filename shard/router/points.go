package router

import (
	"bytes"
	"sync"

	"github.com/cespare/xxhash/v2"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
)

// pointsAtOnce is how many chains for one key are on their way at once before readers wait for the next one: as many as
// it takes for the wait to be a share of the way, and few enough for a hot key to be a small part of its leader's work.
const pointsAtOnce = 4

// points are the chains of reads of single keys at other nodes. A reader may only join one that has not begun: what it is answered
// must be no older than the moment at which it asks.
type points struct {
	mu   sync.Mutex
	keys map[uint64]keyReads // by hash; of keys that are being read
}

// keyReads are those of one key, or of several with the same hash.
type keyReads struct {
	flying int
	next   *pointRead // has not begun
}

// join returns the chain for a key: the one that waits to begin, or one that made makes. begins says that it is the caller's to begin.
func (s *points) join(key []byte, made func() *pointRead) (chain *pointRead, begins bool) {
	h := xxhash.Sum64(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[h]
	if k.next != nil && bytes.Equal(k.next.key(), key) {
		return k.next, false
	}
	p := made()
	if k.next != nil { // of another key
		return p, true
	}
	p.shared, p.hash = true, h
	if begins = k.flying < pointsAtOnce; begins {
		k.flying++
	}
	if !begins || mutate.On(mutate.SharedLate) {
		k.next = p
	}
	if s.keys == nil {
		s.keys = map[uint64]keyReads{}
	}
	s.keys[h] = k
	return p, begins
}

// ended returns the chain that begins now that p has ended; nil: none.
func (s *points) ended(p *pointRead) *pointRead {
	if !p.shared {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[p.hash]
	next := k.next
	k.next = nil
	if next == p { // only where a rule was taken out
		next = nil
	}
	if next == nil {
		k.flying--
	}
	if k.flying == 0 {
		delete(s.keys, p.hash)
	} else {
		s.keys[p.hash] = k
	}
	return next
}

// own copies an answer's keys for one more who asked for them.
func own(kvs []*pb.KeyValue) []*pb.KeyValue {
	out := make([]*pb.KeyValue, len(kvs))
	for i, kv := range kvs {
		out[i] = &pb.KeyValue{
			Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value), Lease: kv.Lease, Version: kv.Version,
			CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		}
	}
	return out
}
