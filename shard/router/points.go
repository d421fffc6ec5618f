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

// join returns the chain that waits to begin for the key of p, or p itself, and whether it is another's. It is the caller's to begin
// unless it waits.
func (s *points) join(p *pointRead) (chain *pointRead, others, waits bool) {
	h := xxhash.Sum64(p.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[h]
	switch {
	case k.next != nil && bytes.Equal(k.next.key(), p.key()):
		return k.next, true, true
	case k.next != nil: // of another key
		return p, false, false
	case k.flying < pointsAtOnce:
		k.flying++
		if mutate.On(mutate.SharedLate) {
			k.next = p
		}
	default:
		k.next = p
		waits = true
	}
	if s.keys == nil {
		s.keys = map[uint64]keyReads{}
	}
	p.counted = true
	s.keys[h] = k
	return p, false, waits
}

// ended returns the chain that begins now that p has ended; nil: none.
func (s *points) ended(p *pointRead) *pointRead {
	if !p.counted {
		return nil
	}
	h := xxhash.Sum64(p.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[h]
	next := k.next
	k.next = nil
	if next == p { // only where a rule was taken out
		next = nil
	}
	if next == nil {
		k.flying--
	}
	if k.flying == 0 {
		delete(s.keys, h)
	} else {
		s.keys[h] = k
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
