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

// Reasons for which apply refuses a change of the descriptor. The range goes on as it is.
var (
	errNotInside  = errors.New("the key is not inside of the range")
	errStillLocks = errors.New("transactions hold locks in the range")
)

// The store's keys for what the range is.
const (
	// StateDesc is the range's descriptor. A file from before ranges could split has none: it holds the range as it
	// was born.
	StateDesc = "desc"
	stateDone = "split"
)

// Cut is a range that comes into being out of another.
type Cut struct {
	Left  shard.Descriptor // as it is behind the cut
	Right shard.Descriptor // the child's
	// State is what the child begins with, beside its keys.
	State []mvcc.StateUpdate
}

// Shape is what the range is.
type Shape struct {
	Desc shard.Descriptor
	Done *pb.ChangeDone // what became of the last change of the descriptor; nil: there was none
	// Frozen is why nothing happens in the range any more; nil: it is not frozen. A frozen range holds no key for those who want what is newest.
	Frozen *pb.Freeze
}

// reshape is a change of what the range is.
type reshape struct {
	desc    shard.Descriptor
	done    *pb.ChangeDone
	records []TxnID // that have gone with the child

	freezes bool // frozen is news
	frozen  *pb.Freeze
}

// DescUpdate stores a range's descriptor.
func DescUpdate(d shard.Descriptor) mvcc.StateUpdate {
	return mvcc.StateUpdate{Key: StateDesc, Value: Marshal(pb.FromDescriptor(d))}
}

// load reads what the range is. born is what it was created as.
func (m *Shape) load(born shard.Descriptor, st stateReader) error {
	m.Desc = born
	if v := st.State(StateDesc); v != nil {
		d := &pb.Descriptor{}
		if err := d.UnmarshalVT(v); err != nil {
			return fmt.Errorf("%v: state %q: %w", born.ID, StateDesc, err)
		}
		m.Desc = pb.ToDescriptor(d)
	}
	if m.Desc.ID != born.ID {
		return fmt.Errorf("%v: %w: the state is %v's", born.ID, shard.ErrCorrupt, m.Desc.ID)
	}
	if m.Desc.Generation == 0 || len(m.Desc.Replicas) == 0 {
		return fmt.Errorf("%v: %w: nothing says what the range is", born.ID, shard.ErrCorrupt)
	}
	if v := st.State(stateDone); v != nil {
		m.Done = &pb.ChangeDone{}
		if err := m.Done.UnmarshalVT(v); err != nil {
			return fmt.Errorf("%v: state %q: %w", born.ID, stateDone, err)
		}
	}
	return m.loadFrozen(st)
}

// Known is what this replica knows of ranges: its own, and the one that was cut off last.
func (m *Shape) Known() []shard.Descriptor {
	known := []shard.Descriptor{m.Desc}
	if c := m.Done.GetChild(); c != nil {
		known = append(known, pb.ToDescriptor(c))
	}
	return known
}

// CheckSplit says why a split has no effect at this position of the log; nil: it has.
func (m *Shape) CheckSplit(s *pb.Split) error {
	if err := m.Moving().CheckChange(s.Generation); err != nil {
		return err
	}
	switch {
	case m.Frozen != nil:
		return errFrozen
	case !m.Desc.Span.PartedBy(s.At):
		return fmt.Errorf("%w: %q is not between the borders of %v", errNotInside, s.At, m.Desc.ID)
	case len(s.Replicas) != len(m.Desc.Replicas):
		return fmt.Errorf("%w: %d replicas for the %d of the range", shard.ErrInvalid, len(s.Replicas), len(m.Desc.Replicas))
	case s.Child == 0 || shard.RangeID(s.Child) == m.Desc.ID:
		return fmt.Errorf("%w: a split into the range itself", shard.ErrInvalid)
	}
	for _, r := range s.Replicas {
		if _, beside := m.Desc.ReplicaOn(shard.NodeID(r.NodeId)); !beside || r.ReplicaId == 0 {
			return fmt.Errorf("%w: a replica of the new range on node %v, which has none of the old", shard.ErrInvalid, shard.NodeID(r.NodeId))
		}
	}
	return nil
}

// checkDrained refuses a change that needs the range without locks. The leader has drained it (hazard 64); an entry that comes otherwise has no effect,
// because a lock cannot be in two ranges.
func checkDrained(m *Machine) error {
	if len(m.Prepared) > 0 && !mutate.On(mutate.SplitKeepsLocks) {
		return errStillLocks
	}
	return nil
}

// decideSplit cuts the range.
func decideSplit(m *Machine, d *Decision, s *pb.Split) {
	if d.Refused = cmp.Or(m.CheckSplit(s), checkDrained(m)); d.Refused != nil {
		return
	}
	left, right := m.Desc.Cut(s.At, shard.RangeID(s.Child))
	right.Replicas = pb.ToReplicas(s.Replicas)
	cut := &Cut{Left: left, Right: right}
	cut.State = append(cut.State, DescUpdate(right), uintUpdate(StateEpoch, uint64(m.Epoch)), uintUpdate(stateLast, uint64(m.Last)))
	for lease, a := range m.Attachments { // wider than either part: they end where the lease ends
		h := &pb.LeaseHalf{Lease: lease, GrantIndex: a.Grant, Span: pb.FromSpan(a.span), Attached: a.Attached}
		cut.State = append(cut.State, mvcc.StateUpdate{Key: AttachmentKey(lease), Value: Marshal(h)})
	}
	re := reshapeTo(d, left, &pb.ChangeDone{Op: s.Op, Child: pb.FromDescriptor(right)})
	for id, c := range m.Records {
		if right.Span.Contains(AnchorKey(c)) && !mutate.On(mutate.RecordStays) {
			re.records = append(re.records, id)
			cut.State = append(cut.State, mvcc.StateUpdate{Key: id.key(StateRecord), Value: Marshal(c)})
			d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: id.key(StateRecord)})
		}
	}
	d.Cut = cut
}

// AnchorKey is a key of the transaction's anchor: the record is where it is. Effects are in key order, and there are some, if
// empty ones, for every participant; the anchor is the participant with the lowest key. So it is the key that all Prepares name, and at
// which inquiries are made. It may be nil for the smallest key, which no right part holds.
func AnchorKey(c *pb.Commit) []byte {
	if len(c.Effects) == 0 {
		return nil
	}
	return c.Effects[0].GetParticipantKey()
}

func (m *Shape) decideRise(d *Decision, g *pb.GenRise) {
	after, err := m.Moving().Rise(g)
	if d.Refused = err; err == nil {
		reshapeTo(d, after.Desc, after.Done)
	}
}

func reshapeTo(d *Decision, desc shard.Descriptor, done *pb.ChangeDone) *reshape {
	d.reshape = &reshape{desc: desc, done: done}
	d.Change.State = append(d.Change.State, DescUpdate(desc), mvcc.StateUpdate{Key: stateDone, Value: Marshal(done)})
	return d.reshape
}

// Reshaped reports whether the entry changes the range's descriptor.
func (d *Decision) Reshaped() bool { return d.reshape != nil }
