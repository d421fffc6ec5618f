package apply

import (
	"fmt"
	"math"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// This file is apply's side of transactions over several ranges. It alone decides their outcomes.

func (id TxnID) key(prefix string) string {
	return fmt.Sprintf("%s%016x/%016x/%016x", prefix, uint64(id.Anchor), id.Term, id.Seq)
}

func newPrepared(p *pb.Prepare, effective int64) *Prepared {
	out := &Prepared{
		Id: ToTxnID(p.Id), Body: p, Floor: p.Floor, Effective: effective,
		read: newLockSet(p.Read), Write: newLockSet(p.Write),
	}
	for _, u := range p.Leases {
		if !slices.Contains(out.leases, u.Lease) {
			out.leases = append(out.leases, u.Lease)
		}
	}
	return out
}

func (m *Machine) loadTxns(st stateReader) error {
	var err error
	st.RangeState(StatePrep, func(key string, v []byte) bool {
		p := &pb.Prepare{}
		if len(v) < 8 {
			err = fmt.Errorf("%v: state %q is too short", m.Desc.ID, key)
			return false
		}
		if err = p.UnmarshalVT(v[8:]); err != nil {
			err = fmt.Errorf("%v: state %q: %w", m.Desc.ID, key, err)
			return false
		}
		m.Prepared = append(m.Prepared, newPrepared(p, int64(stateUint(v[:8]))))
		return true
	})
	if err != nil {
		return err
	}
	st.RangeState(StateRecord, func(key string, v []byte) bool {
		c := &pb.Commit{}
		if err = c.UnmarshalVT(v); err != nil {
			err = fmt.Errorf("%v: state %q: %w", m.Desc.ID, key, err)
			return false
		}
		m.Records[ToTxnID(c.Id)] = c
		return true
	})
	return err
}

// FindPrepared returns the transaction if it holds locks here, else nil.
func (m *Machine) FindPrepared(id TxnID) *Prepared {
	for _, p := range m.Prepared {
		if p.Id == id {
			return p
		}
	}
	return nil
}

// SamePart reports whether what is prepared is the part of the transaction that is to be. Two parts that were planned for two ranges may meet in one,
// after a merge: the lock of one is not that of the other, and their effects would be applied as one part's.
func SamePart(is, toBe *pb.Prepare) bool {
	same := func(a, b []*pb.Span) bool {
		return slices.EqualFunc(a, b, func(x, y *pb.Span) bool { return pb.ToSpan(x).Equal(pb.ToSpan(y)) })
	}
	if is.Lease != 0 || toBe.Lease != 0 { // an expiry, whose keys are only found here; of one that came too late nothing is left
		return is.ExpireSpan == nil || pb.ToSpan(is.ExpireSpan).Equal(pb.ToSpan(toBe.ExpireSpan))
	}
	return same(is.Read, toBe.Read) && same(is.Write, toBe.Write)
}

func (m *Machine) decidePrepare(d *Decision, e *pb.Entry) error {
	if e.Prepare.Id == nil {
		return fmt.Errorf("a prepare without a transaction: %w", shard.ErrInvalid)
	}
	if !m.advanceEpoch(d, e.Epoch) {
		return nil
	}
	id := ToTxnID(e.Prepare.Id)
	if st := m.FindPrepared(id); st != nil && !SamePart(st.Body, e.Prepare) && !mutate.On(mutate.PrepareAny) {
		d.Refused = ErrOutsideSpan
		return nil
	} else if st != nil || m.Records[id] != nil {
		return nil
	}
	if d.Refused = m.checkPrepare(d, e.Prepare); d.Refused != nil {
		return nil
	}
	d.Prepare = newPrepared(e.Prepare, max(e.Prepare.Floor, m.Last))
	v := uintUpdate(id.key(StatePrep), uint64(d.Prepare.Effective))
	v.Value = append(v.Value, Marshal(e.Prepare)...)
	d.Change.State = append(d.Change.State, v)
	return nil
}

// checkPrepare returns why the transaction may not lock at this position of the log.
func (m *Machine) checkPrepare(d *Decision, p *pb.Prepare) error {
	fp := eval.Footprint{Expires: p.Lease}
	fp.AddSpans(p.Read, false)
	fp.AddSpans(p.Write, true)
	for _, u := range p.Leases {
		fp.AddLease(u.Lease)
	}
	if !m.Within(&fp) || !m.HoldsExpiry(p.ExpireSpan) {
		return ErrOutsideSpan
	}
	if err := fp.CheckKeys(); err != nil {
		return err
	}
	if m.Locked(&fp) {
		return errLocked
	}
	for _, u := range p.Leases {
		if err := d.leaseOK(m, u.Lease, u.Key); err != nil {
			return err
		}
	}
	return nil
}

// decideCommit decides the commit point. It passes only while the transaction is prepared in the anchor.
func (m *Machine) decideCommit(d *Decision, e *pb.Entry) error {
	id := ToTxnID(e.Commit.Id)
	if m.FindPrepared(id) == nil {
		d.Refused, d.committed = ErrNoPrepare, m.Records[id]
		return nil
	}
	d.epoch = max(m.Epoch, shard.Epoch(e.Epoch))
	for _, eff := range e.Commit.Effects {
		if m.Desc.Span.Contains(eff.ParticipantKey) {
			if err := m.applyEffects(d, eff, e.Commit.Revision); err != nil {
				return err
			}
		}
	}
	if len(d.Change.Muts) > 0 { // without effects it stands at a revision that it does not own
		d.Last = max(m.Last, e.Commit.Revision)
	}
	d.Resolved, d.record = &id, e.Commit
	d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: id.key(StatePrep)},
		mvcc.StateUpdate{Key: id.key(StateRecord), Value: Marshal(e.Commit)})
	return nil
}

