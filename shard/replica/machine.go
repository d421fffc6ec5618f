package replica

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// half is what the range knows of a lease (docs/format/entry.md): its puts are refused without one.
type half struct {
	grant    uint64 // meta index of the grant; 0 while pending
	span     shard.Span
	attached bool
}

// txnID names a transaction over several ranges.
type txnID struct {
	anchor    shard.RangeID
	term, seq uint64
}

func toTxnID(id *pb.TxnID) txnID {
	return txnID{anchor: shard.RangeID(id.GetAnchorRange()), term: id.GetTerm(), seq: id.GetSeq()}
}

// prepared is a transaction that holds locks here.
type prepared struct {
	id        txnID
	body      *pb.Prepare
	read      lockSet
	write     lockSet
	uses      []int64 // leases that its puts may name: they do not end before it
	floor     int64   // as its coordinator named it: it commits above
	effective int64   // max(floor, last revision applied when it was prepared): the feed ends here
}

// lockSet is a set of locked keys and spans. An expiry may lock many keys: those are found by hash.
type lockSet struct {
	keys map[string]struct{}
	wide []shard.Span
}

func newLockSet(spans []*pb.Span) lockSet {
	var s lockSet
	for _, p := range spans {
		span := pb.ToSpan(p)
		switch {
		case !span.IsPoint():
			s.wide = append(s.wide, span)
		case s.keys == nil:
			s.keys = map[string]struct{}{string(span.Start): {}}
		default:
			s.keys[string(span.Start)] = struct{}{}
		}
	}
	return s
}

func (s *lockSet) empty() bool { return len(s.keys) == 0 && len(s.wide) == 0 }

// overlaps reports whether the access touches a locked key.
func (s *lockSet) overlaps(a *access) bool {
	if a.key != nil {
		if _, ok := s.keys[string(a.key)]; ok {
			return true
		}
	} else {
		for k := range s.keys {
			if a.span.Contains([]byte(k)) {
				return true
			}
		}
	}
	for _, span := range s.wide {
		if a.overlapsSpan(span) {
			return true
		}
	}
	return false
}

// machine is the replicated state of a range that is not in the store's versions. It changes only by
// commit, with a decision that decide made; both depend on nothing but the log.
//
// The worker that applies is the only one that calls commit: it reads the fields freely, and
// writes them under the driver's mutex, under which all others read.
type machine struct {
	self shard.ReplicaID
	base Reader

	desc     shard.Descriptor
	index    uint64 // of the last applied entry
	raftTerm uint64 // and its term
	epoch    shard.Epoch
	last     int64 // the last revision applied, whether it had an effect or not
	closed   int64 // everything at or below is final here
	halves   map[int64]half
	prepared []*prepared
	records  map[txnID]*pb.Commit

	fp footprint // decide's scratch
}

// The store's keys for the machine's state.
const (
	stateEpoch  = "epoch"
	stateLast   = "last"
	stateHalf   = "half/"
	statePrep   = "prep/"
	stateRecord = "rec/"
)

// stateReader is how the machine finds its state in the store again.
type stateReader interface {
	Reader
	State(key string) []byte
	RangeState(prefix string, fn func(key string, v []byte) bool)
	Position() mvcc.Position
	LastRevision() int64
}

// loadMachine reads the state that the store holds. desc is the descriptor of the range's birth.
func loadMachine(self shard.ReplicaID, desc shard.Descriptor, st stateReader) (*machine, error) {
	m := &machine{self: self, base: st, desc: desc, halves: make(map[int64]half), records: make(map[txnID]*pb.Commit)}
	pos := st.Position()
	m.index, m.raftTerm = pos.Index, pos.Term
	m.epoch = shard.Epoch(stateUint(st.State(stateEpoch)))
	m.last = max(st.LastRevision(), int64(stateUint(st.State(stateLast))))
	var err error
	st.RangeState(stateHalf, func(key string, v []byte) bool {
		h := &pb.LeaseHalf{}
		if err = h.UnmarshalVT(v); err != nil {
			err = fmt.Errorf("%v: state %q: %w", desc.ID, key, err)
			return false
		}
		m.halves[h.Lease] = half{grant: h.GrantIndex, span: pb.ToSpan(h.Span), attached: h.Attached}
		return true
	})
	if err == nil {
		err = m.loadTxns(st)
	}
	if err != nil {
		return nil, err
	}
	m.closed = min(m.last, m.effectiveFloor())
	return m, nil
}

func stateUint(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func stateOfUint(key string, v uint64) mvcc.StateUpdate {
	return mvcc.StateUpdate{Key: key, Value: binary.BigEndian.AppendUint64(nil, v)}
}

func halfKey(lease int64) string { return fmt.Sprintf("%s%016x", stateHalf, uint64(lease)) }

// effectiveFloor is where feeds and histories end: math.MaxInt64 with nothing prepared.
func (m *machine) effectiveFloor() int64 {
	floor := int64(math.MaxInt64)
	for _, p := range m.prepared {
		if !p.write.empty() {
			floor = min(floor, p.effective)
		}
	}
	return floor
}

// final is the revision up to which this replica's content will not change any more: what is
// closed, and what the order of the log itself settles.
func (m *machine) final() int64 { return min(max(m.closed, m.last), m.effectiveFloor()) }

// locked reports whether a prepared transaction stands in the way of the accesses.
func (m *machine) locked(fp *footprint) bool {
	for _, p := range m.prepared {
		if p.blocks(fp) {
			return true
		}
	}
	return false
}

func (p *prepared) blocks(fp *footprint) bool {
	for i := range fp.acc {
		a := &fp.acc[i]
		if p.write.overlaps(a) || a.write && p.read.overlaps(a) {
			return true
		}
	}
	lease := p.body.GetLease()
	if lease != 0 && (lease == fp.expires || slices.Contains(fp.leases, lease)) {
		return true
	}
	return fp.expires != 0 && slices.Contains(p.uses, fp.expires)
}

// within reports whether the footprint lies in the range's span.
func (m *machine) within(fp *footprint) bool {
	for i := range fp.acc {
		if !fp.acc[i].within(m.desc.Span) {
			return false
		}
	}
	return true
}

// leaseOK says whether a put may use the lease at this position of the log.
func (m *machine) leaseOK(lease int64, key []byte) bool {
	h, ok := m.halves[lease]
	return ok && h.attached && h.span.Contains(key)
}

// halfReady says whether puts with the lease may skip meta.
func (m *machine) halfReady(lease int64) bool {
	h, ok := m.halves[lease]
	return ok && h.attached && h.span.ContainsSpan(m.desc.Span)
}

// advanceClosed notes that everything at or below rev is final. It reports whether that is news.
func (m *machine) advanceClosed(rev int64) bool {
	rev = min(rev, m.effectiveFloor())
	if rev <= m.closed {
		return false
	}
	m.closed = rev
	return true
}
