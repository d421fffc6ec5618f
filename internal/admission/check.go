package admission

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/shard"
)

func checkRange(r *etcdserverpb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := etcdserverpb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := etcdserverpb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *etcdserverpb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	byKey := r.SortTarget == etcdserverpb.RangeRequest_KEY && r.SortOrder == etcdserverpb.RangeRequest_ASCEND
	if r.SortOrder != etcdserverpb.RangeRequest_NONE && !byKey {
		return errStream("custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return errStream("revision filters")
	}
	return nil
}

func checkPut(r *etcdserverpb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *etcdserverpb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a transaction and everything in it. maxOps bounds each of its three lists;
// a nested transaction has what its parent's longest list leaves over.
func checkTxn(r *etcdserverpb.TxnRequest, maxOps int) error {
	if err := checkTxnShape(r, maxOps); err != nil {
		return err
	}
	for _, branch := range [][]*etcdserverpb.RequestOp{r.Success, r.Failure} {
		if len(branch) == 0 || len(branch) == 1 && branch[0].GetRequestTxn() == nil {
			continue // nothing writes twice
		}
		if _, err := branchWrites(branch); err != nil {
			return err
		}
	}
	return nil
}

func checkTxnShape(r *etcdserverpb.TxnRequest, maxOps int) error {
	ops := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*etcdserverpb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *etcdserverpb.RequestOp, maxOps int) error {
	switch req := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		return checkRange(req.RequestRange)
	case *etcdserverpb.RequestOp_RequestPut:
		return checkPut(req.RequestPut)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		return checkDelete(req.RequestDeleteRange)
	case *etcdserverpb.RequestOp_RequestTxn:
		return checkTxnShape(req.RequestTxn, maxOps)
	default: // an op that is no operation: this is what etcd says to it
		return rpctypes.ErrGRPCKeyNotFound
	}
}

// writes is what one branch of a transaction may write, nested transactions included.
type writes struct {
	puts    map[string]struct{}
	deletes []shard.Span // ascending and disjoint, unless unsorted
	// unsorted says that spans were added since the last look: a transaction may have very
	// many operations, so they are put in order once and then searched.
	unsorted bool
}

func (w *writes) addDeletes(spans ...shard.Span) {
	w.deletes = append(w.deletes, spans...)
	w.unsorted = w.unsorted || len(spans) > 0
}

func (w *writes) deletesKey(key string) bool {
	w.sortDeletes()
	k := []byte(key)
	i, found := slices.BinarySearchFunc(w.deletes, k, func(s shard.Span, k []byte) int { return bytes.Compare(s.Start, k) })
	if !found {
		i-- // the last span that begins below the key
	}
	return i >= 0 && w.deletes[i].Contains(k)
}

func (w *writes) sortDeletes() {
	if !w.unsorted {
		return
	}
	w.unsorted = false
	slices.SortFunc(w.deletes, func(a, b shard.Span) int { return bytes.Compare(a.Start, b.Start) })
	merged := w.deletes[:0]
	for _, s := range w.deletes {
		if s.Empty() {
			continue
		}
		last := len(merged) - 1
		if last < 0 || (!merged[last].Unbounded() && bytes.Compare(merged[last].End, s.Start) < 0) {
			merged = append(merged, s)
			continue
		}
		if shard.CompareEnd(s.End, merged[last].End) > 0 {
			merged[last].End = s.End
		}
	}
	w.deletes = merged
}

// addPuts takes the puts of one branch of a nested transaction. A key may stand in both of
// its branches, which exclude each other: sibling holds those of the other one.
func (w *writes) addPuts(puts, sibling map[string]struct{}) error {
	for k := range puts {
		_, taken := w.puts[k]
		_, other := sibling[k]
		if (taken && !other) || w.deletesKey(k) {
			return rpctypes.ErrGRPCDuplicateKey
		}
		w.puts[k] = struct{}{}
	}
	return nil
}

// branchWrites collects what a branch writes, and refuses one that puts a key twice, or both
// puts and deletes it. As in etcd, deletes may overlap each other, and a delete inside a
// nested transaction is held against the puts that are looked at after it.
func branchWrites(ops []*etcdserverpb.RequestOp) (*writes, error) {
	w := &writes{puts: map[string]struct{}{}}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.addDeletes(shard.FromEtcd(d.Key, d.RangeEnd))
		}
	}
	for _, op := range ops {
		txn := op.GetRequestTxn()
		if txn == nil {
			continue
		}
		if err := w.addNested(txn); err != nil {
			return nil, err
		}
	}
	for _, op := range ops {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		if err := w.addPuts(map[string]struct{}{string(put.Key): {}}, nil); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *writes) addNested(txn *etcdserverpb.TxnRequest) error {
	then, err := branchWrites(txn.Success)
	if err != nil {
		return err
	}
	otherwise, err := branchWrites(txn.Failure)
	if err != nil {
		return err
	}
	if err := w.addPuts(then.puts, nil); err != nil {
		return err
	}
	if err := w.addPuts(otherwise.puts, then.puts); err != nil {
		return err
	}
	w.addDeletes(then.deletes...)
	w.addDeletes(otherwise.deletes...)
	return nil
}
