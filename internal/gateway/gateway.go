package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
)

// Gateway serves etcd's API as JSON under /v3/. Safe for concurrent use.
type Gateway struct{ sockets *sockets }

// New returns a gateway that asks over conn, which stays the caller's. An object of a request has so many bytes at most, as JSON.
func New(conn grpc.ClientConnInterface, objectBytesMax int) (*Gateway, error) {
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler(objectBytesMax)))
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
