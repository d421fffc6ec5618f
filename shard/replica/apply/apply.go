package apply

import (
	"errors"
	"fmt"
	"math"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// Reasons for which apply refuses a whole entry. The entry then has no effect on any replica.
var (
	ErrWrongTerm   = errors.New("the entry's revisions were asked for in another term")
	ErrLowEpoch    = errors.New("the entry's epoch is below the range's")
	errLowRevision = errors.New("the entry's first revision is not above the last one applied")
	ErrNoPrepare   = errors.New("the transaction's prepare no longer stands")
	// ErrOutsideSpan is one of a request too.
	ErrOutsideSpan = errors.New("the request leaves the range's span")
)

// Reasons for which apply refuses one request of a batch. Every replica decides them alike. The proposer
// restarts the request.
var (
	errLocked        = errors.New("the request overlaps a transaction's lock")
	errLeaseDetached = errors.New("the lease is not attached to the range")
)

// Refusal reports whether err means that the request had no effect and may begin again.
func Refusal(err error) bool {
	return errors.Is(err, errLocked) || errors.Is(err, ErrOutsideSpan) || errors.Is(err, errLeaseDetached)
}

// attachmentChange is a change of one lease's attachment.
type attachmentChange struct {
	lease      int64
	attachment Attachment
	remove     bool
}

// Decision is what one entry of the log does. Making it changes nothing.
type Decision struct {
	Change  mvcc.Change
	Entry   *pb.Entry // nil: Raft's own entry
	Refused error     // the whole entry has no effect

	// Of a batch, for the proposer only: request i failed with errs[i], or has results[i].
	Results []*pb.Result
	Errs    []error
	Wrote   []bool

	epoch       shard.Epoch // of the range from here on
	Last        int64
	closed      int64
	attachments []attachmentChange
	Prepare     *Prepared    // stands from here on
	Resolved    *TxnID       // no longer stands
	record      *pb.Commit   // is kept from here on
	dropped     *TxnID       // is forgotten
	Cut         *Cut         // a range comes into being; before the change is applied
	Merge       *pb.Merge    // the right neighbour becomes part of the range: before the decision is committed the caller makes one store of both
	Freezes     bool         // nothing behind it has an effect
	Moved       *pb.MoveStep // who holds the range changes
	reshape     *reshape
	// committed is the record that an Abort or an inquiry ran into.
	committed *pb.Commit
}

// Entry is one committed entry of the range's log.
type Entry struct {
	Index, Term uint64
	Data        []byte // nil: Raft's own
	Context     []byte // of Raft's own: what came with a change of the configuration
}

// Decide evaluates the next entry of the log. An error means that the entry cannot be understood:
// the replica must not go on.
func (m *Machine) Decide(ent Entry) (*Decision, error) {
	if ent.Index != m.Index+1 && m.Index != 0 {
		return nil, fmt.Errorf("%v: apply gap: entry %d after %d", m.Desc.ID, ent.Index, m.Index)
	}
	d := &Decision{epoch: m.Epoch, Last: m.Last}
	d.Change.Pos = mvcc.Position{Index: ent.Index, Term: ent.Term}
	if ent.Context != nil {
		return d, decideMove(m, d, ent.Context)
	}
	if ent.Data == nil {
		return d, nil
	}
	// The entry's bytes stay as they are, so keys and values may be parts of them.
	e := &pb.Entry{}
	if err := e.UnmarshalShared(ent.Data); err != nil {
		return nil, fmt.Errorf("%v: entry %d: %w", m.Desc.ID, ent.Index, err)
	}
	d.Entry = e
	if err := m.decideBody(d, e, ent.Term); err != nil {
		return nil, fmt.Errorf("%v: entry %d: %w", m.Desc.ID, ent.Index, err)
	}
	if d.Refused != nil {
		*d = Decision{Change: mvcc.Change{Pos: d.Change.Pos}, Entry: e, Refused: d.Refused,
			epoch: m.Epoch, Last: m.Last, committed: d.committed}
		return d, nil
	}
	d.closed = e.Closed
	m.saveScalars(d)
	return d, nil
}

func (m *Machine) decideBody(d *Decision, e *pb.Entry, raftTerm uint64) error {
	// A Resolve is valid in any term: it is the outcome of a decision that has been made.
	if e.Term != raftTerm && e.Resolve == nil {
		d.Refused = ErrWrongTerm
		return nil
	}
	if m.stands(e) {
		d.Refused = errFrozen
		return nil
	}
	switch {
	case e.Batch != nil:
		return m.decideBatch(d, e)
	case e.EpochRaise != nil:
		d.epoch = max(d.epoch, shard.Epoch(e.Epoch))
	case e.LeaseHalf != nil:
		m.decideAttachment(d, e.LeaseHalf)
	case e.CompactTo != nil:
		m.decideCompaction(d, e.CompactTo)
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
	case e.Split != nil:
		decideSplit(m, d, e.Split)
	case e.Freeze != nil:
		decideFreeze(m, d, e.Freeze)
	case e.Merge != nil:
		decideMerge(m, d, e.Merge)
	case e.GenRise != nil:
		m.decideRise(d, e.GenRise)
	default:
		return fmt.Errorf("the body is of an unknown kind: %w", shard.ErrUnimplemented)
	}
	return nil
}

// decideCompaction refuses a compaction of more than the range holds. Whoever asked would take it for done everywhere in
// the span, and the part that was cut off would never hear of it (hazard 40).
func (m *Machine) decideCompaction(d *Decision, c *pb.CompactTo) {
	if !m.HoldsSpan(c.Span) && !mutate.On(mutate.CompactNoSpan) {
		d.Refused = ErrOutsideSpan
		return
	}
	if c.Revision > m.Base.CompactRevision() {
		d.Change.CompactTo = c.Revision
	}
}

// advanceEpoch refuses an entry below the range's epoch and raises the range to a higher one.
func (m *Machine) advanceEpoch(d *Decision, epoch uint64) bool {
	if shard.Epoch(epoch) < m.Epoch {
		d.Refused = ErrLowEpoch
		return false
	}
	d.epoch = shard.Epoch(epoch)
	return true
}

// saveScalars saves the scalars that do not follow from the versions in the store.
func (m *Machine) saveScalars(d *Decision) {
	if d.epoch != m.Epoch {
		d.Change.State = append(d.Change.State, uintUpdate(StateEpoch, uint64(d.epoch)))
	}
	if d.Last == m.Last {
		return
	}
	n := len(d.Change.Muts)
	if n == 0 || d.Change.Muts[n-1].Rev.Main != d.Last {
		d.Change.State = append(d.Change.State, uintUpdate(stateLast, uint64(d.Last)))
	}
}

func (m *Machine) decideBatch(d *Decision, e *pb.Entry) error {
	first, reqs := e.Batch.FirstRevision, e.Batch.Requests
	if !m.advanceEpoch(d, e.Epoch) {
		return nil
	}
	if first <= max(m.Last, m.Base.CompactRevision()) || first >= eval.UnknownRevision-int64(len(reqs)) {
		d.Refused = errLowRevision
		return nil
	}
	mine := e.Proposer == uint64(m.Self)
	if mine {
		d.Results = make([]*pb.Result, len(reqs))
		d.Wrote = make([]bool, len(reqs))
	}
	s := &eval.Mutations{
		Overlay:   eval.Overlay{Base: m.Base, At: math.MaxInt64, Muts: make([]mvcc.Mutation, 0, len(reqs))},
		LeaseOK:   func(l int64, key []byte) error { return d.leaseOK(m, l, key) },
		OnExpired: d.dropAttachment,
	}
	ev := eval.Evaluator{View: s, Sink: s, Results: mine, Compacted: m.Base.CompactRevision()}
	if mine {
		ev.Alloc = eval.NewResultSlab(len(reqs))
	}
	for i, op := range reqs {
		if err := eval.CheckForm(op); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		s.Rev, s.Sub = first+int64(i), 0
		ev.Rev, ev.Current, ev.PriorRev = s.Rev, s.Rev-1, s.Rev-1
		before := len(s.Muts)
		res, err := m.evaluate(&ev, s, op)
		if err != nil && !RequestError(err) {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if !mine {
			continue
		}
		d.Results[i], d.Wrote[i] = res, len(s.Muts) > before
		if err != nil {
			if d.Errs == nil {
				d.Errs = make([]error, len(reqs))
			}
			d.Errs[i] = err
		}
	}
	d.Change.Muts = s.Muts
	d.Last = first + int64(len(reqs)) - 1
	if len(reqs) == 0 {
		d.Last = m.Last
	}
	return nil
}

// evaluate carries out one request of a batch, unless it may not run at this position.
func (m *Machine) evaluate(ev *eval.Evaluator, s *eval.Mutations, op *pb.Op) (*pb.Result, error) {
	m.fp.Acc, m.fp.Leases, m.fp.Expires = m.fp.Acc[:0], m.fp.Leases[:0], 0
	m.fp.Collect(op)
	if m.fp.Expires != 0 && len(m.Prepared) > 0 {
		keys, err := s.LeaseKeys(m.fp.Expires)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			m.fp.Add(k, nil, true)
		}
	}
	if !m.Within(&m.fp) && !mutate.On(mutate.ApplyNoSpan) || !m.HoldsExpiry(op.ExpireSpan) {
		return nil, ErrOutsideSpan
	}
	if err := m.fp.CheckKeys(); err != nil {
		return nil, err
	}
	if len(m.Prepared) > 0 && m.Locked(&m.fp) {
		return nil, errLocked
	}
	return ev.Run(op)
}

// RequestError reports whether err belongs to the request. Any other is the replica's own: it could
// not read its store.
func RequestError(err error) bool {
	return Refusal(err) || eval.IsCompacted(err) || errors.Is(err, shard.ErrKeyNotFound) ||
		errors.Is(err, shard.ErrFutureRevision) || errors.Is(err, shard.ErrInvalid)
}

// leaseOK is machine.leaseOK as of this point of the entry.
func (d *Decision) leaseOK(m *Machine, lease int64, key []byte) error {
	ok := m.leaseOK(lease, key)
	for _, h := range d.attachments {
		if h.lease == lease {
			ok = !h.remove && h.attachment.Attached && h.attachment.span.Contains(key)
			break
		}
	}
	if !ok {
		return errLeaseDetached
	}
	return nil
}

func (d *Decision) dropAttachment(lease int64) {
	d.attachments = append(d.attachments, attachmentChange{lease: lease, remove: true})
	d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: AttachmentKey(lease)})
}

