package lead

import (
	"fmt"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// TxnPlan is what a transaction over several ranges writes and answers. It is evaluated while everything that
// the transaction touches is locked. Its own revision is txnRevision until it is allocated.
type TxnPlan struct {
	writes  bool
	result  *pb.Result
	effects []*pb.Effects // of each participant; nil: none
}

// txnRevision stands for the revision that the transaction will have.
const txnRevision = eval.UnknownRevision

// planner is the sink of a transaction's operations. Effects go to the participants that hold their keys. Later
// operations see them in v.
type planner struct {
	v       predictor
	parts   []*TxnPart
	missing []int64
	sub     int64
	effects []*pb.Effects
}

var _ eval.Sink = (*planner)(nil)

// PlanTxn evaluates op as a whole, compares first. An error means that it has no effect. now is the highest
// revision that may be read.
func PlanTxn(op *pb.Op, rd eval.Reader, parts []*TxnPart, now int64, missing []int64) (*TxnPlan, error) {
	p := &planner{
		v:     predictor{base: rd, at: math.MaxInt64, tab: newTable()},
		parts: parts, missing: missing, effects: make([]*pb.Effects, len(parts)),
	}
	ev := eval.Evaluator{
		View: &p.v, Sink: p, Results: true,
		Current: now, Compacted: rd.CompactRevision(), PriorRev: txnRevision - 1, Rev: txnRevision,
	}
	res, err := ev.Run(op)
	if err != nil {
		return nil, err
	}
	return &TxnPlan{writes: p.sub > 0, result: res, effects: p.effects}, nil
}

// PlanExpiry takes the keys of a lease in every participant.
func PlanExpiry(op *pb.Op, parts []*TxnPart) *TxnPlan {
	plan := &TxnPlan{effects: make([]*pb.Effects, len(parts))}
	total := int64(0)
	for i, part := range parts {
		if part.Resp.Expired < 0 { // granted again there: it stays attached
			continue
		}
		plan.effects[i] = &pb.Effects{Ops: []*pb.Op{op}, FirstSub: []int64{total}}
		total += part.Resp.Expired
	}
	plan.writes = total > 0
	plan.result = &pb.Result{Delete: &pb.DeleteResult{Deleted: total}, Revision: txnRevision}
	return plan
}

// Lease refuses a put with a lease that meta does not know.
func (p *planner) Lease(lease int64, _ []byte, named bool) error {
	if named && slices.Contains(p.missing, lease) {
		return shard.ErrLeaseNotFound
	}
	return nil
}

// effect adds an operation of n effects to the participant that holds its keys.
func (p *planner) effect(i int, op *pb.Op, n int64) {
	e := p.effects[i]
	if e == nil {
		e = &pb.Effects{}
		p.effects[i] = e
	}
	e.Ops, e.FirstSub = append(e.Ops, op), append(e.FirstSub, p.sub)
	p.sub += n
}

// partOf is the participant that holds a key.
func (p *planner) partOf(key []byte) int {
	return slices.IndexFunc(p.parts, func(t *TxnPart) bool { return t.span.Contains(key) })
}

func (p *planner) Put(key, value []byte, lease int64) error {
	p.effect(p.partOf(key), &pb.Op{Put: &pb.PutOp{Key: key, Value: value, Lease: lease}}, 1)
	return p.v.Put(key, value, lease)
}

func (p *planner) Delete(key []byte) error {
	p.effect(p.partOf(key), &pb.Op{Delete: &pb.DeleteOp{Key: key}}, 1)
	return p.v.Delete(key)
}

// DeleteSpan deletes a span by one operation on each participant. What is locked does not change until then, so
// only the number of keys is needed.
func (p *planner) DeleteSpan(span shard.Span, prev func(*shard.KeyValue)) (int64, error) {
	total := int64(0)
	for i, part := range p.parts {
		clip := part.span.Intersect(span)
		if span.Empty() || clip.Empty() {
			continue
		}
		n, err := p.countKeys(clip, prev)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			continue
		}
		total += n
		p.effect(i, &pb.Op{Delete: &pb.DeleteOp{Key: clip.Start, RangeEnd: etcdEnd(clip)}}, n)
		p.v.effects = append(p.v.effects, effect{span: clip, delete: true})
	}
	return total, nil
}

// countKeys counts the keys of a span and passes them to prev, if there is one.
func (p *planner) countKeys(span shard.Span, prev func(*shard.KeyValue)) (n int64, err error) {
	if prev == nil {
		return p.v.Count(span)
	}
	err = p.v.Scan(span, false, func(kv *shard.KeyValue) bool {
		n++
		prev(kv)
		return true
	})
	return n, err
}

// Expire is never called: PlanExpiry plans expiries.
func (p *planner) Expire(int64) (int64, error) {
	return 0, fmt.Errorf("%w: an expiry that is planned key by key", shard.ErrUnimplemented)
}

func (p *planner) Wrote() bool { return p.sub > 0 }

// etcdEnd is the range_end of a span, as shard.FromEtcd reads it.
func etcdEnd(s shard.Span) []byte {
	if s.Unbounded() {
		return []byte{0}
	}
	return s.End
}

// Count counts the keys of a span as the view shows them.
func (v *predictor) Count(span shard.Span) (int64, error) {
	if span.Empty() {
		return 0, nil
	}
	if keys, spans := v.touched(span); len(keys) == 0 && !slices.ContainsFunc(spans, span.Overlaps) {
		return v.base.Count(span, v.at)
	}
	var n int64
	err := v.Scan(span, true, func(*shard.KeyValue) bool { n++; return true })
	return n, err
}

// At returns the answer of the transaction at revision rev. If it writes, its inner headers before the first effect
// say the revision before that.
func (t *TxnPlan) At(rev int64) *pb.Result {
	before := rev
	if t.writes {
		before = rev - 1
	}
	fillRevisions(t.result, before, rev)
	return t.result
}

func fillRevisions(r *pb.Result, before, rev int64) {
	if r == nil {
		return
	}
	settle := func(v *int64) {
		switch *v {
		case txnRevision - 1:
			*v = before
		case txnRevision:
			*v = rev
		}
	}
	settle(&r.Revision)
	kvs := slices.Concat(r.GetRange().GetKvs(), r.GetDelete().GetPrevKvs())
	if kv := r.GetPut().GetPrevKv(); kv != nil {
		kvs = append(kvs, kv)
	}
	for _, kv := range kvs {
		settle(&kv.ModRevision)
		settle(&kv.CreateRevision)
	}
	for _, inner := range r.GetTxn().GetResults() {
		fillRevisions(inner, before, rev)
	}
}
