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
func (m *memtable) countMemoryLocked() {
	if m.node != nil {
		m.node.used.Add(int64(m.mu.index.bytes) - m.mu.counted)
		m.mu.counted = int64(m.mu.index.bytes)
	}
}

// uncountMemory takes a store that is gone out of the node's count.
func (m *memtable) uncountMemory() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node != nil {
		m.node.used.Add(-m.mu.counted)
		m.mu.counted = 0
	}
}

// Unsettled is how many bytes of versions the store holds in memory because they are not in the base.
func (x *Maintenance) Unsettled() int64 {
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	return int64(x.mem.mu.index.bytes)
}

// Pressed reports that the node's stores hold far more than their limit and that this one has been
// asked to settle: whoever writes to it is to do a step of Maintain before it goes on.
func (x *Maintenance) Pressed() bool {
	if !x.mem.node.pressed() {
		return false
	}
	x.mem.mu.RLock()
	defer x.mem.mu.RUnlock()
	return x.mem.mu.settle || x.mem.mu.target > 0
}
