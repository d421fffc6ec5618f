package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// WriteResult is the outcome of a Put, DeleteRange or Txn.
type WriteResult struct {
	Result   *pb.Result
	Revision int64 // for the header: the request's own revision if it wrote, else the one it was answered at
	Wrote    bool
}

// Write is WriteBy for a request that nobody has checked: whoever leads its range does, as one of nobody in particular.
func (r *Router) Write(ctx context.Context, op *pb.Op) (*WriteResult, error) {
	return r.WriteBy(ctx, op, shard.Checked{})
}

// WriteBy carries out one Put, DeleteRange or Txn, atomically over however many ranges hold its keys. by says how far it has been checked.
//
// Errors: shard.ErrAmbiguous when it may yet be applied; shard.ErrTimeout when patience ended and it
// certainly was not; and what it is refused for.
func (r *Router) WriteBy(ctx context.Context, op *pb.Op, by shard.Checked) (*WriteResult, error) {
	wait := r.patience(ctx)
	defer wait.Cancel()
	ctx = wait
	var spans []shard.Span
	if op.Put == nil { // else its key is enough
		spans = OpSpans(op)
	}
	if op.Put == nil && len(spans) == 0 { // a Txn that names no key: true of every state
		rev, err := r.Current(ctx)
		if err != nil {
			return nil, err
		}
		return &WriteResult{Result: keyless(op, rev), Revision: rev}, nil
	}
	if namesRevision(op) {
		now, err := r.cfg.Cluster.Current(ctx)
		if err != nil {
			return nil, err
		}
		op = withoutCompacted(op, now.CompactRevision)
	}
	var res *WriteResult
	err := r.untilMapped(ctx, func() error {
		m, err := r.rangeMap(ctx)
		if err != nil {
			return err
		}
		desc, multi := anchorOf(m, op, spans)
		res, err = r.writeTo(ctx, desc, op, by, multi)
		if err == nil && multi {
			r.noteAll(spans, res.Revision)
		}
		return err
	})
	return res, err
}

// namesRevision reports whether a Txn reads at a revision of the client's, at any depth.
func namesRevision(op *pb.Op) bool {
	if op.Range != nil {
		return op.Range.Revision > 0
	}
	return op.Txn != nil && (slices.ContainsFunc(op.Txn.Success, namesRevision) || slices.ContainsFunc(op.Txn.Failure, namesRevision))
}

// compactedRevision stands for every revision that has been compacted away: ranges refuse it in a
// branch that is taken, whether they have logged the compaction or not.
const compactedRevision = -1

// withoutCompacted returns op with each read below the compaction revision at compactedRevision. A
// range's own store hears of a compaction after it has been acknowledged, so that it cannot be asked. What
// op shares with the result is not written.
func withoutCompacted(op *pb.Op, compact int64) *pb.Op {
	switch {
	case op.Range != nil && op.Range.Revision > 0 && op.Range.Revision < compact:
		rng := proto.CloneOf(op.Range)
		rng.Revision = compactedRevision
		return &pb.Op{Range: rng}
	case op.Txn != nil && namesRevision(op):
		txn := &pb.TxnOp{Compare: op.Txn.Compare}
		for _, o := range op.Txn.Success {
			txn.Success = append(txn.Success, withoutCompacted(o, compact))
		}
		for _, o := range op.Txn.Failure {
			txn.Failure = append(txn.Failure, withoutCompacted(o, compact))
		}
		return &pb.Op{Txn: txn}
	}
	return op
}

// keyless is the answer to a Txn in which no key is named, at any depth.
func keyless(op *pb.Op, rev int64) *pb.Result {
	res := &pb.Result{Txn: &pb.TxnResult{Succeeded: true}, Revision: rev}
	for _, o := range op.GetTxn().GetSuccess() {
		res.Txn.Results = append(res.Txn.Results, keyless(o, rev))
	}
	return res
}

// noteAll remembers that every range of a request has been told its revision. A range that comes into being meanwhile
// inherits it, or is in the map that is looked at again.
func (r *Router) noteAll(spans []shard.Span, rev int64) {
	for {
		m := r.maps.newest()
		for _, s := range spans {
			for d := range m.Overlapping(s) {
				r.acked.note(d.ID, rev)
			}
		}
		if m == r.maps.newest() {
			return
		}
	}
}

func (r *Router) writeTo(ctx context.Context, desc shard.Descriptor, op *pb.Op, by shard.Checked, multi bool) (*WriteResult, error) {
	resp, err := r.callLeader(ctx, desc, func(d shard.Descriptor) *pb.PeerRequest {
		req := pb.NewWrite()
		w := req.Write
		w.RangeId, w.Generation, w.Op, w.Multi = uint64(d.ID), uint64(d.Generation), op, multi
		w.SettingsVersion, w.Who = by.Settings, pb.FromWho(by.Who)
		return req
	})
	if err != nil {
		return nil, err
	}
	w := resp.Write
	if w == nil || w.Result == nil {
		return nil, fmt.Errorf("router: %v: an answer without a result", desc.ID)
	}
	r.acked.note(desc.ID, w.Revision)
	return &WriteResult{Result: w.Result, Revision: w.Revision, Wrote: w.Wrote}, nil
}

