package apply

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// Attachment is a lease's attachment to the range (docs/format/entry.md). Puts with the lease need one.
type Attachment struct {
	Grant    uint64 // meta index of the grant; 0 while pending
	span     shard.Span
	Attached bool
}

// TxnID names a transaction over several ranges. Anchor only makes it unique: it is the range where it began, and whoever
// holds the anchor key now may be another.
type TxnID struct {
	Anchor    shard.RangeID
	Term, Seq uint64
}

// ToTxnID reads the form that TxnID has in the log.
func ToTxnID(id *pb.TxnID) TxnID {
	return TxnID{Anchor: shard.RangeID(id.GetAnchorRange()), Term: id.GetTerm(), Seq: id.GetSeq()}
}

// ToPB is its form in the log.
func (id TxnID) ToPB() *pb.TxnID {
	return &pb.TxnID{AnchorRange: uint64(id.Anchor), Term: id.Term, Seq: id.Seq}
}

// Prepared is a transaction that holds locks here.
type Prepared struct {
	Id        TxnID
	Body      *pb.Prepare
	read      lockSet
	Write     lockSet
	leases    []int64 // that its puts may name; they do not end before it
	Floor     int64   // as its coordinator named it: it commits above
	Effective int64   // max(floor, last revision applied when it was prepared): the feed ends here
}

// lockSet is a set of locked keys and spans. An expiry may lock many keys: those are found by hash.
type lockSet struct {
	keys  map[string]struct{}
	spans []shard.Span
}

func newLockSet(spans []*pb.Span) lockSet {
	var s lockSet
	for _, p := range spans {
		span := pb.ToSpan(p)
		switch {
		case !span.IsPoint():
			s.spans = append(s.spans, span)
		case s.keys == nil:
			s.keys = map[string]struct{}{string(span.Start): {}}
		default:
			s.keys[string(span.Start)] = struct{}{}
		}
	}
	return s
}

func (s *lockSet) empty() bool { return len(s.keys) == 0 && len(s.spans) == 0 }

// Overlaps reports whether the access touches a locked key.
func (s *lockSet) Overlaps(a *eval.Access) bool {
	if a.Key != nil {
		if _, ok := s.keys[string(a.Key)]; ok {
			return true
		}
	} else {
		for k := range s.keys {
			if a.Span.Contains([]byte(k)) {
				return true
			}
		}
	}
	for _, span := range s.spans {
		if a.OverlapsSpan(span) {
			return true
		}
	}
	return false
}

// Machine is the replicated state of a range that is not in the store's versions. It changes only by Commit,
// with what Decide returned.
//
// Only the worker that applies calls Commit. It reads the fields without the driver's mutex and writes them
// under it. All others read under it.
type Machine struct {
	Self shard.ReplicaID
	Base eval.Reader

	Shape
	Index       uint64 // of the last applied entry
	raftTerm    uint64 // and its term
	Epoch       shard.Epoch
	Last        int64 // the last revision applied, whether it had an effect or not
	Closed      int64 // everything at or below is final here
	Attachments map[int64]Attachment
	Prepared    []*Prepared
	Records     map[TxnID]*pb.Commit

	fp eval.Footprint // of the request that Decide evaluates
}

// The store's keys for the machine's state.
const (
	StateEpoch      = "epoch"
	stateLast       = "last"
	stateAttachment = "half/"
	StatePrep       = "prep/"
	StateRecord     = "rec/"
)

// stateReader is how the machine finds its state in the store again.
type stateReader interface {
	eval.Reader
	State(key string) []byte
	RangeState(prefix string, fn func(key string, v []byte) bool)
	Position() mvcc.Position
	LastRevision() int64
}

// LoadMachine reads the state that the store holds. desc is what the range was created as, for a file that does not say what it is;
// of others the id is enough.
func LoadMachine(self shard.ReplicaID, desc shard.Descriptor, st stateReader) (*Machine, error) {
	m := &Machine{Self: self, Base: st, Attachments: make(map[int64]Attachment), Records: make(map[TxnID]*pb.Commit)}
	if err := m.Shape.load(desc, st); err != nil {
		return nil, err
	}
	pos := st.Position()
	m.Index, m.raftTerm = pos.Index, pos.Term
	m.Epoch = shard.Epoch(stateUint(st.State(StateEpoch)))
	m.Last = max(st.LastRevision(), int64(stateUint(st.State(stateLast))))
	var err error
	st.RangeState(stateAttachment, func(key string, v []byte) bool {
		h := &pb.LeaseHalf{}
		if err = h.UnmarshalVT(v); err != nil {
			err = fmt.Errorf("%v: state %q: %w", desc.ID, key, err)
			return false
		}
		m.Attachments[h.Lease] = Attachment{Grant: h.GrantIndex, span: pb.ToSpan(h.Span), Attached: h.Attached}
		return true
	})
	if err == nil {
		err = m.loadTxns(st)
	}
	if err != nil {
		return nil, err
	}
	m.Closed = min(m.Last, m.EffectiveFloor())
	return m, nil
}

