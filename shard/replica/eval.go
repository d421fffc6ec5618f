package replica

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Reasons for which apply refuses one request of a batch. They are part of what every replica
// decides alike; only the proposer acts on them, by beginning again.
var (
	errLocked   = errors.New("the request overlaps a transaction's lock")
	errLeft     = errors.New("the request leaves the range's span")
	errHalfGone = errors.New("the range's half of the lease is gone")
	// errWouldWrite ends an evaluation at a past revision as soon as it turns out that the
	// request has an effect there.
	errWouldWrite = errors.New("the request writes")
)

// refusal reports whether err means that the request had no effect and may begin again.
func refusal(err error) bool {
	return errors.Is(err, errLocked) || errors.Is(err, errLeft) || errors.Is(err, errHalfGone)
}

// evaluation carries out one request. It checks everything that can fail before the first
// effect, as etcd does, so that a request that fails has none.
type evaluation struct {
	s         *scratch
	now       int64 // the current revision before the request
	rev       int64 // what its effects take; 0: it may have none (a past revision)
	sub       int64 // effects so far
	compacted int64 // the compaction revision
	results   bool  // false: nobody waits for the result, reads are left out
	made      resultSlab
	path      [4]bool // room for what most transactions decide
	// leaseOK says whether a put may use the lease; nil: any.
	leaseOK func(lease int64, key []byte) bool
	// dropHalf is told that an expiry took the keys of the lease.
	dropHalf func(lease int64)
}

// run evaluates op as a whole. On an error nothing was written.
func (e *evaluation) run(op *pb.Op) (*pb.Result, error) {
	path, err := e.branches(op, e.path[:0])
	if err != nil {
		return nil, err
	}
	if _, err := e.check(op, path); err != nil {
		return nil, err
	}
	res, _, err := e.exec(op, path)
	return res, err
}

// header is what an inner header says at this point of the request.
func (e *evaluation) header() int64 {
	if e.sub > 0 {
		return e.rev
	}
	return e.now
}

// branches decides every compare that the request can reach, nested ones included, against the
// state before it.
func (e *evaluation) branches(op *pb.Op, path []bool) ([]bool, error) {
	if op.GetTxn() == nil {
		return path, nil
	}
	v, err := comparesHold(e.s, op.Txn.Compare)
	if err != nil {
		return nil, err
	}
	path = append(path, v == yes)
	for _, o := range branch(op.Txn, v == yes) {
		if path, err = e.branches(o, path); err != nil {
			return nil, err
		}
	}
	return path, nil
}

func branch(t *pb.TxnOp, succeeded bool) []*pb.Op {
	if succeeded {
		return t.Success
	}
	return t.Failure
}

