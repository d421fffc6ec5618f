package eval

import (
	"errors"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// ErrUndetermined ends an evaluation on predicted state whose compares depend on a revision that is not allocated
// yet.
var ErrUndetermined = errors.New("a compare depends on a revision that has not been allocated")

// View is the state that one operation sees: a store, and what precedes the operation but is not in the store
// yet.
type View interface {
	Get(key []byte) (shard.KeyValue, bool, error)
	Head(key []byte) (shard.KeyValue, bool, error) // Get without the value
	Scan(span shard.Span, keysOnly bool, fn func(*shard.KeyValue) bool) error
	Count(span shard.Span) (int64, error)
	// Past is the store's content at a past revision, without what precedes the operation.
	Past(rev int64) View
}

// Sink takes the effects of an evaluation in order. The view shows each from then on. An error ends the
// evaluation.
type Sink interface {
	// Lease says whether a put may carry a lease; named is false where it keeps the one that the key has.
	Lease(lease int64, key []byte, named bool) error
	Put(key, value []byte, lease int64) error
	Delete(key []byte) error // of a key that the view shows
	// DeleteSpan deletes the keys of a span that the view shows. If the evaluation gives results, it returns how
	// many those are, and calls prev, unless that is nil, with each.
	DeleteSpan(span shard.Span, prev func(*shard.KeyValue)) (int64, error)
	// Expire deletes every key whose current lease it is, and ends it in the range.
	Expire(lease int64) (int64, error)
	Wrote() bool // there has been an effect
}

// Evaluator is etcd's meaning of a request, and the only place that knows it. It checks everything that can
// fail before the first effect, as etcd does, so a request that fails has none. The sink makes something of the
// effects: mutations of an entry (Mutations), a prediction (lead's predictor), operations of a transaction's
// participants (lead's planner), or an error (readOnlySink).
type Evaluator struct {
	View View
	Sink Sink

	Current   int64 // the highest revision that may be read
	Compacted int64
	PriorRev  int64 // what inner headers say before the first effect
	Rev       int64 // and after it
	Results   bool  // false: no result is needed, and reads are left out
	Alloc     resultSlab
	path      [4]bool // backs the decisions of most transactions
}

// Run evaluates op as a whole. An error of the request itself means that it has had no effect.
func (e *Evaluator) Run(op *pb.Op) (*pb.Result, error) {
	path, err := e.branches(op, e.path[:0])
	if err != nil {
		return nil, err
	}
	if _, err := e.Check(op, path); err != nil {
		return nil, err
	}
	res, _, err := e.exec(op, path)
	return res, err
}

// header is what an inner header says at this point of the request.
func (e *Evaluator) header() int64 {
	if e.Sink.Wrote() {
		return e.Rev
	}
	return e.PriorRev
}

// branches decides every compare that the request can reach, nested ones included, against the
// state before it.
func (e *Evaluator) branches(op *pb.Op, path []bool) ([]bool, error) {
	if op.GetTxn() == nil {
		return path, nil
	}
	v, err := comparesHold(e.View, op.Txn.Compare)
	if err != nil {
		return nil, err
	}
	if v == undetermined {
		return nil, ErrUndetermined
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

// Check returns what fails the request along the path of decided branches, and the rest of the path.
func (e *Evaluator) Check(op *pb.Op, path []bool) ([]bool, error) {
	switch {
	case op.GetRange() != nil:
		return path, e.checkRevision(op.Range.Revision)
	case op.GetPut() != nil:
		return path, e.checkPut(op.Put)
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		var err error
		for _, o := range branch(op.Txn, taken) {
			if path, err = e.Check(o, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

// checkRevision refuses a revision that cannot be read now. As in etcd one below zero counts as compacted
// inside a transaction.
func (e *Evaluator) checkRevision(rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > e.Current:
		return shard.ErrFutureRevision
	case rev < max(e.Compacted, 0):
		return &shard.CompactedError{Revision: e.Compacted}
	}
	return nil
}

func (e *Evaluator) checkPut(p *pb.PutOp) error {
	if err := checkStorable(p.Key); err != nil {
		return err
	}
	if p.IgnoreValue || p.IgnoreLease {
		kv, ok, err := e.View.Head(p.Key)
		if err != nil {
			return err
		}
		if !ok {
			return shard.ErrKeyNotFound
		}
		if p.IgnoreLease {
			return e.checkLease(kv.Lease, p.Key, false)
		}
	}
	return e.checkLease(p.Lease, p.Key, true)
}

func (e *Evaluator) checkLease(lease int64, key []byte, named bool) error {
	if lease == 0 {
		return nil
	}
	return e.Sink.Lease(lease, key, named)
}

func (e *Evaluator) exec(op *pb.Op, path []bool) (*pb.Result, []bool, error) {
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
	case e.Results:
		res = &pb.Result{Revision: e.header()} // etcd answers an empty operation with nothing
	}
	return res, path, err
}

func (e *Evaluator) execTxn(t *pb.TxnOp, path []bool) (*pb.Result, []bool, error) {
	taken := path[0]
	path = path[1:]
	ops := branch(t, taken)
	var out *pb.TxnResult
	if e.Results {
		out = e.Alloc.txns.New()
		out.Succeeded, out.Results = taken, make([]*pb.Result, len(ops))
	}
	for i, o := range ops {
		res, rest, err := e.exec(o, path)
		if err != nil {
			return nil, nil, err
		}
		if path = rest; e.Results {
			out.Results[i] = res
		}
	}
	if !e.Results {
		return nil, path, nil
	}
	res := e.Alloc.results.New()
	res.Txn = out
	return res, path, nil
}

func (e *Evaluator) execPut(p *pb.PutOp) (*pb.Result, error) {
	value, lease := p.Value, p.Lease
	var before *pb.KeyValue
	if p.IgnoreValue || p.IgnoreLease || (p.PrevKv && e.Results) {
		prev, ok, err := e.View.Get(p.Key)
		if err != nil {
			return nil, err
		}
		if p.IgnoreValue {
			value = prev.Value
		}
		if p.IgnoreLease {
			lease = prev.Lease
		}
		if p.PrevKv && ok {
			before = pb.FromKeyValue(&prev)
		}
	}
	if err := e.Sink.Put(p.Key, value, lease); err != nil {
		return nil, err
	}
	if !e.Results {
		return nil, nil
	}
	res := e.Alloc.results.New()
	res.Put, res.Revision = e.Alloc.puts.New(), e.Rev
	res.Put.PrevKv = before
	return res, nil
}

func (e *Evaluator) execDelete(d *pb.DeleteOp) (*pb.Result, error) {
	if !e.Results {
		return nil, e.deleteBlind(d)
	}
	out := &pb.DeleteResult{}
	if len(d.RangeEnd) != 0 {
		var prev func(*shard.KeyValue)
		if d.PrevKv {
			prev = func(kv *shard.KeyValue) { out.PrevKvs = append(out.PrevKvs, pb.FromKeyValue(kv)) }
		}
		var err error
		if out.Deleted, err = e.Sink.DeleteSpan(shard.FromEtcd(d.Key, d.RangeEnd), prev); err != nil {
			return nil, err
		}
		return &pb.Result{Delete: out, Revision: e.header()}, nil
	}
	read := e.View.Head
	if d.PrevKv {
		read = e.View.Get
	}
	kv, ok, err := read(d.Key)
	if err == nil && ok {
		if out.Deleted = 1; d.PrevKv {
			out.PrevKvs = []*pb.KeyValue{pb.FromKeyValue(&kv)}
		}
		err = e.Sink.Delete(d.Key)
	}
	if err != nil {
		return nil, err
	}
	return &pb.Result{Delete: out, Revision: e.header()}, nil
}

// deleteBlind deletes without a result.
func (e *Evaluator) deleteBlind(d *pb.DeleteOp) error {
	if len(d.RangeEnd) != 0 {
		_, err := e.Sink.DeleteSpan(shard.FromEtcd(d.Key, d.RangeEnd), nil)
		return err
	}
	_, ok, err := e.View.Head(d.Key)
	if err == nil && ok {
		err = e.Sink.Delete(d.Key)
	}
	return err
}

func (e *Evaluator) execExpire(lease int64) (*pb.Result, error) {
	n, err := e.Sink.Expire(lease)
	if err != nil || !e.Results {
		return nil, err
	}
	return &pb.Result{Delete: &pb.DeleteResult{Deleted: n}, Revision: e.header()}, nil
}

func (e *Evaluator) execRange(r *pb.RangeOp) (*pb.Result, error) {
	if !e.Results {
		return nil, nil
	}
	v := e.View
	if r.Revision > 0 {
		v = v.Past(r.Revision)
	}
	out, err := rangeAt(v, r)
	if err != nil {
		return nil, err
	}
	return &pb.Result{Range: out, Revision: e.header()}, nil
}
