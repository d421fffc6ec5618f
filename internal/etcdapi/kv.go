package etcdapi

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"pontoon/internal/pb"
)

// kvServer is etcd's KV service.
type kvServer struct {
	etcdserverpb.UnsafeKVServer // a method that is missing shall not compile
	api                         *API
}

// register adds the service to s. Its Range is our own: the generated one answers with a message, whose
// keys would have to be decoded to be encoded again.
func (s *kvServer) register(gs *grpc.Server) {
	desc := etcdserverpb.KV_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	i := slices.IndexFunc(desc.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == "Range" })
	desc.Methods[i].Handler = s.handleRange
	gs.RegisterService(&desc, s)
}

// handleRange is a grpc.MethodHandler.
func (s *kvServer) handleRange(_ any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	req := &etcdserverpb.RangeRequest{}
	if err := dec(req); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, req any) (any, error) {
		r := req.(*etcdserverpb.RangeRequest)
		if len(r.RangeEnd) == 0 || r.CountOnly {
			return s.Range(ctx, r)
		}
		return s.rangeEncoded(ctx, r)
	}
	if intercept == nil {
		return handle(ctx, req)
	}
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: etcdserverpb.KV_Range_FullMethodName}
	return intercept(ctx, req, info, handle)
}

// judged reads what who asks may read: before, and by what is known when the oracle has answered.
func (s *kvServer) judged(ctx context.Context, r *etcdserverpb.RangeRequest, read func() (*RangeResult, error)) (*RangeResult, error) {
	asked, err := s.api.guard.Read(ctx, r.Key, r.RangeEnd, r.Serializable)
	if err != nil {
		return nil, err
	}
	res, err := read()
	if denied := asked.Again(ctx); denied != nil {
		return nil, denied
	}
	return res, err
}

// rangeEncoded reads a span and answers with its keys as they came, in a *rangeFrame.
func (s *kvServer) rangeEncoded(ctx context.Context, r *etcdserverpb.RangeRequest) (any, error) {
	op, err := s.api.door.Range(r)
	if err != nil {
		return nil, err
	}
	res, err := s.judged(ctx, r, func() (*RangeResult, error) { return s.api.cfg.KV.RangeEncoded(ctx, op, r.Serializable) })
	if err != nil {
		return nil, toRPC(err)
	}
	head := &etcdserverpb.RangeResponse{
		Header: s.api.header(res.Revision), Kvs: fromRangeKVs(res.KVs, r), More: res.More, Count: res.Count,
	}
	return &rangeFrame{head: head, kvs: res.Encoded}, nil
}

// Range reads a key or a span.
func (s *kvServer) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	op, err := s.api.door.Range(r)
	if err != nil {
		return nil, err
	}
	res, err := s.judged(ctx, r, func() (*RangeResult, error) { return s.api.cfg.KV.Range(ctx, op, r.Serializable) })
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
	op, err := s.api.door.RangeStream(r)
	if err != nil {
		return err
	}
	asked, err := s.api.guard.Read(stream.Context(), r.Key, r.RangeEnd, r.Serializable)
	if err != nil {
		return toRPC(err)
	}
	send := func(page *RangeResult, chunk *etcdserverpb.RangeResponse) error {
		if err := asked.againSettled(stream.Context()); err != nil {
			return err
		}
		if len(page.Encoded) > 0 {
			return stream.SendMsg(&streamFrame{rangeFrame{head: chunk, kvs: page.Encoded}})
		}
		chunk.Kvs = fromRangeKVs(page.KVs, r)
		return stream.Send(&etcdserverpb.RangeStreamResponse{RangeResponse: chunk})
	}
	last := &RangeResult{}
	first := true
	err = s.api.cfg.KV.RangePages(stream.Context(), op, r.Serializable, s.api.cfg.MaxRequestBytes, func(page *RangeResult) error {
		held := last // which page is the last is known when the next one does not come
		last = page
		if first {
			first = false
			return nil
		}
		return send(held, &etcdserverpb.RangeResponse{})
	})
	if err != nil {
		return toRPC(err)
	}
	return toRPC(send(last, &etcdserverpb.RangeResponse{Header: s.api.header(last.Revision), More: last.More, Count: last.Count}))
}

// write carries out what may be done, as far as is known here.
func (s *kvServer) write(ctx context.Context, op *pb.Op) (*WriteResult, error) {
	by, err := s.api.guard.Checked(ctx, op, s.api.keysOf)
	if err != nil {
		return nil, err
	}
	return s.api.cfg.KV.WriteBy(ctx, op, by)
}

// Put writes a key.
func (s *kvServer) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	op, err := s.api.door.Put(r)
	if err != nil {
		return nil, err
	}
	res, err := s.write(ctx, op)
	if err != nil {
		return nil, toRPC(err)
	}
	out := &struct { // one allocation
		resp   etcdserverpb.PutResponse
		header etcdserverpb.ResponseHeader
	}{}
	s.api.fillHeader(&out.header, res.Revision)
	out.resp.Header, out.resp.PrevKv = &out.header, fromKV(res.Result.GetPut().GetPrevKv())
	return &out.resp, nil
}

// DeleteRange deletes a key or a span.
func (s *kvServer) DeleteRange(ctx context.Context, r *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	op, err := s.api.door.DeleteRange(r)
	if err != nil {
		return nil, err
	}
	res, err := s.write(ctx, op)
	if err != nil {
		return nil, toRPC(err)
	}
	return fromDeleteResult(s.api.header(res.Revision), res.Result.GetDelete()), nil
}

// Txn compares and then performs one of two lists of operations, at one revision.
func (s *kvServer) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	op, err := s.api.door.Txn(r)
	if err != nil {
		return nil, err
	}
	res, err := s.write(ctx, op)
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
