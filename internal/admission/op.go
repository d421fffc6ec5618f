package admission

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// translatedBytesMax is by how much a request that was translated to an Op and back may be
// longer than it was: an order that was left out is stated then. Two bytes for each range.
const translatedBytesMax = 1024

// Op takes an Op that was made outside of this process, by a routing client, and returns one that may be
// handed to the store: what the door makes of the etcd request that the Op stands for. Whatever no
// request of etcd's can say, such as an expiry, is shard.ErrInvalid. The bytes are shared with op.
func (d *Door) Op(op *pb.Op) (*pb.Op, error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, err
	}
	maxBytes := d.limits.MaxRequestBytes + translatedBytesMax
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
	var out *pb.Op
	switch r := req.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		out, err = d.delete(r.RequestDeleteRange, maxBytes)
	case *etcdserverpb.RequestOp_RequestTxn:
		out, err = d.txn(r.RequestTxn, maxBytes)
	default:
		return nil, fmt.Errorf("%w: a client writes with a put, a delete or a transaction", shard.ErrInvalid)
	}
	if err != nil {
		return nil, refused(err)
	}
	return out, nil
}

func refused(err error) error { return fmt.Errorf("%w: %s", shard.ErrInvalid, rpctypes.ErrorDesc(err)) }

// checkSize refuses what etcd would refuse to propose.
func checkSize(m proto.Message, maxBytes int) error {
	if proto.Size(m) > maxBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

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