// decideAttachment decides the entries of an attachment. It is created as pending, and becomes attached only
// while it exists. An entry removes it if it is pending, because meta has refused, or in any state, because the
// lease ends.
func (m *Machine) decideAttachment(d *Decision, h *pb.LeaseHalf) {
	old, stands := m.Attachments[h.Lease]
	switch {
	case h.Remove:
		if stands && (h.Attached || !old.Attached) {
			d.dropAttachment(h.Lease)
		}
		return
	case h.Attached && !stands, !h.Attached && stands:
		return
	}
	next := Attachment{Grant: h.GrantIndex, span: pb.ToSpan(h.Span), Attached: h.Attached}
	d.attachments = append(d.attachments, attachmentChange{lease: h.Lease, attachment: next})
	d.Change.State = append(d.Change.State, mvcc.StateUpdate{Key: AttachmentKey(h.Lease), Value: Marshal(h)})
}

// Detached calls fn for every lease that the entry detaches.
func (d *Decision) Detached(fn func(lease int64)) {
	for i := range d.attachments {
		if d.attachments[i].remove {
			fn(d.attachments[i].lease)
		}
	}
}

// Marshaler is a message of pb.
type Marshaler interface{ MarshalVT() ([]byte, error) }

// Marshal encodes a message that this process has built: it cannot fail.
func Marshal(m Marshaler) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("replica: marshal: %v", err))
	}
	return b
}

// Commit makes the decision the machine's state, after the store has applied its change.
func (m *Machine) Commit(d *Decision) {
	m.Index, m.raftTerm = d.Change.Pos.Index, d.Change.Pos.Term
	m.Epoch, m.Last = d.epoch, d.Last
	for _, h := range d.attachments {
		if h.remove {
			delete(m.Attachments, h.lease)
		} else {
			m.Attachments[h.lease] = h.attachment
		}
	}
	m.commitTxn(d)
	if d.reshape != nil {
		m.Desc, m.Done = d.reshape.desc, d.reshape.done
		if d.reshape.freezes {
			m.Frozen = d.reshape.frozen
		}
		for _, id := range d.reshape.records {
			delete(m.Records, id)
		}
	}
	if d.closed > 0 {
		m.AdvanceClosed(d.closed)
	}
}
