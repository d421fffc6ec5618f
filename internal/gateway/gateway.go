package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// Gateway serves etcd's API as JSON under /v3/. Safe for concurrent use.
type Gateway struct{ sockets *sockets }

// New returns a gateway that asks over conn, which stays the caller's. An object of a request has so many bytes at most, as JSON.
func New(conn grpc.ClientConnInterface, objectBytesMax int) (*Gateway, error) {
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler(objectBytesMax)), runtime.WithStreamErrorHandler(streamError))
	ctx := context.Background() // nothing is done behind its end: a connection that is given is not closed
	for _, register := range []func() error{
		func() error { return gw.RegisterKVHandlerClient(ctx, mux, etcdserverpb.NewKVClient(conn)) },
		func() error { return gw.RegisterWatchHandlerClient(ctx, mux, etcdserverpb.NewWatchClient(conn)) },
		func() error { return gw.RegisterLeaseHandlerClient(ctx, mux, etcdserverpb.NewLeaseClient(conn)) },
		func() error { return gw.RegisterClusterHandlerClient(ctx, mux, etcdserverpb.NewClusterClient(conn)) },
		func() error {
			return gw.RegisterMaintenanceHandlerClient(ctx, mux, etcdserverpb.NewMaintenanceClient(conn))
		},
		func() error { return gw.RegisterAuthHandlerClient(ctx, mux, etcdserverpb.NewAuthClient(conn)) },
		func() error { return lockgw.RegisterLockHandlerClient(ctx, mux, v3lockpb.NewLockClient(conn)) },
		func() error {
			return electiongw.RegisterElectionHandlerClient(ctx, mux, v3electionpb.NewElectionClient(conn))
		},
	} {
		if err := register(); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	return &Gateway{newSockets(mux, objectBytesMax)}, nil
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.sockets.ServeHTTP(w, r) }

// Close ends what is under way on websockets, of which the server of HTTP knows nothing.
func (g *Gateway) Close() error {
	g.sockets.close()
	return nil
}

// streamEnd is how the stream of a request has ended.
type streamEnd struct{ stopped bool }

// endKey is where a request's context has its *streamEnd.
type endKey struct{}

// streamError notes that a stream has ended because the node stops.
func streamError(ctx context.Context, err error) *status.Status {
	st := runtime.DefaultStreamErrorHandler(ctx, err)
	if end, ok := ctx.Value(endKey{}).(*streamEnd); ok && st.Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCStopped) {
		end.stopped = true
	}
	return st
}

// breakable serves requests as next does, and breaks the connection of a stream that ends because the node stops, as it breaks when an etcd stops:
// clients go to another node then. Of an object that says so in their stream not all make something.
func breakable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end := &streamEnd{}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endKey{}, end)))
		if end.stopped {
			panic(http.ErrAbortHandler) // what was written since the last whole object is dropped
		}
	})
}

// newMarshaler has etcd's form of JSON.
func newMarshaler(objectBytesMax int) runtime.Marshaler {
	return &bounded{
		HTTPBodyMarshaler: runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}},
		max: objectBytesMax,
	}
}