// check finds what fails the request, along the path that was decided; it returns what is left
// of the path.
func (e *evaluation) check(op *pb.Op, path []bool) ([]bool, error) {
	switch {
	case op.GetRange() != nil:
		return path, checkRevision(op.Range.Revision, e.now, e.compacted)
	case op.GetPut() != nil:
		return path, e.checkPut(op.Put)
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		var err error
		for _, o := range branch(op.Txn, taken) {
			if path, err = e.check(o, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

// checkRevision refuses a revision that cannot be read while the current one is now. As in etcd one
// below zero counts as compacted inside a transaction.
func checkRevision(rev, now, compacted int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > now:
		return shard.ErrFutureRevision
	case rev < max(compacted, 0):
		return &shard.CompactedError{Revision: compacted}
	}
	return nil
}

func (e *evaluation) checkPut(p *pb.PutOp) error {
	if err := checkStorable(p.Key); err != nil {
		return err
	}
	if p.IgnoreValue || p.IgnoreLease {
		kv, ok, err := e.s.head(p.Key)
		if err != nil {
			return err
		}
		if !ok {
			return shard.ErrKeyNotFound
		}
		if p.IgnoreLease {
			return e.checkLease(kv.Lease, p.Key)
		}
	}
	return e.checkLease(p.Lease, p.Key)
}

func (e *evaluation) checkLease(lease int64, key []byte) error {
	if lease == 0 || e.leaseOK == nil || e.leaseOK(lease, key) {
		return nil
	}
	return errHalfGone
}

func (e *evaluation) exec(op *pb.Op, path []bool) (*pb.Result, []bool, error) {
	var res *pb.Result
	var err error
	switch {
	case op.GetRange() != nil:
		res, err = e.execRange(op.Range)
	case op.GetPut() != nil:
		res, err = e.execPut(op.Put)
	case op.GetDelete() != nil:
		res, err = e.execDelete(op.Delete)
	case op.GetTxn() != nil:
		return e.execTxn(op.Txn, path)
	case op.GetExpireLease() != 0:
		res, err = e.execExpire(op.ExpireLease)
	default:
		res = &pb.Result{Revision: e.header()} // etcd answers an empty operation with nothing
	}
	return res, path, err
}

func (e *evaluation) execTxn(t *pb.TxnOp, path []bool) (*pb.Result, []bool, error) {
	taken := path[0]
	path = path[1:]
	ops := branch(t, taken)
	var out *pb.TxnResult
	if e.results {
		out = e.made.txns.take()
		out.Succeeded, out.Results = taken, make([]*pb.Result, len(ops))
	}
	for i, o := range ops {
		res, rest, err := e.exec(o, path)
		if err != nil {
			return nil, nil, err
		}
		if path = rest; e.results {
			out.Results[i] = res
		}
	}
	if !e.results {
		return nil, path, nil
	}
	res := e.made.results.take()
	res.Txn = out
	return res, path, nil
}

// mutate records one effect.
func (e *evaluation) mutate(m mvcc.Mutation) error {
	if e.rev == 0 {
		return errWouldWrite
	}
	m.Rev = mvcc.Rev{Main: e.rev, Sub: e.sub}
	e.sub++
	e.s.muts = append(e.s.muts, m)
	return nil
}

func (e *evaluation) execPut(p *pb.PutOp) (*pb.Result, error) {
	m := mvcc.Mutation{Key: p.Key, Value: p.Value, Lease: p.Lease}
	var before *pb.KeyValue
	if p.IgnoreValue || p.IgnoreLease || (p.PrevKv && e.results) {
		prev, ok, err := e.s.get(p.Key)
		if err != nil {
			return nil, err
		}
		if p.IgnoreValue {
			m.Value = prev.Value
		}
		if p.IgnoreLease {
			m.Lease = prev.Lease
		}
		if p.PrevKv && ok {
			before = fromKV(&prev)
		}
	}
	if err := e.mutate(m); err != nil {
		return nil, err
	}
	if !e.results {
		return nil, nil
	}
	res := e.made.results.take()
	res.Put, res.Revision = e.made.puts.take(), e.rev
	res.Put.PrevKv = before
	return res, nil
}

func (e *evaluation) execDelete(d *pb.DeleteOp) (*pb.Result, error) {
	out := &pb.DeleteResult{}
	var keys [][]byte
	take := func(kv *mvcc.KeyValue) bool {
		keys = append(keys, kv.Key)
		if d.PrevKv && e.results {
			out.PrevKvs = append(out.PrevKvs, fromKV(kv))
		}
		return e.rev != 0 // at a past revision one key is enough
	}
	if len(d.RangeEnd) == 0 {
		kv, ok, err := e.s.get(d.Key)
		if err != nil {
			return nil, err
		}
		if ok {
			take(&kv)
		}
	} else if err := e.s.scan(shard.FromEtcd(d.Key, d.RangeEnd), !d.PrevKv || !e.results, take); err != nil {
		return nil, err
	}
	if err := e.deleteKeys(keys); err != nil {
		return nil, err
	}
	out.Deleted = int64(len(keys))
	return &pb.Result{Delete: out, Revision: e.header()}, nil
}

func (e *evaluation) deleteKeys(keys [][]byte) error {
	for _, k := range keys {
		if err := e.mutate(mvcc.Mutation{Key: k, Delete: true}); err != nil {
			return err
		}
	}
	return nil
}

// execExpire deletes every key whose current lease it is, in key order, and drops the half.
func (e *evaluation) execExpire(lease int64) (*pb.Result, error) {
	keys, err := e.s.leaseKeys(lease)
	if err != nil {
		return nil, err
	}
	if err := e.deleteKeys(keys); err != nil {
		return nil, err
	}
	if e.dropHalf != nil {
		e.dropHalf(lease)
	}
	return &pb.Result{Delete: &pb.DeleteResult{Deleted: int64(len(keys))}, Revision: e.header()}, nil
}

func (e *evaluation) execRange(r *pb.RangeOp) (*pb.Result, error) {
	if !e.results {
		return nil, nil
	}
	v := e.s
	if r.Revision > 0 {
		v = &scratch{base: e.s.base, at: r.Revision}
	}
	out, err := rangeAt(v, r)
	if err != nil {
		return nil, err
	}
	return &pb.Result{Range: out, Revision: e.header()}, nil
}

// countingView is a view that can count without handing out.
type countingView interface {
	view
	count(span shard.Span) (int64, error)
}

// rangeAt answers a range read with etcd's meaning of limit, count, more, filters and order.
func rangeAt(v countingView, r *pb.RangeOp) (*pb.RangeResult, error) {
	span := shard.FromEtcd(r.Key, r.RangeEnd)
	out := &pb.RangeResult{}
	if r.CountOnly {
		n, err := v.count(span)
		out.Count = n
		return out, err
	}
	if len(r.RangeEnd) == 0 {
		kv, ok, err := v.get(r.Key)
		if err != nil || !ok {
			return out, err
		}
		out.Count = 1
		if passes(r, &kv) {
			out.Kvs = []*pb.KeyValue{fromKV(&kv)}
		}
	} else if err := collectRange(v, span, r, out); err != nil {
		return nil, err
	}
	sortKVs(out.Kvs, r.SortTarget, r.SortOrder)
	if r.Limit > 0 && int64(len(out.Kvs)) > r.Limit {
		out.Kvs = out.Kvs[:r.Limit]
		out.More = true
	}
	if r.KeysOnly {
		for _, kv := range out.Kvs {
			kv.Value = nil
			if r.SortTarget != sortByValue {
				kv.Lease = 0 // as in etcd, whose index knows none
			}
		}
	}
	return out, nil
}

func collectRange(v countingView, span shard.Span, r *pb.RangeOp, out *pb.RangeResult) error {
	inKeyOrder := r.SortOrder == sortNone && r.SortTarget == sortByKey ||
		r.SortTarget == sortByKey && r.SortOrder == sortAscend
	enough := int64(-1)
	if inKeyOrder && r.Limit > 0 {
		enough = r.Limit + 1
	}
	keysOnly := r.KeysOnly && r.SortTarget != sortByValue
	cut := false
	err := v.scan(span, keysOnly, func(kv *mvcc.KeyValue) bool {
		out.Count++
		if passes(r, kv) {
			out.Kvs = append(out.Kvs, fromKV(kv))
		}
		cut = enough > 0 && int64(len(out.Kvs)) >= enough
		return !cut
	})
	if err == nil && cut {
		out.Count, err = v.count(span)
	}
	return err
}

// passes applies the revision filters of a range read.
func passes(r *pb.RangeOp, kv *mvcc.KeyValue) bool {
	return (r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision)
}

const (
	sortNone = iota
	sortAscend
	sortDescend
)

const (
	sortByKey = iota
	sortByVersion
	sortByCreate
	sortByMod
	sortByValue
)

// sortKVs orders keys that come in key order. Equal ones keep their order, and etcd's descending
// order is the ascending one's comparison reversed.
func sortKVs(kvs []*pb.KeyValue, target, order int32) {
	if target != sortByKey && order == sortNone {
		order = sortAscend
	}
	if order == sortNone || target == sortByKey && order == sortAscend {
		return
	}
	sign := 1
	if order == sortDescend {
		sign = -1
	}
	slices.SortStableFunc(kvs, func(a, b *pb.KeyValue) int {
		switch target {
		case sortByVersion:
			return sign * cmp.Compare(a.Version, b.Version)
		case sortByCreate:
			return sign * cmp.Compare(a.CreateRevision, b.CreateRevision)
		case sortByMod:
			return sign * cmp.Compare(a.ModRevision, b.ModRevision)
		case sortByValue:
			return sign * bytes.Compare(a.Value, b.Value)
		default:
			return sign * bytes.Compare(a.Key, b.Key)
		}
	})
}

// fromKV renders a key for the wire; the bytes are shared.
func fromKV(kv *mvcc.KeyValue) *pb.KeyValue {
	return &pb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}
