package etcdapi

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// checkUnary refuses calls of which it is known beforehand that they cannot be served: by what a learner is, or by their metadata.
func (a *API) checkUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !servedByLearners(info.FullMethod, req) && a.cfg.Learner(ctx) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if err := a.checkMetadata(ctx, "unary"); err != nil {
		return nil, err
	}
	if err := a.guard.call(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// interceptStream is around every stream: it counts, keeps a panic in one from ending the process, and refuses what checkStream does. It is one function,
// because all that is between gRPC and a handler stays on the stack for as long as the stream does.
func (a *API) interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	counted := a.metrics.stream(ss, info)
	defer func() {
		if p := recover(); p != nil {
			err = a.panicked(info.FullMethod, p)
		}
		counted.end(err)
	}()
	if aside(func() { err = a.checkStream(ss.Context(), info.FullMethod) }); err != nil {
		return err
	}
	return handler(srv, counted)
}

func (a *API) checkStream(ctx context.Context, method string) error {
	if !servedByLearners(method, nil) && a.cfg.Learner(ctx) {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	if err := a.checkMetadata(ctx, "stream"); err != nil {
		return err
	}
	return a.guard.call(ctx, method)
}

// servedByLearners reports whether a learner serves a call, as in etcd: its status, reads that need not be the newest, and snapshots. What is
// not etcd's, or gRPC's own, goes by other rules.
func servedByLearners(method string, req any) bool {
	if r, ok := req.(*etcdserverpb.RangeRequest); ok {
		return r.Serializable
	}
	return method == etcdserverpb.Maintenance_Status_FullMethodName || method == etcdserverpb.Maintenance_Snapshot_FullMethodName ||
		!slices.ContainsFunc(servicesOfVoters, func(prefix string) bool { return strings.HasPrefix(method, prefix) })
}

// servicesOfVoters are etcd's packages of services, the recipes' too, and gRPC's own.
var servicesOfVoters = []string{"/etcdserverpb.", "/v3lockpb.", "/v3electionpb.", "/grpc."}

func (a *API) checkMetadata(ctx context.Context, kind string) error {
	ver := "unknown"
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		ver = v[0]
	}
	if !utf8.ValidString(ver) {
		return rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	a.metrics.clientRequest(kind, ver)
	if wantsLeader(ctx) && !a.cfg.Leadership.HasLeader(nil) {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

// recoverUnary keeps a panic in one request from ending the process.
func (a *API) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, a.panicked(info.FullMethod, p)
		}
	}()
	return handler(ctx, req)
}

func (a *API) panicked(method string, p any) error {
	a.log.Error("a request handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	return errPanicked(method)
}

// logUnary logs unary requests: the slow ones as warnings, all of them when debugging. The
// message and the field names are etcd's, because scripts look for them.
func (a *API) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	a.figures.begin(info.FullMethod)
	resp, err := handler(ctx, req)
	took := time.Since(start)
	a.figures.end(info.FullMethod, req, resp, took, err)
	level := slog.LevelDebug
	if took >= a.cfg.SlowRequest {
		level = slog.LevelWarn
	}
	if !a.log.Enabled(ctx, level) {
		return resp, err
	}
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	st := statsOf(req, resp)
	a.log.LogAttrs(ctx, level, "request stats",
		slog.Time("start time", start),
		slog.String("time spent", took.String()),
		slog.String("remote", remote),
		slog.String("response type", info.FullMethod),
		slog.Int64("request count", st.reqCount),
		slog.Int("request size", st.reqSize),
		slog.Int64("response count", st.respCount),
		slog.Int("response size", st.respSize),
		slog.String("request content", st.content),
	)
	return resp, err
}

// requestStats describes a request without its values, which may be secrets. -1: not counted.
type requestStats struct {
	reqCount, respCount int64
	reqSize, respSize   int
	content             string
}

func statsOf(req, resp any) requestStats {
	st := requestStats{reqCount: -1, respCount: -1, reqSize: -1, respSize: -1}
	if m, ok := req.(proto.Message); ok {
		st.reqSize = proto.Size(m)
	}
	switch m := resp.(type) {
	case proto.Message:
		st.respSize = proto.Size(m)
	case *rangeFrame:
		st.respSize, st.respCount = m.size(), m.head.GetCount()
	}
	switch r := req.(type) {
	case *etcdserverpb.RangeRequest:
		st.content, st.reqCount = r.String(), 0
	case *etcdserverpb.PutRequest:
		st.content, st.reqCount = etcdserverpb.NewLoggablePutRequest(r).String(), 1
	case *etcdserverpb.DeleteRangeRequest:
		st.content, st.reqCount = r.String(), 0
	case *etcdserverpb.TxnRequest:
		st.content, st.reqCount = etcdserverpb.NewLoggableTxnRequest(r).String(), int64(len(r.Success))
	}
	switch r := resp.(type) {
	case *etcdserverpb.RangeResponse:
		st.respCount = r.GetCount()
	case *etcdserverpb.DeleteRangeResponse:
		st.respCount = r.GetDeleted()
	case *etcdserverpb.PutResponse, *etcdserverpb.TxnResponse:
		st.respCount = 0
	}
	return st
}
