package mvcc

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
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
	if err := s.mem.check(&c); err != nil {
		return nil, err
	}
	prevs, err := s.previous(c.Muts)
	if err != nil {
		return nil, err
	}
	events := s.mem.apply(&c, prevs)
	clear(prevs)
	return events, nil
}

// apply makes a change visible that was checked; prevs holds what its mutations replace.
func (m *memtable) apply(c *Change, prevs []previous) []*shard.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := m.insertLocked(c.Muts, prevs)
	m.countMemoryLocked()
	for _, u := range c.State {
		if u.Value == nil {
			m.mu.state.Delete(stateItem{key: u.Key})
		} else {
			m.mu.state.ReplaceOrInsert(stateItem{u.Key, u.Value})
		}
		m.mu.active.bytes += recordOverhead + len(u.Key) + len(u.Value)
	}
	if c.Cut != nil {
		span := c.Cut.Span
		m.extent.served.Store(&span)
		m.mu.active.cut = &span
		if !mutate.On(mutate.CutKeys) {
			m.mu.keys -= c.Cut.Keys
		}
	}
	b := m.mu.active
	b.state = append(b.state, c.State...)
	b.dirty = true
	m.mu.pos = c.Pos
	if c.CompactTo > m.compact.Load() {
		m.compact.Store(c.CompactTo)
	}
	b.to.pos, b.to.last, b.to.keys, b.to.compact = m.mu.pos, m.mu.last, m.mu.keys, m.compact.Load()
	return events
}

// check refuses what no correct caller sends.
func (m *memtable) check(c *Change) error {
	m.mu.RLock()
	pos, last, keys := m.mu.pos, m.mu.last, m.mu.keys
	final := max(m.compact.Load(), m.mu.durable.settle, m.mu.target)
	m.mu.RUnlock()
	if c.Pos.Index <= pos.Index && pos.Index != 0 {
		return fmt.Errorf("mvcc: %v: %w: change at index %d, applied %d", m.id,
			shard.ErrInvalid, c.Pos.Index, pos.Index)
	}
	served := m.extent.span()
	if c.Cut != nil && (len(c.Muts) > 0 || c.Cut.Span.Empty() || !served.ContainsSpan(c.Cut.Span) || c.Cut.Keys < 0 || c.Cut.Keys > keys) {
		return fmt.Errorf("mvcc: %v: %w: cut to %v with %d keys less, of %v with %d", m.id, shard.ErrInvalid, c.Cut.Span, c.Cut.Keys, served, keys)
	}
	var before Rev
	for i := range c.Muts {
		mut := &c.Muts[i]
		switch {
		case mut.Rev.Main <= 0 || mut.Rev.Sub < 0 || !before.Less(mut.Rev) && i > 0:
			return mut.refused(m.id, "revisions must ascend from 1")
		case len(mut.Key) > MaxKeyBytes:
			return mut.refused(m.id, "key too long")
		case !served.Contains(mut.Key):
			return mut.refused(m.id, "the key is not served here")
		case mut.Rev.Main <= final && mut.Rev.Main <= last:
			return mut.refused(m.id, fmt.Sprintf("history is final up to %d", final))
		case mut.Rev.Main <= m.compact.Load():
			return mut.refused(m.id, "revision is compacted")
		}
		before = mut.Rev
	}
	return nil
}

func (m *Mutation) refused(id shard.RangeID, why string) error {
	key := m.Key[:min(len(m.Key), 64)]
	return fmt.Errorf("mvcc: %v: %w: mutation of %q at %d/%d: %s", id, shard.ErrInvalid,
		key, m.Rev.Main, m.Rev.Sub, why)
}

// previous finds the version that each mutation replaces: in the index, and for those that it
// does not hold, in the base, with a transaction that is opened after.
func (s *Store) previous(muts []Mutation) ([]previous, error) {
	prevs, missing, err := s.mem.previous(muts, s.scratch[:0])
	if err != nil {
		return nil, err
	}
	s.scratch = prevs
	if missing == 0 {
		return prevs, nil
	}
	err = s.file.view(func(tx *bolt.Tx) error {
		c := newBaseCursor(&s.file, tx)
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

// previous appends to prevs what the index holds of the mutations' keys; missing is for how many it holds
// nothing.
func (m *memtable) previous(muts []Mutation, prevs []previous) (_ []previous, missing int, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range muts {
		mut := &muts[i]
		p := previous{entry: m.mu.index.get(mut.Key)}
		if newest := p.entry.newest(); newest != nil && !newest.rev().Less(mut.Rev) {
			return nil, 0, mut.refused(m.id, "the key has a later version")
		}
		if p.ver = p.entry.newest(); p.ver == nil {
			missing++
		}
		prevs = append(prevs, p)
	}
	return prevs, missing, nil
}

// insertLocked adds the mutations to index and buffer. A mutation's key may have got a version
// from one before it in the same change; otherwise prevs holds the one that it replaces, even
// when settling has trimmed it from the index since.
func (m *memtable) insertLocked(muts []Mutation, prevs []previous) []*shard.Event {
	if len(muts) == 0 {
		return nil
	}
	vers := make([]version, len(muts))
	events, n := shard.NewEvents(len(muts)), 0
	for i := range muts {
		mut, e, prev := &muts[i], prevs[i].entry, prevs[i].ver
		m.mu.active.noteRev(mut.Rev.Main)
		if e == nil || e.dead {
			e = m.mu.index.enter(mut.Key)
		}
		if v := e.newest(); v != nil {
			prev = v
		}
		live := prev != nil && !prev.del
		if mut.Delete && !live {
			m.mu.index.leave(mut.Key, e)
			continue
		}
		v := &vers[i]
		mut.fill(v, prev)
		m.mu.index.add(e, v)
		m.mu.active.addVersion(v)
		m.countLocked(v, prev, live)
		m.mu.last = max(m.mu.last, mut.Rev.Main)
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
func (m *memtable) countLocked(v, prev *version, live bool) {
	switch {
	case live && v.del:
		m.mu.keys--
	case !live && !v.del:
		m.mu.keys++
	}
	var before int64
	if live {
		before = prev.kv.Lease
	}
	if before != v.kv.Lease {
		if before != 0 {
			m.mu.active.setLease(before, v.kv.Key, false)
		}
		if v.kv.Lease != 0 {
			m.mu.active.setLease(v.kv.Lease, v.kv.Key, true)
		}
	}
	for p := range m.mu.pins {
		p.noteLate(v.rev())
		p.tap.note(v, before, live)
	}
}
