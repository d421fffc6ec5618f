package etcdapi

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"pontoon/internal/pb"
)

// Translation of our results into etcd's messages (internal/admission has that of requests). Bytes are
// shared, never copied: results are only read.

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