// anchorOf finds the range of the lowest key, whose leader carries out the request; multi says that
// some keys lie in others.
func anchorOf(m *shard.Map, op *pb.Op, spans []shard.Span) (desc shard.Descriptor, multi bool) {
	if op.Put != nil {
		return m.Lookup(op.Put.Key), false
	}
	first := spans[0].Start
	for _, s := range spans {
		if bytes.Compare(s.Start, first) < 0 {
			first = s.Start
		}
	}
	desc = m.Lookup(first)
	for _, s := range spans {
		multi = multi || !desc.Span.ContainsSpan(s)
	}
	return desc, multi
}

// NoteAcked tells that others than this router have acknowledged to a client of this node what may have changed
// keys in any range: the meta group alone knows where a lease had keys. Later serializable reads see it, as
// they see a write.
func (r *Router) NoteAcked(rev int64) { raise(&r.acked.all, rev) }

// Answered is a revision at or above every one at which clients of this router were answered of some ranges: what is read from elsewhere must not fall behind
// it.
func (r *reader) Answered(ranges []shard.RangeID) int64 { return r.acked.highest(ranges) }

// Map is the newest range map known here; nil before the first one arrived.
func (r *Router) Map() *shard.Map { return r.maps.newest() }

// CallKey sends what build makes to the leader of the range that holds key, and tries again what
// certainly was not applied, until ctx ends. *shard.WrongRangeError: the ranges have changed.
func (r *Router) CallKey(ctx context.Context, key []byte, build func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	m, err := r.rangeMap(ctx)
	if err != nil {
		return nil, err
	}
	desc := m.Lookup(key)
	resp, err := r.callLeader(ctx, desc, build)
	if errors.Is(err, errRemap) {
		if errors.Is(err, errNoNews) { // whoever calls looks up the key again, and must not spin
			_ = r.pause(ctx, new(attempt), err)
		}
		return nil, &shard.WrongRangeError{Range: desc.ID}
	}
	return resp, err
}

// OpSpans lists the spans that op reads or writes, compares and both branches of a Txn
// included. Empty spans are left out, unless nothing else is there.
func OpSpans(op *pb.Op) []shard.Span {
	var spans []shard.Span
	collectSpans(op, &spans)
	return spans
}

func collectSpans(op *pb.Op, out *[]shard.Span) {
	switch {
	case op.Range != nil:
		*out = append(*out, shard.FromEtcd(op.Range.Key, op.Range.RangeEnd))
	case op.Put != nil:
		*out = append(*out, shard.Point(op.Put.Key))
	case op.Delete != nil:
		*out = append(*out, shard.FromEtcd(op.Delete.Key, op.Delete.RangeEnd))
	case op.Txn != nil:
		for _, c := range op.Txn.Compare {
			*out = append(*out, shard.FromEtcd(c.Key, c.RangeEnd))
		}
		for _, o := range op.Txn.Success {
			collectSpans(o, out)
		}
		for _, o := range op.Txn.Failure {
			collectSpans(o, out)
		}
	}
}

// acked remembers, per range, the highest revision that this node has told a client, so
// that a serializable read after one's own write sees it. It is of the keys: where they get into another range, that
// inherits it.
type acked struct {
	m   shard.Table[*atomic.Int64]
	all atomic.Int64 // told of every range
}

func (a *acked) note(id shard.RangeID, rev int64) {
	c, ok := a.m.Get(id)
	if !ok {
		c = a.m.GetOrPut(id, new(atomic.Int64))
	}
	raise(c, rev)
}

// inherit gives the ranges of a new map what those have been told that had their keys.
func (a *acked) inherit(old, now *shard.Map) {
	if mutate.On(mutate.AckedStays) {
		return
	}
	changed, removed := now.Changes(old)
	for _, d := range changed {
		for was := range old.Overlapping(d.Span) {
			if c, ok := a.m.Get(was.ID); ok && was.ID != d.ID {
				a.note(d.ID, c.Load())
			}
		}
	}
	for _, id := range removed {
		a.m.Delete(id)
	}
}

func raise(c *atomic.Int64, rev int64) {
	for old := c.Load(); rev > old; old = c.Load() {
		if c.CompareAndSwap(old, rev) {
			return
		}
	}
}

func (a *acked) highest(ids []shard.RangeID) int64 {
	rev := a.all.Load()
	for _, id := range ids {
		if c, ok := a.m.Get(id); ok {
			rev = max(rev, c.Load())
		}
	}
	return rev
}
