package mvcc

import (
	"sync"

	"github.com/google/btree"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// pin holds one moment of the store for a reader in steps: physical deletion does not pass its
// compaction revision nor goes outside of its span, and what is inserted below its last revision later is not its
// business.
type pin struct {
	pos     Position
	last    int64
	compact int64
	settle  int64 // highest settle revision that a copy of this moment may have
	state   *btree.BTreeG[stateItem]
	span    shard.Span // what was served
	tap     *tap       // told what is applied after; nil: nobody is

	late struct {
		sync.Mutex
		revs map[Rev]struct{}
	}
}

// newPin pins the present moment; unpin releases it.
func (m *memtable) newPin() *pin {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newPinLocked()
}

func (m *memtable) newPinLocked() *pin {
	p := &pin{pos: m.mu.pos, last: m.mu.last, compact: m.compact.Load(), state: m.mu.state.Clone(), span: m.extent.span()}
	p.settle = min(m.mu.floor, max(p.last, p.compact))
	m.mu.pins[p] = struct{}{}
	return p
}

func (m *memtable) unpin(p *pin) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.pins, p)
}

// noteLate records a late insert; mu is held.
func (p *pin) noteLate(r Rev) {
	if r.Main > p.last {
		return
	}
	p.late.Lock()
	defer p.late.Unlock()
	if p.late.revs == nil {
		p.late.revs = make(map[Rev]struct{})
	}
	p.late.revs[r] = struct{}{}
}

// sees reports whether the version belongs to the pinned moment.
func (p *pin) sees(v *version) bool {
	if v.kv.ModRevision > p.last {
		return false
	}
	p.late.Lock()
	defer p.late.Unlock()
	_, late := p.late.revs[v.rev()]
	return !late
}

// physicalLocked is the compaction revision up to which the file may be compacted.
func (m *memtable) physicalLocked() int64 {
	c := m.mu.durable.compact
	for p := range m.mu.pins {
		if p.tap == nil || !mutate.On(mutate.SplitPin) {
			c = min(c, p.compact)
		}
	}
	return c
}