func (m *Machine) decideAbort(d *Decision, a *pb.Abort) {
	id := ToTxnID(a.Id)
	if c := m.Records[id]; c != nil {
		d.committed = c
		return
	}
	if m.FindPrepared(id) != nil {
		d.Resolved = &id
		d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: id.key(StatePrep)})
	}
}

// decideResolve is refused only where the participant's key is not held here. It does nothing if the transaction is
// not prepared here. The two must not be confused: an outcome that is acknowledged is never sent again, and whoever
// holds the key would ask for it when the record has gone (hazard 60).
func (m *Machine) decideResolve(d *Decision, e *pb.Entry) error {
	r := e.Resolve
	if len(r.Key) > 0 && !m.Desc.Span.Contains(r.Key) && !mutate.On(mutate.ResolveNoKey) {
		d.Refused = ErrOutsideSpan
		return nil
	}
	id := ToTxnID(r.Id)
	d.epoch = max(m.Epoch, shard.Epoch(e.Epoch))
	if m.FindPrepared(id) == nil && !mutate.On(mutate.ResolveTwice) {
		return nil
	}
	if r.Committed {
		if err := m.applyEffects(d, r.Effects, r.Revision); err != nil {
			return err
		}
		if len(d.Change.Muts) > 0 {
			d.Last = max(m.Last, r.Revision)
		}
	}
	d.Resolved = &id
	d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: id.key(StatePrep)})
	return nil
}

func (m *Machine) decideDrop(d *Decision, r *pb.Drop) {
	id := ToTxnID(r.Id)
	if m.Records[id] != nil {
		d.dropped = &id
		d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: id.key(StateRecord)})
	}
}

// applyEffects carries out a transaction's operations on spans that it has locked.
func (m *Machine) applyEffects(d *Decision, eff *pb.Effects, rev int64) error {
	if eff == nil {
		return nil
	}
	if len(eff.FirstSub) != len(eff.Ops) {
		return fmt.Errorf("%d operations with %d sub-revisions: %w", len(eff.Ops), len(eff.FirstSub), shard.ErrInvalid)
	}
	s := &eval.Mutations{Overlay: eval.Overlay{Base: m.Base, At: math.MaxInt64, Muts: d.Change.Muts}, Rev: rev, OnExpired: d.dropAttachment}
	ev := eval.Evaluator{View: s, Sink: s, Rev: rev, Current: rev - 1, PriorRev: rev - 1, Compacted: m.Base.CompactRevision()}
	for i, op := range eff.Ops {
		if err := eval.CheckForm(op); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		s.Sub = eff.FirstSub[i]
		if _, err := ev.Run(op); err != nil {
			return fmt.Errorf("operation %d of a committed transaction: %w", i, err)
		}
	}
	d.Change.Muts = s.Muts
	return nil
}

func (m *Machine) commitTxn(d *Decision) {
	if d.Resolved != nil {
		kept := make([]*Prepared, 0, len(m.Prepared))
		for _, p := range m.Prepared {
			if p.Id != *d.Resolved {
				kept = append(kept, p)
			}
		}
		m.Prepared = kept
	}
	if d.Prepare != nil {
		m.Prepared = append(m.Prepared[:len(m.Prepared):len(m.Prepared)], d.Prepare)
	}
	if d.record != nil {
		m.Records[ToTxnID(d.record.Id)] = d.record
	}
	if d.dropped != nil {
		delete(m.Records, *d.dropped)
	}
}
