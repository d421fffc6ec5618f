package etcdshim

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/etcdapi"
)

var _ etcdserverpb.KVClient = (*shim)(nil)

// sendBytesMax is clientv3's limit of a request where the configuration has none.
const sendBytesMax = 2 << 20

// Range implements etcdserverpb.KVClient. A serializable read is a question to the contacted
// node: what it has, without asking others.
func (s *shim) Range(ctx context.Context, r *etcdserverpb.RangeRequest, opts ...grpc.CallOption) (*etcdserverpb.RangeResponse, error) {
	if r.Serializable {
		return s.plain.Range(ctx, r, opts...)
	}
	return through(ctx, s, true, r, etcdserverpb.KVServer.Range, s.plain.Range, opts)
}

// Put implements etcdserverpb.KVClient.
func (s *shim) Put(ctx context.Context, r *etcdserverpb.PutRequest, opts ...grpc.CallOption) (*etcdserverpb.PutResponse, error) {
	return through(ctx, s, false, r, etcdserverpb.KVServer.Put, s.plain.Put, opts)
}

// DeleteRange implements etcdserverpb.KVClient.
func (s *shim) DeleteRange(ctx context.Context, r *etcdserverpb.DeleteRangeRequest, opts ...grpc.CallOption) (*etcdserverpb.DeleteRangeResponse, error) {
	return through(ctx, s, false, r, etcdserverpb.KVServer.DeleteRange, s.plain.DeleteRange, opts)
}

// Txn implements etcdserverpb.KVClient.
func (s *shim) Txn(ctx context.Context, r *etcdserverpb.TxnRequest, opts ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	return through(ctx, s, false, r, etcdserverpb.KVServer.Txn, s.plain.Txn, opts)
}

// Compact implements etcdserverpb.KVClient.
func (s *shim) Compact(ctx context.Context, r *etcdserverpb.CompactionRequest, opts ...grpc.CallOption) (*etcdserverpb.CompactionResponse, error) {
	return through(ctx, s, false, r, etcdserverpb.KVServer.Compact, s.plain.Compact, opts)
}

// through sends a request the direct way where there is one, and else, or where nobody could be
// reached that way, over the ordinary connection.
func through[Q, P proto.Message](ctx context.Context, s *shim, reads bool, req Q,
	direct func(etcdserverpb.KVServer, context.Context, Q) (P, error),
	plain func(context.Context, Q, ...grpc.CallOption) (P, error), opts []grpc.CallOption,
) (P, error) {
	var none P
	l, err := s.link(ctx)
	switch {
	case err != nil && s.strict:
		return none, err
	case err != nil:
		return plain(ctx, req, opts...)
	}
	defer l.users.Done()
	if err := s.checkSent(req); err != nil {
		return none, err
	}
	resp, err := direct(l.kv, ctx, req)
	switch {
	case err == nil:
		return resp, s.checkReceived(resp)
	case s.strict || !elsewhere(ctx, err, reads):
		return none, err
	}
	s.giveUp(l, err)
	return plain(ctx, req, opts...)
}

// giveUp says that a request takes the ordinary way, and ends a link that leads nowhere: the
// cluster may have moved, and is looked for again later.
func (s *shim) giveUp(l *link, err error) {
	s.cli.GetLogger().Debug("a request takes the ordinary way", zap.Error(err))
	if l.asks.lost.Load() {
		s.retire(l, err)
	}
}

// elsewhere tells whether a request that failed may be sent over the ordinary connection: it
// certainly was not applied, or it only reads. What may have been applied says so by its type
// alone: to a client of etcd a request that timed out is the same, whether it was sent or not.
func elsewhere(ctx context.Context, err error, reads bool) bool {
	switch {
	case ctx.Err() != nil:
		return false
	case etcdapi.OutcomeUnknown(err):
		return reads
	case errors.Is(err, rpctypes.ErrGRPCTimeout), errors.Is(err, rpctypes.ErrGRPCNoLeader), status.Code(err) == codes.Unimplemented:
		return true
	}
	return reads && status.Code(err) == codes.DeadlineExceeded
}

// checkSent and checkReceived keep clientv3's limits of a message.
func (s *shim) checkSent(m proto.Message) error {
	limit := sendBytesMax
	if s.cfg.MaxCallSendMsgSize > 0 {
		limit = s.cfg.MaxCallSendMsgSize
	}
	if size := proto.Size(m); size > limit {
		return status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", size, limit)
	}
	return nil
}

func (s *shim) checkReceived(m proto.Message) error {
	limit := s.cfg.MaxCallRecvMsgSize
	if limit <= 0 {
		return nil
	}
	if size := proto.Size(m); size > limit {
		return status.Errorf(codes.ResourceExhausted, "received message larger than max (%d vs. %d)", size, limit)
	}
	return nil
}
