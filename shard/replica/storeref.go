package replica

import (
	"log/slog"
	"sync"

	"pontoon/mvcc"
	"pontoon/shard"
)

// storeRefs counts the readers of the range's store, so that a snapshot can replace it. The old one is closed when
// its last reader is done.
type storeRefs struct {
	mu struct {
		sync.Mutex
		cur *storeRef
	}
}

// storeRef is one open store, what it holds, and its users.
type storeRef struct {
	*mvcc.Store
	holding
	refs   int         // guarded by storeRefs.mu; one belongs to being current
	closed func(error) // set before that one is released
}

// newStoreRef makes a reference to a store of a range whose state knows the descriptors, its own first.
func newStoreRef(st *mvcc.Store, known []shard.Descriptor) *storeRef {
	r := &storeRef{Store: st, refs: 1}
	r.hold(known)
	return r
}

// acquire returns the current store; the caller releases it.
func (s *storeRefs) acquire() (*storeRef, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cur == nil {
		return nil, shard.ErrStopped
	}
	s.mu.cur.refs++
	return s.mu.cur, nil
}

// is reports whether a store is the current one.
func (s *storeRefs) is(r *storeRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.cur == r
}

func (s *storeRefs) release(r *storeRef) {
	s.mu.Lock()
	r.refs--
	last := r.refs == 0
	s.mu.Unlock()
	if last {
		r.closed(r.Store.Close())
	}
}

// swap makes next current (nil: none). The old one is closed when its last user is done; closed gets
// the outcome.
func (s *storeRefs) swap(next *storeRef, closed func(error)) {
	s.mu.Lock()
	old := s.mu.cur
	s.mu.cur = next
	s.mu.Unlock()
	if old != nil {
		old.closed = closed
		s.release(old)
	}
}

// replace makes next current. The old one stays open until the caller, whose cores may still read it, calls let.
func (s *storeRefs) replace(next *storeRef, log *slog.Logger) (let func()) {
	old, err := s.acquire()
	s.swap(next, func(err error) {
		if err != nil {
			log.Warn("closing a store that another has replaced", "err", err)
		}
	})
	return func() {
		if err == nil {
			s.release(old)
		}
	}
}
