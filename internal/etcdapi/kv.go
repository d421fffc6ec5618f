package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"pontoon/internal/pb"
)

// kvServer is etcd's KV service.
type kvServer struct {
	etcdserverpb.UnsafeKVServer // a method that is missing shall not compile
	api                         *API
}

// Range reads a key or a span.
func (s *kvServer) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	res, err := s.api.cfg.KV.Range(ctx, toRangeOp(r), r.Serializable)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.RangeResponse{
		Header: s.api.header(res.Revision), Kvs: fromRangeKVs(res.KVs, r), More: res.More, Count: res.Count,
	}, nil
}

// RangeStream reads a span in chunks of one revision. As in etcd only the last chunk has a
// header, the count and more.
func (s *kvServer) RangeStream(r *etcdserverpb.RangeRequest, stream grpc.ServerStreamingServer[etcdserverpb.RangeStreamResponse]) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	send := func(chunk *etcdserverpb.RangeResponse) error {
		return stream.Send(&etcdserverpb.RangeStreamResponse{RangeResponse: chunk})
	}
	last := &RangeResult{}
	first := true
	err := s.api.cfg.KV.RangePages(stream.Context(), toRangeOp(r), r.Serializable, s.api.cfg.MaxRequestBytes, func(page *RangeResult) error {
		held := last // which page is the last is known when the next one does not come
		last = page
		if first {
			first = false
			return nil
		}
		return send(&etcdserverpb.RangeResponse{Kvs: fromRangeKVs(held.KVs, r)})
	})
	if err != nil {
		return toRPC(err)
	}
	return send(&etcdserverpb.RangeResponse{
		Header: s.api.header(last.Revision), Kvs: fromRangeKVs(last.KVs, r), More: last.More, Count: last.Count,
	})
}

// Put writes a key.
func (s *kvServer) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	if err := checkSize(r, s.api.cfg.MaxRequestBytes); err != nil {
		return nil, err
	}
	res, err := s.api.cfg.KV.Write(ctx, &pb.Op{Put: toPutOp(r)})
	if err != nil {
		return nil, toRPC(err)
	}
	return fromPutResult(s.api.header(res.Revision), res.Result.GetPut()), nil
}

// DeleteRange deletes a key or a span.
func (s *kvServer) DeleteRange(ctx context.Context, r *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	if err := checkSize(r, s.api.cfg.MaxRequestBytes); err != nil {
		return nil, err
	}
	res, err := s.api.cfg.KV.Write(ctx, &pb.Op{Delete: toDeleteOp(r)})
	if err != nil {
		return nil, toRPC(err)
	}
	return fromDeleteResult(s.api.header(res.Revision), res.Result.GetDelete()), nil
}

// Txn compares and then performs one of two lists of operations, at one revision.
func (s *kvServer) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := checkTxn(r, s.api.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkSize(r, s.api.cfg.MaxRequestBytes); err != nil {
		return nil, err
	}
	res, err := s.api.cfg.KV.Write(ctx, &pb.Op{Txn: toTxnOp(r)})
	if err != nil {
		return nil, toRPC(err)
	}
	return fromTxnResult(s.api.header(res.Revision), res.Result.GetTxn()), nil
}

// Compact forgets history.
func (s *kvServer) Compact(ctx context.Context, r *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	rev, err := s.api.cfg.KV.Compact(ctx, r.Revision, r.Physical)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.CompactionResponse{Header: s.api.header(rev)}, nil
}
