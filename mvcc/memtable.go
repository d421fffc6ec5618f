package mvcc

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// memtable is what a store has in memory: the versions above the settle revision, the range state, and what
// is to become of both in the file.
type memtable struct {
	id   shard.RangeID
	node *Memory // counts index; nil: nobody does

	// compact is the logical compaction revision. It is set before anything is deleted for
	// it, so a reader that looks at it after opening its transaction knows whether what it sees
	// is whole.
	compact atomic.Int64

	extent extent

	mu struct {
		sync.RWMutex
		index    *index
		active   *buffer // takes new changes
		flushing *buffer // on its way into the file; nil when none
		state    *btree.BTreeG[stateItem]
		pos      Position
		last     int64
		keys     int64
		floor    int64
		durable  progress // what the file holds
		target   int64    // settling under way to here: nothing may be inserted below
		settle   bool     // settling was asked for
		leftover int      // bytes that the last settling had to leave in the index
		counted  int64    // of the index, in the node's Memory
		pins     map[*pin]struct{}
	}
}

type stateItem struct {
	key   string
	value []byte
}

func stateLess(a, b stateItem) bool { return a.key < b.key }

// load takes over what the file holds at p; nobody else has the store yet.
func (m *memtable) load(f *file, tx *bolt.Tx, p progress) (err error) {
	m.mu.durable, m.mu.pos, m.mu.last, m.mu.keys = p, p.pos, p.last, p.keys
	m.mu.active.to = p
	m.compact.Store(p.compact)
	if err := m.extent.load(f, tx); err != nil {
		return err
	}
	if m.mu.state, err = f.readState(tx); err != nil {
		return err
	}
	m.mu.index, err = f.readUnsettled(tx, p, &m.extent)
	return err
}

// durable is what the file says about itself.
func (m *memtable) durable() progress {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.durable
}

// floor is the hold-back.
func (m *memtable) floor() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.floor
}

// compacted returns the error of a read at rev, nil when rev may be read.
func (m *memtable) compacted(rev int64) error {
	if c := m.compact.Load(); rev < c {
		return &shard.CompactedError{Revision: c}
	}
	return nil
}

// fixed turns "the newest" into one revision, so that all steps of a read show one state.
func (m *memtable) fixed(rev int64) int64 {
	if rev != math.MaxInt64 {
		return rev
	}
	m.mu.RLock()
	last := m.mu.last
	m.mu.RUnlock()
	return max(last, m.compact.Load())
}

// unsettled returns the key's newest version in memory at or below rev, nil when there is none.
func (m *memtable) unsettled(key []byte, rev int64) *version {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.index.get(key).at(rev)
}

// buffered returns the versions that may not be in the file with from <= revision <= to, in revision order.
func (m *memtable) buffered(from, to int64) []*version {
	m.mu.RLock()
	vers := append(m.mu.flushing.between(from, to), m.mu.active.between(from, to)...)
	m.mu.RUnlock()
	sortByRev(vers)
	return vers
}

// leaseChanges tells for keys in the buffers whether they carry the lease (true) or do not any more.
func (m *memtable) leaseChanges(lease int64) map[string]bool {
	changes := make(map[string]bool)
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, b := range []*buffer{m.mu.flushing, m.mu.active} {
		if b == nil {
			continue
		}
		for key, carries := range b.leases[lease] {
			changes[key] = carries
		}
	}
	return changes
}

// seal takes the active buffer out to be written, nil when nothing has been applied since the last one.
func (m *memtable) seal() *buffer {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.mu.active
	if !b.dirty {
		return nil
	}
	next := newBuffer()
	next.to = b.to
	m.mu.flushing, m.mu.active = b, next
	b.to.settle, b.to.swept = m.mu.durable.settle, m.mu.durable.swept
	return b
}

// flushed says that the sealed buffer is in the file.
func (m *memtable) flushed(b *buffer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.flushing = nil
	m.mu.durable = b.to
	if b.cut != nil {
		m.extent.durable, m.extent.pending = *b.cut, true
	}
}
