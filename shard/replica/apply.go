package replica

import (
	"errors"
	"fmt"
	"math"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// Reasons for which apply refuses a whole entry. The entry then has no effect on any replica.
var (
	errWrongTerm   = errors.New("the entry's revisions were asked for in another term")
	errLowEpoch    = errors.New("the entry's epoch is below the range's")
	errLowRevision = errors.New("the entry's first revision is not above the last one applied")
	errNoPrepare   = errors.New("the transaction's prepare no longer stands")
)

// Reasons for which apply refuses one request of a batch. They are part of what every replica
// decides alike; only the proposer acts on them, by beginning again.
var (
	errLocked   = errors.New("the request overlaps a transaction's lock")
	errLeft     = errors.New("the request leaves the range's span")
	errHalfGone = errors.New("the range's half of the lease is gone")
)

// refusal reports whether err means that the request had no effect and may begin again.
func refusal(err error) bool {
	return errors.Is(err, errLocked) || errors.Is(err, errLeft) || errors.Is(err, errHalfGone)
}

// halfChange is a decision about one lease half; remove drops it.
type halfChange struct {
	lease  int64
	half   half
	remove bool
}

// decision is what one entry of the log does. Making it changes nothing.
type decision struct {
	change  mvcc.Change
	entry   *pb.Entry // nil: Raft's own entry
	refused error     // the whole entry has no effect

	// Of a batch, for the proposer only: request i failed with errs[i], or has results[i].
	results []*pb.Result
	errs    []error
	wrote   []bool

	epoch    shard.Epoch // of the range from here on
	last     int64
	closed   int64
	halves   []halfChange
	prepare  *prepared  // stands from here on
	resolved *txnID     // no longer stands
	record   *pb.Commit // is kept from here on
	dropped  *txnID     // is forgotten
	// committed is the record that an Abort or an inquiry ran into.
	committed *pb.Commit
}

// decide evaluates the next entry of the log. An error means that the entry cannot be understood:
// the replica must not go on.
func (m *machine) decide(ent raftgroup.Entry) (*decision, error) {
	if ent.Index != m.index+1 && m.index != 0 {
		return nil, fmt.Errorf("%v: apply gap: entry %d after %d", m.desc.ID, ent.Index, m.index)
	}
	d := &decision{epoch: m.epoch, last: m.last}
	d.change.Pos = mvcc.Position{Index: ent.Index, Term: ent.Term}
	if ent.Data == nil {
		return d, nil
	}
	// The entry's bytes stay as they are, so keys and values may be parts of them.
	e := &pb.Entry{}
	if err := e.UnmarshalShared(ent.Data); err != nil {
		return nil, fmt.Errorf("%v: entry %d: %w", m.desc.ID, ent.Index, err)
	}
	d.entry = e
	if err := m.decideBody(d, e, ent.Term); err != nil {
		return nil, fmt.Errorf("%v: entry %d: %w", m.desc.ID, ent.Index, err)
	}
	if d.refused != nil {
		*d = decision{change: mvcc.Change{Pos: d.change.Pos}, entry: e, refused: d.refused,
			epoch: m.epoch, last: m.last, committed: d.committed}
		return d, nil
	}
	d.closed = e.Closed
	m.saveScalars(d)
	return d, nil
}

func (m *machine) decideBody(d *decision, e *pb.Entry, raftTerm uint64) error {
	// A Resolve holds whoever proposed it: it is the outcome of a decision that has been made.
	if e.Term != raftTerm && e.Resolve == nil {
		d.refused = errWrongTerm
		return nil
	}
	if e.Split != nil || e.Merge != nil || e.Freeze != nil {
		return fmt.Errorf("split, merge and freeze: %w", shard.ErrUnimplemented)
	}
	switch {
	case e.Batch != nil:
		return m.decideBatch(d, e)
	case e.EpochRaise != nil:
		d.epoch = max(d.epoch, shard.Epoch(e.Epoch))
	case e.LeaseHalf != nil:
		m.decideHalf(d, e.LeaseHalf)
	case e.CompactTo != nil:
		if c := e.CompactTo.Revision; c > m.base.CompactRevision() {
			d.change.CompactTo = c
		}
	case e.Prepare != nil:
		return m.decidePrepare(d, e)
	case e.Commit != nil:
		return m.decideCommit(d, e)
	case e.Abort != nil:
		m.decideAbort(d, e.Abort)
	case e.Resolve != nil:
		return m.decideResolve(d, e)
	case e.Drop != nil:
		m.decideDrop(d, e.Drop)
	default:
		return fmt.Errorf("the body is of an unknown kind: %w", shard.ErrUnimplemented)
	}
	return nil
}

// takeEpoch refuses an entry below the range's epoch and raises the range to a higher one.
func (m *machine) takeEpoch(d *decision, epoch uint64) bool {
	if shard.Epoch(epoch) < m.epoch {
		d.refused = errLowEpoch
		return false
	}
	d.epoch = shard.Epoch(epoch)
	return true
}

// saveScalars records what of the scalars the versions in the store do not show themselves.
func (m *machine) saveScalars(d *decision) {
	if d.epoch != m.epoch {
		d.change.State = append(d.change.State, stateOfUint(stateEpoch, uint64(d.epoch)))
	}
	if d.last == m.last {
		return
	}
	n := len(d.change.Muts)
	if n == 0 || d.change.Muts[n-1].Rev.Main != d.last {
		d.change.State = append(d.change.State, stateOfUint(stateLast, uint64(d.last)))
	}
}

func (m *machine) decideBatch(d *decision, e *pb.Entry) error {
	first, reqs := e.Batch.FirstRevision, e.Batch.Requests
	if !m.takeEpoch(d, e.Epoch) {
		return nil
	}
	if first <= max(m.last, m.base.CompactRevision()) || first >= unknownRevision-int64(len(reqs)) {
		d.refused = errLowRevision
		return nil
	}
	mine := e.Proposer == uint64(m.self)
	if mine {
		d.results = make([]*pb.Result, len(reqs))
		d.wrote = make([]bool, len(reqs))
	}
	s := &mutations{
		scratch: scratch{base: m.base, at: math.MaxInt64, muts: make([]mvcc.Mutation, 0, len(reqs))},
		leaseOK: func(l int64, key []byte) error { return d.leaseOK(m, l, key) },
		ended:   d.dropHalf,
	}
	ev := evaluator{view: s, sink: s, results: mine, compacted: m.base.CompactRevision()}
	if mine {
		ev.made = newResultSlab(len(reqs))
	}
	for i, op := range reqs {
		if err := checkForm(op); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		s.rev, s.sub = first+int64(i), 0
		ev.rev, ev.now, ev.before = s.rev, s.rev-1, s.rev-1
		before := len(s.muts)
		res, err := m.evaluate(&ev, s, op)
		if err != nil && !requestError(err) {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if !mine {
			continue
		}
		d.results[i], d.wrote[i] = res, len(s.muts) > before
		if err != nil {
			if d.errs == nil {
				d.errs = make([]error, len(reqs))
			}
			d.errs[i] = err
		}
	}
	d.change.Muts = s.muts
	d.last = first + int64(len(reqs)) - 1
	if len(reqs) == 0 {
		d.last = m.last
	}
	return nil
}

// evaluate carries out one request of a batch, unless it may not run at this position.
func (m *machine) evaluate(ev *evaluator, s *mutations, op *pb.Op) (*pb.Result, error) {
	m.fp.acc, m.fp.leases, m.fp.expires = m.fp.acc[:0], m.fp.leases[:0], 0
	m.fp.collect(op)
	if m.fp.expires != 0 && len(m.prepared) > 0 {
		keys, err := s.leaseKeys(m.fp.expires)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			m.fp.add(k, nil, true)
		}
	}
	if !m.within(&m.fp) {
		return nil, errLeft
	}
	if err := m.fp.checkKeys(); err != nil {
		return nil, err
	}
	if len(m.prepared) > 0 && m.locked(&m.fp) {
		return nil, errLocked
	}
	return ev.run(op)
}

// requestError reports whether err belongs to the request. Any other is the replica's own: it could
// not read its store.
func requestError(err error) bool {
	return refusal(err) || isCompacted(err) || errors.Is(err, shard.ErrKeyNotFound) ||
		errors.Is(err, shard.ErrFutureRevision) || errors.Is(err, shard.ErrInvalid)
}

// leaseOK is machine.leaseOK as of this point of the entry.
func (d *decision) leaseOK(m *machine, lease int64, key []byte) error {
	ok := m.leaseOK(lease, key)
	for _, h := range d.halves {
		if h.lease == lease {
			ok = !h.remove && h.half.attached && h.half.span.Contains(key)
			break
		}
	}
	if !ok {
		return errHalfGone
	}
	return nil
}

func (d *decision) dropHalf(lease int64) {
	d.halves = append(d.halves, halfChange{lease: lease, remove: true})
	d.change.State = append(d.change.State, mvcc.StateUpdate{Key: halfKey(lease)})
}

// decideHalf: a half is made pending, becomes attached only while it stands, and is removed either
// unless it has been attached (meta refused it) or whatever it is (the lease has gone).
func (m *machine) decideHalf(d *decision, h *pb.LeaseHalf) {
	old, stands := m.halves[h.Lease]
	switch {
	case h.Remove:
		if stands && (h.Attached || !old.attached) {
			d.dropHalf(h.Lease)
		}
		return
	case h.Attached && !stands, !h.Attached && stands:
		return
	}
	next := half{grant: h.GrantIndex, span: pb.ToSpan(h.Span), attached: h.Attached}
	d.halves = append(d.halves, halfChange{lease: h.Lease, half: next})
	d.change.State = append(d.change.State, mvcc.StateUpdate{Key: halfKey(h.Lease), Value: marshal(h)})
}

type marshaler interface{ MarshalVT() ([]byte, error) }

// marshal renders a message that we made: it cannot fail.
func marshal(m marshaler) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("replica: marshal: %v", err))
	}
	return b
}

// commit makes the decision the machine's state, after the store has applied its change.
func (m *machine) commit(d *decision) {
	m.index, m.raftTerm = d.change.Pos.Index, d.change.Pos.Term
	m.epoch, m.last = d.epoch, d.last
	for _, h := range d.halves {
		if h.remove {
			delete(m.halves, h.lease)
		} else {
			m.halves[h.lease] = h.half
		}
	}
	m.commitTxn(d)
	if d.closed > 0 {
		m.advanceClosed(d.closed)
	}
}
