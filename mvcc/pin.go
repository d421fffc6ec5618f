package mvcc

import (
	"sync"

	"github.com/google/btree"
)

// pin holds one moment of the store for a reader in steps: physical deletion does not pass its
// compaction revision, and what is inserted below its last revision later is not its business.
type pin struct {
	pos     Position
	last    int64
	compact int64
	settle  int64 // highest settle revision that a copy of this moment may have
	state   *btree.BTreeG[stateItem]

	late struct {
		sync.Mutex
		revs map[Rev]struct{}
	}
}

// newPin pins the present moment; unpin releases it.
func (s *Store) newPin() *pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &pin{pos: s.mu.pos, last: s.mu.last, compact: s.compactRev.Load(), state: s.mu.state.Clone()}
	p.settle = min(s.mu.floor, max(p.last, p.compact))
	s.mu.pins[p] = struct{}{}
	return p
}

func (s *Store) unpin(p *pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.pins, p)
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
func (s *Store) physicalLocked() int64 {
	c := s.mu.durable.compact
	for p := range s.mu.pins {
		c = min(c, p.compact)
	}
	return c
}
