package etcdapi

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// translatedBytesMax is by how much a request that was translated to an Op and back may be
// longer than it was: an order that was left out is stated then. Two bytes for each range.
const translatedBytesMax = 1024

// Limits are those of a write request; see Config.
type Limits struct{ MaxRequestBytes, MaxTxnOps int }

// Limits returns the limits of this API, defaults filled in.
func (a *API) Limits() Limits {
	return Limits{MaxRequestBytes: a.cfg.MaxRequestBytes, MaxTxnOps: a.cfg.MaxTxnOps}
}

// VetOp takes an Op that was made outside of this process, by a routing client, and returns one
// that may be handed to the store: what this package makes of the etcd request that the Op
// stands for, which has passed every check of the API. Whatever no request of etcd's can say,
// such as an expiry, is shard.ErrInvalid. The bytes are shared with op.
func VetOp(op *pb.Op, l Limits) (*pb.Op, error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, err
	}
	maxBytes := l.MaxRequestBytes + translatedBytesMax
	if kind == opPut { // nearly all writes: nothing is made of them but the result
		put := op.Put
		r := etcdserverpb.PutRequest{
			Key: put.Key, Value: put.Value, Lease: put.Lease,
			PrevKv: put.PrevKv, IgnoreValue: put.IgnoreValue, IgnoreLease: put.IgnoreLease,
		}
		if err := checkPut(&r); err != nil {
			return nil, refused(err)
		}
		out := putOp(&r)
		if out.Put.SizeVT() > maxBytes { // etcd's has the same fields
			return nil, refused(rpctypes.ErrGRPCRequestTooLarge)
		}
		return out, nil
	}
	req, err := toRequestOp(op)
	if err != nil {
		return nil, err
	}
	switch r := req.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		if err = checkDelete(r.RequestDeleteRange); err == nil {
			err = checkSize(r.RequestDeleteRange, maxBytes)
		}
	case *etcdserverpb.RequestOp_RequestTxn:
		if err = checkTxn(r.RequestTxn, l.MaxTxnOps); err == nil {
			err = checkSize(r.RequestTxn, maxBytes)
		}
	default:
		return nil, fmt.Errorf("%w: a client writes with a put, a delete or a transaction", shard.ErrInvalid)
	}
	if err != nil {
		return nil, refused(err)
	}
	return toOps([]*etcdserverpb.RequestOp{req})[0], nil
}

func refused(err error) error { return fmt.Errorf("%w: %s", shard.ErrInvalid, rpctypes.ErrorDesc(err)) }

// opKind is what an operation does.
type opKind uint8

const (
	opNone opKind = iota
	opRange
	opPut
	opDelete
	opTxn
)

// kindOf fails where an operation is of several kinds, or of one that no request of etcd's has.
func kindOf(op *pb.Op) (kind opKind, err error) {
	kinds := 0
	is := func(k opKind, set bool) {
		if set {
			kind = k
			kinds++
		}
	}
	is(opRange, op.GetRange() != nil)
	is(opPut, op.GetPut() != nil)
	is(opDelete, op.GetDelete() != nil)
	is(opTxn, op.GetTxn() != nil)
	switch {
	case op.GetExpireLease() != 0:
		return opNone, fmt.Errorf("%w: leases expire by themselves", shard.ErrInvalid)
	case kinds > 1:
		return opNone, fmt.Errorf("%w: an operation of several kinds", shard.ErrInvalid)
	}
	return kind, nil
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
