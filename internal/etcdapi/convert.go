package etcdapi

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"pontoon/internal/pb"
)

// Translation between etcd's messages and ours. Bytes are shared both ways, never copied:
// requests are not touched after they were handed on, and results are only read.

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

func fromKV(kv *pb.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, Lease: kv.Lease, Version: kv.Version,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}

func fromKVs(kvs []*pb.KeyValue) []*mvccpb.KeyValue {
	out := make([]*mvccpb.KeyValue, len(kvs))
	for i, kv := range kvs {
		out[i] = fromKV(kv)
	}
	return out
}

// fromRangeKVs leaves out what a range did not ask for. etcd answers keys alone from its index, which
// knows no leases, unless it needs the values to sort by them.
func fromRangeKVs(kvs []*pb.KeyValue, r *etcdserverpb.RangeRequest) []*mvccpb.KeyValue {
	out := fromKVs(kvs)
	for _, kv := range out {
		if r.KeysOnly {
			kv.Value = nil
		}
		if r.KeysOnly && r.SortTarget != etcdserverpb.RangeRequest_VALUE {
			kv.Lease = 0
		}
	}
	return out
}

func fromRangeResult(h *etcdserverpb.ResponseHeader, r *pb.RangeResult) *etcdserverpb.RangeResponse {
	return &etcdserverpb.RangeResponse{Header: h, Kvs: fromKVs(r.GetKvs()), More: r.GetMore(), Count: r.GetCount()}
}

func fromPutResult(h *etcdserverpb.ResponseHeader, r *pb.PutResult) *etcdserverpb.PutResponse {
	return &etcdserverpb.PutResponse{Header: h, PrevKv: fromKV(r.GetPrevKv())}
}

func fromDeleteResult(h *etcdserverpb.ResponseHeader, r *pb.DeleteResult) *etcdserverpb.DeleteRangeResponse {
	return &etcdserverpb.DeleteRangeResponse{Header: h, Deleted: r.GetDeleted(), PrevKvs: fromKVs(r.GetPrevKvs())}
}

func fromTxnResult(h *etcdserverpb.ResponseHeader, r *pb.TxnResult) *etcdserverpb.TxnResponse {
	resp := &etcdserverpb.TxnResponse{Header: h, Succeeded: r.GetSucceeded()}
	for _, res := range r.GetResults() {
		resp.Responses = append(resp.Responses, fromResult(res))
	}
	return resp
}

// fromResult translates one result inside a transaction. As in etcd its header holds nothing
// but the revision as of that operation, and a nested transaction's header not even that.
func fromResult(r *pb.Result) *etcdserverpb.ResponseOp {
	h := &etcdserverpb.ResponseHeader{Revision: r.GetRevision()}
	switch {
	case r.GetRange() != nil:
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: fromRangeResult(h, r.Range)}}
	case r.GetPut() != nil:
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: fromPutResult(h, r.Put)}}
	case r.GetDelete() != nil:
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: fromDeleteResult(h, r.Delete)}}
	case r.GetTxn() != nil:
		nested := fromTxnResult(&etcdserverpb.ResponseHeader{}, r.Txn)
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: nested}}
	default:
		return &etcdserverpb.ResponseOp{}
	}
}
