package admission

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// Limits are those of a write request.
type Limits struct {
	// MaxRequestBytes bounds a write request as etcd encodes it.
	MaxRequestBytes int
	// MaxTxnOps bounds each list of a transaction; a nested one has what is left over.
	MaxTxnOps int
}

// Door admits requests. It has no state beside its limits; any number of goroutines may use it. Its
// errors are etcd's, as gRPC carries them, unless a method says otherwise.
type Door struct{ limits Limits }

// New returns a door. Both limits are above zero.
func New(l Limits) *Door { return &Door{limits: l} }

// Limits returns what New was given.
func (d *Door) Limits() Limits { return d.limits }

// Range admits a read. The op has been normalised: no negative limit or revision, and a sort order only
// where the result must differ from ascending key order.
func (d *Door) Range(r *etcdserverpb.RangeRequest) (*pb.RangeOp, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	return outerRangeOp(r), nil
}

// RangeStream admits a read that is answered in chunks.
func (d *Door) RangeStream(r *etcdserverpb.RangeRequest) (*pb.RangeOp, error) {
	if err := checkRangeStream(r); err != nil {
		return nil, err
	}
	return outerRangeOp(r), nil
}

// Put admits a put.
func (d *Door) Put(r *etcdserverpb.PutRequest) (*pb.Op, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	if err := checkSize(r, d.limits.MaxRequestBytes); err != nil {
		return nil, err
	}
	return putOp(r), nil
}

// DeleteRange admits a delete.
func (d *Door) DeleteRange(r *etcdserverpb.DeleteRangeRequest) (*pb.Op, error) {
	return d.delete(r, d.limits.MaxRequestBytes)
}

func (d *Door) delete(r *etcdserverpb.DeleteRangeRequest, maxBytes int) (*pb.Op, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	if err := checkSize(r, maxBytes); err != nil {
		return nil, err
	}
	return &pb.Op{Delete: toDeleteOp(r)}, nil
}

// Txn admits a transaction with all that is in it.
func (d *Door) Txn(r *etcdserverpb.TxnRequest) (*pb.Op, error) {
	return d.txn(r, d.limits.MaxRequestBytes)
}

func (d *Door) txn(r *etcdserverpb.TxnRequest, maxBytes int) (*pb.Op, error) {
	if err := checkTxn(r, d.limits.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkSize(r, maxBytes); err != nil {
		return nil, err
	}
	return &pb.Op{Txn: toTxnOp(r)}, nil
}

// Reasons that etcd gives for not creating a watch, and the one that it does not have.
var (
	errWatchCompacted  = errors.New(rpctypes.ErrCompacted.Error())
	errWatchEmptyRange = errors.New("mvcc: watcher range is empty")
	errWatchReservedID = fmt.Errorf("etcdserver: watch id %d stands for no watch", watchfanout.StreamWide)
)

// Watch admits a watch. The text of its error is the reason that the client is given. Start 0 stands for
// the current revision, and so it is for the caller to fill in.
func (d *Door) Watch(r *etcdserverpb.WatchCreateRequest) (watchfanout.WatchRequest, error) {
	span, ok := watchSpan(r.Key, r.RangeEnd)
	switch {
	case r.StartRevision < 0:
		return watchfanout.WatchRequest{}, errWatchCompacted
	case !ok:
		return watchfanout.WatchRequest{}, errWatchEmptyRange
	case r.WatchId == watchfanout.StreamWide: // the id of responses that belong to no watch in particular
		return watchfanout.WatchRequest{}, errWatchReservedID
	}
	out := watchfanout.WatchRequest{ID: r.WatchId, Span: span, Start: r.StartRevision, PrevKV: r.PrevKv}
	for _, f := range r.Filters {
		out.NoPut = out.NoPut || f == etcdserverpb.WatchCreateRequest_NOPUT
		out.NoDelete = out.NoDelete || f == etcdserverpb.WatchCreateRequest_NODELETE
	}
	return out, nil
}

// watchSpan is the span of a watch; false if it is empty. An empty key stands for the smallest.
func watchSpan(key, end []byte) (shard.Span, bool) {
	if len(key) == 0 {
		key = []byte{0}
	}
	s := shard.FromEtcd(key, end)
	whole := len(end) == 1 && end[0] == 0
	if len(end) != 0 && !whole && bytes.Compare(key, end) >= 0 {
		return s, false
	}
	return s, true
}

// leaseTTLMax is etcd's longest lease, in seconds.
const leaseTTLMax = 9_000_000_000

// LeaseGrant admits a lease. There is no wrong way to ask about one, to renew or to end it.
func (d *Door) LeaseGrant(r *etcdserverpb.LeaseGrantRequest) error {
	if r.TTL > leaseTTLMax {
		return rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	return nil
}

// errStream answers a RangeStream whose order or filter would need all keys at once; etcd refuses the
// same.
func errStream(what string) error {
	return status.Error(codes.Unimplemented, "RangeStream does not support "+what)
}
