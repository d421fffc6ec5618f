package metaclient

import (
	"sync/atomic"

	"pontoon/shard"
)

// marks are the highest numbers that this process has seen in messages, whoever they were for.
type marks struct {
	epoch    atomic.Uint64
	revision atomic.Int64
	compact  atomic.Int64
}

// Epoch is the highest epoch that this node has seen: the meta group's term.
func (m *marks) Epoch() shard.Epoch { return shard.Epoch(m.epoch.Load()) }

// Revision is the newest revision that this node has seen. It may be behind.
func (m *marks) Revision() int64 { return m.revision.Load() }

// Compacted is the highest compaction revision that an answer of the meta group has named or
// acknowledged to this node. It may be behind; what Current answers is not.
func (m *marks) Compacted() int64 { return m.compact.Load() }

// NoteEpoch tells of an epoch that came with some message: oracle answers below it do not count
// any more.
func (m *marks) NoteEpoch(e shard.Epoch) { raise(&m.epoch, uint64(e)) }

// NoteRevision tells of a revision that came with some message.
func (m *marks) NoteRevision(rev int64) { raise(&m.revision, rev) }

func raise[T int64 | uint64](v interface {
	Load() T
	CompareAndSwap(old, now T) bool
}, to T) {
	for old := v.Load(); to > old && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}
