package replica

import (
	"fmt"
	"math"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// This file is apply's side of transactions over several ranges: the authority on what holds.

func (id txnID) key(prefix string) string {
	return fmt.Sprintf("%s%016x/%016x/%016x", prefix, uint64(id.anchor), id.term, id.seq)
}

func newPrepared(p *pb.Prepare, effective int64) *prepared {
	out := &prepared{
		id: toTxnID(p.Id), body: p, floor: p.Floor, effective: effective,
		read: newLockSet(p.Read), write: newLockSet(p.Write),
	}
	for _, u := range p.Leases {
		if !slices.Contains(out.uses, u.Lease) {
			out.uses = append(out.uses, u.Lease)
		}
	}
	return out
}

func (m *machine) loadTxns(st stateReader) error {
	var err error
	st.RangeState(statePrep, func(key string, v []byte) bool {
		p := &pb.Prepare{}
		if len(v) < 8 {
			err = fmt.Errorf("%v: state %q is too short", m.desc.ID, key)
			return false
		}
		if err = p.UnmarshalVT(v[8:]); err != nil {
			err = fmt.Errorf("%v: state %q: %w", m.desc.ID, key, err)
			return false
		}
		m.prepared = append(m.prepared, newPrepared(p, int64(stateUint(v[:8]))))
		return true
	})
	if err != nil {
		return err
	}
	st.RangeState(stateRecord, func(key string, v []byte) bool {
		c := &pb.Commit{}
		if err = c.UnmarshalVT(v); err != nil {
			err = fmt.Errorf("%v: state %q: %w", m.desc.ID, key, err)
			return false
		}
		m.records[toTxnID(c.Id)] = c
		return true
	})
	return err
}

func (m *machine) findPrepared(id txnID) *prepared {
	for _, p := range m.prepared {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (m *machine) decidePrepare(d *decision, e *pb.Entry) error {
	if e.Prepare.Id == nil {
		return fmt.Errorf("a prepare without a transaction: %w", shard.ErrInvalid)
	}
	if !m.takeEpoch(d, e.Epoch) {
		return nil
	}
	id := toTxnID(e.Prepare.Id)
	if m.findPrepared(id) != nil || m.records[id] != nil {
		return nil
	}
	if d.refused = m.mayPrepare(d, e.Prepare); d.refused != nil {
		return nil
	}
	d.prepare = newPrepared(e.Prepare, max(e.Prepare.Floor, m.last))
	v := stateOfUint(id.key(statePrep), uint64(d.prepare.effective))
	v.Value = append(v.Value, marshal(e.Prepare)...)
	d.change.State = append(d.change.State, v)
	return nil
}

// mayPrepare says why the transaction may not lock at this position of the log; nil: it may.
func (m *machine) mayPrepare(d *decision, p *pb.Prepare) error {
	fp := footprint{expires: p.Lease}
	fp.addSpans(p.Read, false)
	fp.addSpans(p.Write, true)
	for _, u := range p.Leases {
		fp.addLease(u.Lease)
	}
	if !m.within(&fp) {
		return errLeft
	}
	if err := fp.checkKeys(); err != nil {
		return err
	}
	if m.locked(&fp) {
		return errLocked
	}
	for _, u := range p.Leases {
		if err := d.leaseOK(m, u.Lease, u.Key); err != nil {
			return err
		}
	}
	return nil
}

// decideCommit: the commit point. Only the anchor's own Prepare, still standing, lets it pass.
func (m *machine) decideCommit(d *decision, e *pb.Entry) error {
	id := toTxnID(e.Commit.Id)
	if m.findPrepared(id) == nil {
		d.refused, d.committed = errNoPrepare, m.records[id]
		return nil
	}
	d.epoch = max(m.epoch, shard.Epoch(e.Epoch))
	for _, eff := range e.Commit.Effects {
		if m.desc.Span.Contains(eff.ParticipantKey) {
			if err := m.applyEffects(d, eff, e.Commit.Revision); err != nil {
				return err
			}
		}
	}
	if len(d.change.Muts) > 0 { // without effects it stands at a revision that it does not own
		d.last = max(m.last, e.Commit.Revision)
	}
	d.resolved, d.record = &id, e.Commit
	d.change.State = append(d.change.State, mvcc.StateUpdate{Key: id.key(statePrep)},
		mvcc.StateUpdate{Key: id.key(stateRecord), Value: marshal(e.Commit)})
	return nil
}

func (m *machine) decideAbort(d *decision, a *pb.Abort) {
	id := toTxnID(a.Id)
	if c := m.records[id]; c != nil {
		d.committed = c
		return
	}
	if m.findPrepared(id) != nil {
		d.resolved = &id
		d.change.State = append(d.change.State, mvcc.StateUpdate{Key: id.key(statePrep)})
	}
}

// decideResolve is never refused; without a prepared transaction it has nothing to do.
func (m *machine) decideResolve(d *decision, e *pb.Entry) error {
	r := e.Resolve
	id := toTxnID(r.Id)
	d.epoch = max(m.epoch, shard.Epoch(e.Epoch))
	if m.findPrepared(id) == nil && !mutate.On(mutate.ResolveTwice) {
		return nil
	}
	if r.Committed {
		if err := m.applyEffects(d, r.Effects, r.Revision); err != nil {
			return err
		}
		if len(d.change.Muts) > 0 {
			d.last = max(m.last, r.Revision)
		}
	}
	d.resolved = &id
	d.change.State = append(d.change.State, mvcc.StateUpdate{Key: id.key(statePrep)})
	return nil
}

func (m *machine) decideDrop(d *decision, r *pb.Drop) {
	id := toTxnID(r.Id)
	if m.records[id] != nil {
		d.dropped = &id
		d.change.State = append(d.change.State, mvcc.StateUpdate{Key: id.key(stateRecord)})
	}
}

// applyEffects carries out a transaction's operations on spans that it has locked.
func (m *machine) applyEffects(d *decision, eff *pb.Effects, rev int64) error {
	if eff == nil {
		return nil
	}
	if len(eff.FirstSub) != len(eff.Ops) {
		return fmt.Errorf("%d operations with %d sub-revisions: %w", len(eff.Ops), len(eff.FirstSub), shard.ErrInvalid)
	}
	s := &mutations{scratch: scratch{base: m.base, at: math.MaxInt64, muts: d.change.Muts}, rev: rev, ended: d.dropHalf}
	ev := evaluator{view: s, sink: s, rev: rev, now: rev - 1, before: rev - 1, compacted: m.base.CompactRevision()}
	for i, op := range eff.Ops {
		if err := checkForm(op); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		s.sub = eff.FirstSub[i]
		if _, err := ev.run(op); err != nil {
			return fmt.Errorf("operation %d of a committed transaction: %w", i, err)
		}
	}
	d.change.Muts = s.muts
	return nil
}

func (m *machine) commitTxn(d *decision) {
	if d.resolved != nil {
		kept := make([]*prepared, 0, len(m.prepared))
		for _, p := range m.prepared {
			if p.id != *d.resolved {
				kept = append(kept, p)
			}
		}
		m.prepared = kept
	}
	if d.prepare != nil {
		m.prepared = append(m.prepared[:len(m.prepared):len(m.prepared)], d.prepare)
	}
	if d.record != nil {
		m.records[toTxnID(d.record.Id)] = d.record
	}
	if d.dropped != nil {
		delete(m.records, *d.dropped)
	}
}
