package replica

import (
	"cmp"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// txnPlan is what a transaction over several ranges does and answers, evaluated while everything that
// it touches is locked. Revisions in it that are its own stand as txnRevision until they are known.
type txnPlan struct {
	writes  bool
	result  *pb.Result
	effects []*pb.Effects // of each participant; nil: none
}

// txnRevision stands for the revision that the transaction will have.
const txnRevision = unknownRevision

// planner evaluates a transaction's operations in order on the locked content and its own effects.
type planner struct {
	v       tableView
	parts   []*txnPart
	now     int64 // the revision up to which a past one may be read
	missing []int64
	sub     int64
	effects []*pb.Effects
}

// planTxn evaluates op as a whole, compares first. An error means that it has no effect.
func planTxn(op *pb.Op, rd Reader, parts []*txnPart, now int64, missing []int64) (*txnPlan, error) {
	p := &planner{
		v:     tableView{base: rd, at: math.MaxInt64, tab: newTable()},
		parts: parts, now: now, missing: missing, effects: make([]*pb.Effects, len(parts)),
	}
	path, _, err := p.v.branches(op, nil)
	if err != nil {
		return nil, err
	}
	if _, err := p.check(op, path); err != nil {
		return nil, err
	}
	res, _, err := p.exec(op, path)
	if err != nil {
		return nil, err
	}
	return &txnPlan{writes: p.sub > 0, result: res, effects: p.effects}, nil
}

// planExpiry takes the keys of a lease in every participant.
func planExpiry(op *pb.Op, parts []*txnPart) *txnPlan {
	plan := &txnPlan{effects: make([]*pb.Effects, len(parts))}
	total := int64(0)
	for i, part := range parts {
		if part.resp.Expired < 0 { // granted anew there: the half stays
			continue
		}
		plan.effects[i] = &pb.Effects{Ops: []*pb.Op{op}, FirstSub: []int64{total}}
		total += part.resp.Expired
	}
	plan.writes = total > 0
	plan.result = &pb.Result{Delete: &pb.DeleteResult{Deleted: total}, Revision: txnRevision}
	return plan
}

// check finds what fails the request, along the path that was decided.
func (p *planner) check(op *pb.Op, path []bool) ([]bool, error) {
	switch {
	case op.GetRange() != nil:
		return path, checkRevision(op.Range.Revision, p.now, p.v.base.CompactRevision())
	case op.GetPut() != nil:
		put := op.Put
		if err := checkStorable(put.Key); err != nil {
			return nil, err
		}
		if put.IgnoreValue || put.IgnoreLease {
			if _, ok, err := p.v.head(put.Key); err != nil || !ok {
				return nil, cmp.Or(err, error(shard.ErrKeyNotFound))
			}
		}
		if put.Lease != 0 && slices.Contains(p.missing, put.Lease) {
			return nil, shard.ErrLeaseNotFound
		}
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		var err error
		for _, o := range branch(op.Txn, taken) {
			if path, err = p.check(o, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

func (p *planner) exec(op *pb.Op, path []bool) (*pb.Result, []bool, error) {
	var res *pb.Result
	var err error
	switch {
	case op.GetRange() != nil:
		res, err = p.execRange(op.Range)
	case op.GetPut() != nil:
		res, err = p.execPut(op.Put)
	case op.GetDelete() != nil:
		res, err = p.execDelete(op.Delete)
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		ops := branch(op.Txn, taken)
		out := &pb.TxnResult{Succeeded: taken, Results: make([]*pb.Result, len(ops))}
		for i, o := range ops {
			if out.Results[i], path, err = p.exec(o, path); err != nil {
				return nil, nil, err
			}
		}
		return &pb.Result{Txn: out}, path, nil
	default:
		res = &pb.Result{Revision: p.header()}
	}
	return res, path, err
}

// header is what an inner header says at this point: the revision before until the first effect.
func (p *planner) header() int64 {
	if p.sub > 0 {
		return txnRevision
	}
	return txnRevision - 1
}

func (p *planner) execRange(r *pb.RangeOp) (*pb.Result, error) {
	var v countingView = &p.v
	if r.Revision > 0 {
		v = &scratch{base: p.v.base, at: r.Revision}
	}
	out, err := rangeAt(v, r)
	if err != nil {
		return nil, err
	}
	return &pb.Result{Range: out, Revision: p.header()}, nil
}

// effect adds an operation of the transaction to the participant that holds its keys, with room
// for n effects.
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
	return slices.IndexFunc(p.parts, func(t *txnPart) bool { return t.span.Contains(key) })
}

func (p *planner) execPut(put *pb.PutOp) (*pb.Result, error) {
	e := effect{key: put.Key, value: put.Value, lease: put.Lease}
	out := &pb.PutResult{}
	if put.IgnoreValue || put.IgnoreLease || put.PrevKv {
		prev, ok, err := p.v.get(put.Key)
		if err != nil {
			return nil, err
		}
		if put.IgnoreValue {
			e.value = prev.Value
		}
		if put.IgnoreLease {
			e.lease = prev.Lease
		}
		if put.PrevKv && ok {
			out.PrevKv = fromKV(&prev)
		}
	}
	p.effect(p.partOf(put.Key), &pb.Op{Put: &pb.PutOp{Key: e.key, Value: e.value, Lease: e.lease}}, 1)
	p.v.own = append(p.v.own, e)
	return &pb.Result{Put: out, Revision: txnRevision}, nil
}

// execDelete deletes one key, or a span as an operation on each participant: what is locked does not
// change until then, so the number of keys is enough.
func (p *planner) execDelete(d *pb.DeleteOp) (*pb.Result, error) {
	out := &pb.DeleteResult{}
	if len(d.RangeEnd) == 0 {
		kv, ok, err := p.v.get(d.Key)
		if err != nil {
			return nil, err
		}
		if ok {
			out.Deleted = 1
			if d.PrevKv {
				out.PrevKvs = []*pb.KeyValue{fromKV(&kv)}
			}
			p.effect(p.partOf(d.Key), &pb.Op{Delete: &pb.DeleteOp{Key: d.Key}}, 1)
			p.v.own = append(p.v.own, effect{key: d.Key, delete: true})
		}
		return &pb.Result{Delete: out, Revision: p.header()}, nil
	}
	span := shard.FromEtcd(d.Key, d.RangeEnd)
	for i, part := range p.parts {
		clip := part.span.Intersect(span)
		if span.Empty() || clip.Empty() {
			continue
		}
		n, err := p.take(clip, d.PrevKv, out)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		out.Deleted += n
		p.effect(i, &pb.Op{Delete: &pb.DeleteOp{Key: clip.Start, RangeEnd: etcdEnd(clip)}}, n)
		p.v.own = append(p.v.own, effect{span: clip, delete: true})
	}
	return &pb.Result{Delete: out, Revision: p.header()}, nil
}

// take counts the keys of a span, and hands them out where that was asked for.
func (p *planner) take(span shard.Span, prev bool, out *pb.DeleteResult) (n int64, err error) {
	if !prev {
		return p.v.count(span)
	}
	err = p.v.scan(span, false, func(kv *mvcc.KeyValue) bool {
		n++
		out.PrevKvs = append(out.PrevKvs, fromKV(kv))
		return true
	})
	return n, err
}

// etcdEnd is the range_end of a span, as shard.FromEtcd reads it.
func etcdEnd(s shard.Span) []byte {
	if s.Unbounded() {
		return []byte{0}
	}
	return s.End
}

// count counts the keys of a span as the view shows them.
func (v *tableView) count(span shard.Span) (int64, error) {
	if span.Empty() {
		return 0, nil
	}
	if keys, spans := v.touched(span); len(keys) == 0 && !slices.ContainsFunc(spans, span.Overlaps) {
		return v.base.Count(span, v.at)
	}
	var n int64
	err := v.scan(span, true, func(*mvcc.KeyValue) bool { n++; return true })
	return n, err
}

// at returns the answer, now that the transaction has revision rev. One that writes nothing is answered
// as of rev; one that writes began at the revision before.
func (t *txnPlan) at(rev int64) *pb.Result {
	before := rev
	if t.writes {
		before = rev - 1
	}
	settleRevisions(t.result, before, rev)
	return t.result
}

func settleRevisions(r *pb.Result, before, rev int64) {
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
		settleRevisions(inner, before, rev)
	}
}