func stateUint(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func uintUpdate(key string, v uint64) mvcc.StateUpdate {
	return mvcc.StateUpdate{Key: key, Value: binary.BigEndian.AppendUint64(nil, v)}
}

// AttachmentKey is the store's key for what the range knows of a lease.
func AttachmentKey(lease int64) string { return fmt.Sprintf("%s%016x", stateAttachment, uint64(lease)) }

// EffectiveFloor is where feeds and histories end: math.MaxInt64 with nothing prepared.
func (m *Machine) EffectiveFloor() int64 {
	floor := int64(math.MaxInt64)
	for _, p := range m.Prepared {
		if !p.Write.empty() {
			floor = min(floor, p.Effective)
		}
	}
	return floor
}

// Final is the revision up to which this replica's content will not change any more. That is what is closed, and
// what has been applied, because revisions ascend in the log.
func (m *Machine) Final() int64 { return min(max(m.Closed, m.Last), m.EffectiveFloor()) }

// Locked reports whether a prepared transaction stands in the way of the accesses.
func (m *Machine) Locked(fp *eval.Footprint) bool {
	for _, p := range m.Prepared {
		if p.blocks(fp) {
			return true
		}
	}
	return false
}

func (p *Prepared) blocks(fp *eval.Footprint) bool {
	for i := range fp.Acc {
		a := &fp.Acc[i]
		if p.Write.Overlaps(a) || a.Write && p.read.Overlaps(a) {
			return true
		}
	}
	lease := p.Body.GetLease()
	if lease != 0 && (lease == fp.Expires || slices.Contains(fp.Leases, lease)) {
		return true
	}
	return fp.Expires != 0 && slices.Contains(p.leases, fp.Expires)
}

// serves reports whether the range holds its keys for those who want what is newest.
func (m *Shape) serves() bool { return m.Frozen == nil || mutate.On(mutate.FrozenServes) }

// Within reports whether the footprint lies in the range's span.
func (m *Shape) Within(fp *eval.Footprint) bool {
	return m.serves() && fp.Within(m.Desc.Span)
}

// HoldsSpan reports whether the range holds the whole of a span that a request was sent for. An absent one means
// whatever the range holds.
func (m *Shape) HoldsSpan(span *pb.Span) bool {
	return m.serves() && (span == nil || m.Desc.Span.ContainsSpan(pb.ToSpan(span)))
}

// HoldsExpiry is HoldsSpan of an expiry. One that a range would carry out in a part of its span would leave keys behind
// whose lease is then forgotten (hazard 39).
func (m *Shape) HoldsExpiry(span *pb.Span) bool {
	return m.HoldsSpan(span) || mutate.On(mutate.ExpireNoSpan)
}

// WrongRange refuses a request for keys that the range does not hold. It certainly has no effect.
func (m *Shape) WrongRange() error {
	return &shard.WrongRangeError{Range: m.Desc.ID, Known: m.Known()}
}

// leaseOK says whether a put may use the lease at this position of the log.
func (m *Machine) leaseOK(lease int64, key []byte) bool {
	h, ok := m.Attachments[lease]
	return ok && h.Attached && h.span.Contains(key)
}

// LeaseUsable says whether puts with the lease may skip meta.
func (m *Machine) LeaseUsable(lease int64) bool {
	h, ok := m.Attachments[lease]
	return ok && h.Attached && h.span.ContainsSpan(m.Desc.Span)
}

// AdvanceClosed notes that everything at or below rev is final. It reports whether Closed has advanced.
func (m *Machine) AdvanceClosed(rev int64) bool {
	rev = min(rev, m.EffectiveFloor())
	if rev <= m.Closed {
		return false
	}
	m.Closed = rev
	return true
}
