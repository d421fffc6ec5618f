package apply

import (
	"cmp"
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// A range becomes part of its left neighbour in two entries, one in the log of each:
//
//	right: Freeze: from here on nothing in its log has an effect, and nothing is linearized there
//	left:  Merge:  what the right is as of its freeze is the left's from here on
//
// In between all replicas of the right have said that they are frozen, so whichever replica of the left comes to its entry, however late, finds the
// same right beside it. To give up, the left rises to another generation first: then no Merge can apply any more, and the right is thawed.

var (
	errFrozen    = errors.New("the range is frozen: it is about to become part of its left neighbour")
	errNotFrozen = errors.New("the range is not frozen for that")
)

const stateFrozen = "frozen"

// loadFrozen reads whether the range is frozen.
func (m *Shape) loadFrozen(st stateReader) error {
	v := st.State(stateFrozen)
	if v == nil {
		return nil
	}
	m.Frozen = &pb.Freeze{}
	if err := m.Frozen.UnmarshalVT(v); err != nil {
		return fmt.Errorf("%v: state %q: %w", m.Desc.ID, stateFrozen, err)
	}
	return nil
}

// FrozenFor reports whether the range is frozen for an op.
func (m *Shape) FrozenFor(op uint64) bool { return m.Frozen != nil && m.Frozen.Op == op }

// PartOf reports whether a frozen range has become part of its left neighbour, as that is.
func (m *Shape) PartOf(left *Shape) bool {
	return m.FrozenFor(left.Done.GetOp()) && left.Done.Merged == uint64(m.Desc.ID)
}

// AwaitedBy reports whether a range, as a replica of it has applied, may still need the replica of this frozen one beside it, though the map has that no
// more: it is the left neighbour and has to apply the merge yet, or one of which that has to be cut off yet (hazards 52, 53). A range that has only later
// come to hold the left's keys does not.
func (m *Shape) AwaitedBy(d shard.Descriptor) bool {
	f := m.Frozen
	if d.ID == shard.RangeID(f.Left) {
		return d.Generation <= shard.Generation(f.LeftGeneration)
	}
	return d.ID != m.Desc.ID && d.Span.Contains(f.LeftStart) && d.Generation < shard.Generation(f.LeftGeneration)
}

// stands reports whether an entry has no effect because the range is frozen.
func (m *Shape) stands(e *pb.Entry) bool {
	return m.Frozen != nil && !(e.Freeze != nil && e.Freeze.Thaw) && !mutate.On(mutate.FrozenGoesOn)
}

// decideFreeze freezes the range, or lets it go on. One that was not frozen is thawed by making it impossible that it is frozen later.
func decideFreeze(m *Machine, d *Decision, f *pb.Freeze) {
	switch {
	case f.Thaw && !m.FrozenFor(f.Op) && (m.Frozen != nil || m.Moving().CheckGeneration(f.Generation) != nil):
		d.Refused = errNotFrozen
		return
	case !f.Thaw:
		if d.Refused = cmp.Or(m.Moving().CheckChange(f.Generation), checkDrained(m)); d.Refused != nil {
			return
		}
	}
	next := m.Desc
	next.Generation++
	re := reshapeTo(d, next, &pb.ChangeDone{Op: f.Op})
	re.freezes = true
	up := mvcc.StateUpdate{Key: stateFrozen}
	if !f.Thaw {
		re.frozen, up.Value, d.Freezes = f, Marshal(f), true
	}
	d.Change.State = append(d.Change.State, up)
}

// CheckMerge says why a merge has no effect at this position of the log; nil: it has.
func (m *Shape) CheckMerge(mg *pb.Merge) error {
	if err := m.Moving().CheckChange(mg.Generation); err != nil {
		return err
	}
	if mg.Right == 0 || shard.RangeID(mg.Right) == m.Desc.ID || len(m.Desc.Span.End) == 0 {
		return fmt.Errorf("%w: %v cannot become part of %v", shard.ErrInvalid, shard.RangeID(mg.Right), m.Desc.ID)
	}
	return nil
}

func decideMerge(m *Machine, d *Decision, mg *pb.Merge) {
	if d.Refused = cmp.Or(m.CheckMerge(mg), checkDrained(m)); d.Refused != nil {
		return
	}
	after := m.Desc
	after.Span.End, after.Generation = mg.End, shard.Generation(mg.After)
	if after.Generation <= m.Desc.Generation || after.Generation <= shard.Generation(mg.RightGeneration)+1 || len(mg.End) > 0 && shard.CompareEnd(mg.End, m.Desc.Span.End) <= 0 {
		d.Refused = fmt.Errorf("%w: a merge to %v at generation %d", shard.ErrInvalid, after.Span, after.Generation)
		return
	}
	reshapeTo(d, after, &pb.ChangeDone{Op: mg.Op, Merged: mg.Right})
	d.Merge = mg
}

// Unite is the whole state of the store that a merge leaves: that of the left with what the decision changes in it, and what the right adds. Halves of a
// lease are united where both are attached for the same grant, and else never widened; of two grants the later one counts, for the earlier has
// ended. A record is where its anchor key is.
func Unite(m *Machine, d *Decision, left, right stateReader, r *Machine) ([]mvcc.StateUpdate, error) {
	state := map[string][]byte{}
	left.RangeState("", func(key string, v []byte) bool { state[key] = v; return true })
	for _, u := range d.Change.State {
		if u.Value == nil {
			delete(state, u.Key)
		} else {
			state[u.Key] = u.Value
		}
	}
	delete(state, stateFrozen)
	for lease, theirs := range r.Attachments {
		ours, both := m.Attachments[lease]
		a := theirs
		switch {
		case mutate.On(mutate.MergeDropsLeases) && both, both && ours.Grant > theirs.Grant:
			continue
		case both && ours.Grant == theirs.Grant && ours.Attached && (theirs.Attached || mutate.On(mutate.MergeWidens)) && string(ours.span.End) == string(theirs.span.Start) && len(ours.span.End) > 0:
			a.span.Start = ours.span.Start
		case both && ours.Grant == theirs.Grant && ours.Attached:
			a = ours // as wide as either was
			if theirs.Attached && theirs.span.ContainsSpan(ours.span) {
				a = theirs
			}
		}
		state[AttachmentKey(lease)] = Marshal(&pb.LeaseHalf{Lease: lease, GrantIndex: a.Grant, Span: pb.FromSpan(a.span), Attached: a.Attached})
	}
	var err error
	right.RangeState("", func(key string, v []byte) bool {
		switch {
		case hasPrefix(key, StateRecord):
			if !mutate.On(mutate.MergeDropsRecords) {
				state[key] = v
			}
		case hasPrefix(key, StatePrep):
			err = fmt.Errorf("%w: %v has locks behind its freeze", shard.ErrCorrupt, r.Desc.ID)
		}
		return err == nil
	})
	for _, u := range []mvcc.StateUpdate{uintUpdate(StateEpoch, uint64(max(m.Epoch, r.Epoch))), uintUpdate(stateLast, uint64(max(m.Last, r.Last)))} {
		state[u.Key] = u.Value
	}
	out := make([]mvcc.StateUpdate, 0, len(state))
	for key, v := range state {
		out = append(out, mvcc.StateUpdate{Key: key, Value: v})
	}
	return out, err
}

func hasPrefix(key, prefix string) bool {
	return len(key) >= len(prefix) && key[:len(prefix)] == prefix
}

// Replace makes m the machine of another store, in place: whoever leads goes on with it. What was closed in both stays so.
func Replace(m, by *Machine, closed int64) {
	self, fp := m.Self, m.fp
	*m = *by
	m.Self, m.fp = self, fp
	m.AdvanceClosed(closed)
}
