package mvcc

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// previous is what Apply knows of a mutation's key before it takes the lock to insert.
type previous struct {
	entry *entry
	ver   *version
}

// Apply makes one change visible and remembers it for the next Flush. It has one caller at a
// time, and changes come in log order. Revisions ascend, except that a committed transaction's
// late insert may lie below the last one, above the hold-back floor. The error of a change that
// breaks these rules wraps shard.ErrInvalid, and nothing of it was applied.
func (s *Store) Apply(c Change) ([]*shard.Event, error) {
	if err := s.check(&c); err != nil {
		return nil, err
	}
	prevs, err := s.previous(c.Muts)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.insertLocked(c.Muts, prevs)
	s.countMemoryLocked()
	for _, u := range c.State {
		if u.Value == nil {
			s.mu.state.Delete(stateItem{key: u.Key})
		} else {
			s.mu.state.ReplaceOrInsert(stateItem{u.Key, u.Value})
		}
		s.mu.active.bytes += recordOverhead + len(u.Key) + len(u.Value)
	}
	b := s.mu.active
	b.state = append(b.state, c.State...)
	b.dirty = true
	s.mu.pos = c.Pos
	if c.CompactTo > s.compactRev.Load() {
		s.compactRev.Store(c.CompactTo)
	}
	b.to.pos, b.to.last, b.to.keys, b.to.compact = s.mu.pos, s.mu.last, s.mu.keys, s.compactRev.Load()
	clear(prevs)
	return events, nil
}

// check refuses what no correct caller sends.
func (s *Store) check(c *Change) error {
	s.mu.RLock()
	pos, last := s.mu.pos, s.mu.last
	final := max(s.compactRev.Load(), s.mu.durable.settle, s.mu.target)
	s.mu.RUnlock()
	if c.Pos.Index <= pos.Index && pos.Index != 0 {
		return fmt.Errorf("mvcc: %v: %w: change at index %d, applied %d", s.opt.RangeID,
			shard.ErrInvalid, c.Pos.Index, pos.Index)
	}
	var before Rev
	for i := range c.Muts {
		m := &c.Muts[i]
		switch {
		case m.Rev.Main <= 0 || m.Rev.Sub < 0 || !before.Less(m.Rev) && i > 0:
			return s.refuse(m, "revisions must ascend from 1")
		case len(m.Key) > MaxKeyBytes:
			return s.refuse(m, "key too long")
		case m.Rev.Main <= final && m.Rev.Main <= last:
			return s.refuse(m, fmt.Sprintf("history is final up to %d", final))
		case m.Rev.Main <= s.compactRev.Load():
			return s.refuse(m, "revision is compacted")
		}
		before = m.Rev
	}
	return nil
}

func (s *Store) refuse(m *Mutation, why string) error {
	key := m.Key[:min(len(m.Key), 64)]
	return fmt.Errorf("mvcc: %v: %w: mutation of %q at %d/%d: %s", s.opt.RangeID, shard.ErrInvalid,
		key, m.Rev.Main, m.Rev.Sub, why)
}

// previous finds the version that each mutation replaces: in the index, and for those that it
// does not hold, in the base, with a transaction that is opened after.
func (s *Store) previous(muts []Mutation) ([]previous, error) {
	prevs := s.scratch[:0]
	missing := 0
	s.mu.RLock()
	for i := range muts {
		m := &muts[i]
		p := previous{entry: s.mu.index.get(m.Key)}
		if newest := p.entry.newest(); newest != nil && !newest.rev().Less(m.Rev) {
			s.mu.RUnlock()
			return nil, s.refuse(m, "the key has a later version")
		}
		if p.ver = p.entry.newest(); p.ver == nil {
			missing++
		}
		prevs = append(prevs, p)
	}
	s.mu.RUnlock()
	s.scratch = prevs
	if missing == 0 {
		return prevs, nil
	}
	err := s.view(func(tx *bolt.Tx) error {
		c := s.baseCursor(tx)
		c.fill = false // a version that is being replaced will hardly be asked for again
		for i := range prevs {
			if prevs[i].ver != nil {
				continue
			}
			v, err := c.seekAtMost(muts[i].Key, muts[i].Rev)
			if err != nil {
				return err
			}
			prevs[i].ver = v
		}
		return nil
	})
	return prevs, err
}

// insertLocked adds the mutations to index and buffer. A mutation's key may have got a version
// from one before it in the same change; otherwise prevs holds the one that it replaces, even
// when settling has trimmed it from the index since.
func (s *Store) insertLocked(muts []Mutation, prevs []previous) []*shard.Event {
	if len(muts) == 0 {
		return nil
	}
	vers := make([]version, len(muts))
	events, n := shard.NewEvents(len(muts)), 0
	for i := range muts {
		m, e, prev := &muts[i], prevs[i].entry, prevs[i].ver
		s.mu.active.noteRev(m.Rev.Main)
		if e == nil || e.dead {
			e = s.mu.index.enter(m.Key)
		}
		if v := e.newest(); v != nil {
			prev = v
		}
		live := prev != nil && !prev.del
		if m.Delete && !live {
			s.mu.index.leave(m.Key, e)
			continue
		}
		v := &vers[i]
		m.fill(v, prev)
		s.mu.index.add(e, v)
		s.mu.active.addVersion(v)
		s.countLocked(v, prev, live)
		s.mu.last = max(s.mu.last, m.Rev.Main)
		v.describe(events[n], prev)
		n++
	}
	return events[:n]
}

// fill makes v the version that m writes over prev.
func (m *Mutation) fill(v *version, prev *version) {
	v.kv.Key, v.kv.ModRevision, v.sub = m.Key, m.Rev.Main, m.Rev.Sub
	if v.del = m.Delete; v.del {
		return
	}
	v.kv.Value, v.kv.Lease = m.Value, m.Lease
	v.kv.CreateRevision, v.kv.Version = m.Rev.Main, 1
	if prev != nil && !prev.del {
		v.kv.CreateRevision, v.kv.Version = prev.kv.CreateRevision, prev.kv.Version+1
	}
}

// countLocked keeps the number of live keys, the lease index, and what pinned readers must not
// see.
func (s *Store) countLocked(v, prev *version, live bool) {
	switch {
	case live && v.del:
		s.mu.keys--
	case !live && !v.del:
		s.mu.keys++
	}
	var before int64
	if live {
		before = prev.kv.Lease
	}
	if before != v.kv.Lease {
		if before != 0 {
			s.mu.active.setLease(before, v.kv.Key, false)
		}
		if v.kv.Lease != 0 {
			s.mu.active.setLease(v.kv.Lease, v.kv.Key, true)
		}
	}
	if v.kv.ModRevision <= s.mu.last {
		for p := range s.mu.pins {
			p.noteLate(v.rev())
		}
	}
}
