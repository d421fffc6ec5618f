package admission

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/internal/pb"
)

// Translation between etcd's requests and ours, both ways. Bytes are shared, never copied: requests are
// not touched after they were handed on.

// outerRangeOp is toRangeOp for a range that stands alone: a revision below zero is the current one
// there, while one inside a transaction is refused.
func outerRangeOp(r *etcdserverpb.RangeRequest) *pb.RangeOp {
	op := toRangeOp(r)
	op.Revision = max(op.Revision, 0)
	return op
}

func toRangeOp(r *etcdserverpb.RangeRequest) *pb.RangeOp {
	op := &pb.RangeOp{
		Key: r.Key, RangeEnd: r.RangeEnd,
		Limit: max(r.Limit, 0), Revision: r.Revision,
		KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
		SortTarget: int32(r.SortTarget), SortOrder: int32(r.SortOrder),
	}
	byKey := r.SortTarget == etcdserverpb.RangeRequest_KEY
	switch {
	case byKey && r.SortOrder == etcdserverpb.RangeRequest_ASCEND:
		op.SortOrder = int32(etcdserverpb.RangeRequest_NONE) // results ascend by key anyway
	case !byKey && r.SortOrder == etcdserverpb.RangeRequest_NONE:
		op.SortOrder = int32(etcdserverpb.RangeRequest_ASCEND) // a target alone means ascending
	}
	return op
}

func putOp(r *etcdserverpb.PutRequest) *pb.Op {
	op := pb.NewPut()
	p := op.Put
	p.Key, p.Value, p.Lease = r.Key, r.Value, r.Lease
	p.PrevKv, p.IgnoreValue, p.IgnoreLease = r.PrevKv, r.IgnoreValue, r.IgnoreLease
	return op
}

func toDeleteOp(r *etcdserverpb.DeleteRangeRequest) *pb.DeleteOp {
	return &pb.DeleteOp{Key: r.Key, RangeEnd: r.RangeEnd, PrevKv: r.PrevKv}
}

func toCompare(c *etcdserverpb.Compare) *pb.Compare {
	out := &pb.Compare{Result: int32(c.Result), Target: int32(c.Target), Key: c.Key, RangeEnd: c.RangeEnd}
	// A union that does not belong to the target counts as absent, that is as zero.
	switch c.Target {
	case etcdserverpb.Compare_VERSION:
		out.Number = c.GetVersion()
	case etcdserverpb.Compare_CREATE:
		out.Number = c.GetCreateRevision()
	case etcdserverpb.Compare_MOD:
		out.Number = c.GetModRevision()
	case etcdserverpb.Compare_LEASE:
		out.Number = c.GetLease()
	case etcdserverpb.Compare_VALUE:
		out.Value = c.GetValue()
	}
	return out
}

func toTxnOp(r *etcdserverpb.TxnRequest) *pb.TxnOp {
	op := &pb.TxnOp{Success: toOps(r.Success), Failure: toOps(r.Failure), Compare: make([]*pb.Compare, len(r.Compare))}
	for i, c := range r.Compare {
		op.Compare[i] = toCompare(c)
	}
	return op
}

func toOps(reqs []*etcdserverpb.RequestOp) []*pb.Op {
	ops := make([]*pb.Op, 0, len(reqs))
	for _, r := range reqs {
		op := &pb.Op{}
		switch req := r.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestRange:
			op.Range = toRangeOp(req.RequestRange)
		case *etcdserverpb.RequestOp_RequestPut:
			op = putOp(req.RequestPut)
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			op.Delete = toDeleteOp(req.RequestDeleteRange)
		case *etcdserverpb.RequestOp_RequestTxn:
			op.Txn = toTxnOp(req.RequestTxn)
		}
		ops = append(ops, op)
	}
	return ops
}

// toRequestOp is the reverse of toOps for one operation. It does not check what checkOp does.
func toRequestOp(op *pb.Op) (*etcdserverpb.RequestOp, error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, err
	}
	switch kind {
	case opRange:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: toRangeRequest(op.Range)}}, nil
	case opPut:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
			Key: op.Put.Key, Value: op.Put.Value, Lease: op.Put.Lease,
			PrevKv: op.Put.PrevKv, IgnoreValue: op.Put.IgnoreValue, IgnoreLease: op.Put.IgnoreLease,
		}}}, nil
	case opDelete:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{
			Key: op.Delete.Key, RangeEnd: op.Delete.RangeEnd, PrevKv: op.Delete.PrevKv,
		}}}, nil
	case opTxn:
		txn, err := toTxnRequest(op.Txn)
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: txn}}, err
	}
	return &etcdserverpb.RequestOp{}, nil // checkOp refuses it inside a transaction, VetOp outside
}

func toRangeRequest(r *pb.RangeOp) *etcdserverpb.RangeRequest {
	return &etcdserverpb.RangeRequest{
		Key: r.Key, RangeEnd: r.RangeEnd, Limit: r.Limit, Revision: r.Revision,
		SortOrder:  etcdserverpb.RangeRequest_SortOrder(r.SortOrder),
		SortTarget: etcdserverpb.RangeRequest_SortTarget(r.SortTarget),
		KeysOnly:   r.KeysOnly, CountOnly: r.CountOnly,
		MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
	}
}

func toTxnRequest(t *pb.TxnOp) (*etcdserverpb.TxnRequest, error) {
	req := &etcdserverpb.TxnRequest{}
	for _, c := range t.Compare {
		req.Compare = append(req.Compare, toEtcdCompare(c))
	}
	var err error
	if req.Success, err = toRequestOps(t.Success); err != nil {
		return nil, err
	}
	req.Failure, err = toRequestOps(t.Failure)
	return req, err
}

func toRequestOps(ops []*pb.Op) ([]*etcdserverpb.RequestOp, error) {
	out := make([]*etcdserverpb.RequestOp, len(ops))
	for i, op := range ops {
		var err error
		if out[i], err = toRequestOp(op); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func toEtcdCompare(c *pb.Compare) *etcdserverpb.Compare {
	out := &etcdserverpb.Compare{
		Result: etcdserverpb.Compare_CompareResult(c.GetResult()), Target: etcdserverpb.Compare_CompareTarget(c.GetTarget()),
		Key: c.GetKey(), RangeEnd: c.GetRangeEnd(),
	}
	switch out.Target {
	case etcdserverpb.Compare_VERSION:
		out.TargetUnion = &etcdserverpb.Compare_Version{Version: c.GetNumber()}
	case etcdserverpb.Compare_CREATE:
		out.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: c.GetNumber()}
	case etcdserverpb.Compare_MOD:
		out.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: c.GetNumber()}
	case etcdserverpb.Compare_LEASE:
		out.TargetUnion = &etcdserverpb.Compare_Lease{Lease: c.GetNumber()}
	case etcdserverpb.Compare_VALUE:
		out.TargetUnion = &etcdserverpb.Compare_Value{Value: c.GetValue()}
	}
	return out
}
