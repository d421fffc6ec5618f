package mvcc

import "sync/atomic"

// Memory counts what the stores of a node hold in memory together, and says how much that may be.
// A store keeps to it only as far as it is asked to: whoever schedules Maintain looks at Excess and
// calls RequestSettle, on the stores that hold the most first, so that each settles much at a time.
// A nil Memory counts nothing and has no limit.
type Memory struct {
	limit int64
	used  atomic.Int64
}

// memoryPressed is how many limits may be in use before whoever applies changes has to settle, too.
const memoryPressed = 2

// NewMemory returns a count with a limit in bytes.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used is how many bytes of unsettled versions the stores hold.
func (m *Memory) Used() int64 {
	if m == nil {
		return 0
	}
	return m.used.Load()
}

// Excess is by how much that is above the limit; 0 when it is not.
func (m *Memory) Excess() int64 {
	if m == nil {
		return 0
	}
	return max(0, m.used.Load()-m.limit)
}

func (m *Memory) pressed() bool { return m != nil && m.used.Load() > memoryPressed*m.limit }

// countMemoryLocked brings the node's count up to date with the store's index; mu is held.
func (s *Store) countMemoryLocked() {
	if m := s.opt.Memory; m != nil {
		m.used.Add(int64(s.mu.index.bytes) - s.mu.counted)
		s.mu.counted = int64(s.mu.index.bytes)
	}
}

// uncountMemory takes a store that is gone out of the node's count.
func (s *Store) uncountMemory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.opt.Memory; m != nil {
		m.used.Add(-s.mu.counted)
		s.mu.counted = 0
	}
}

// Unsettled is how many bytes of versions the store holds in memory because they are not in the base.
func (s *Store) Unsettled() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return int64(s.mu.index.bytes)
}

// Pressed reports that the node's stores hold far more than their limit and that this one has been
// asked to settle: whoever writes to it is to do a step of Maintain before it goes on.
func (s *Store) Pressed() bool {
	if !s.opt.Memory.pressed() {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.settle || s.mu.target > 0
}
