package recipes

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Services are the two. Use New, Register, Close, in this order.
type Services struct {
	client *clientv3.Client
}

// New returns services that ask over conn, which stays the caller's. Nothing is asked before somebody calls.
func New(conn grpc.ClientConnInterface) *Services {
	c := clientv3.NewCtxClient(context.Background())
	c.KV = clientv3.NewKVFromKVClient(etcdserverpb.NewKVClient(conn), c)
	c.Lease = clientv3.NewLeaseFromLeaseClient(etcdserverpb.NewLeaseClient(conn), c, time.Second)
	c.Watcher = clientv3.NewWatchFromWatchClient(etcdserverpb.NewWatchClient(conn), c)
	return &Services{client: c}
}

// Register adds the services to s.
func (r *Services) Register(s grpc.ServiceRegistrar) {
	v3lockpb.RegisterLockServer(s, lock{LockServer: v3lock.NewLockServer(r.client)})
	v3electionpb.RegisterElectionServer(s, election{ElectionServer: v3election.NewElectionServer(r.client)})
}

// Close ends what is still under way.
func (r *Services) Close() error {
	return errors.Join(r.client.Watcher.Close(), r.client.Lease.Close())
}

// passedOn is what a caller says of itself.
var passedOn = []string{rpctypes.TokenFieldNameGRPC, "authorization", rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataClientAPIVersionKey}

// asCaller makes what is asked with the context the caller's. Watches share a stream only with those of callers who have said the same.
func asCaller(ctx context.Context) context.Context {
	md := metadata.MD{}
	for _, key := range passedOn {
		if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
			md[key] = v
		}
	}
	return metadata.NewOutgoingContext(ctx, md)
}

type lock struct{ v3lockpb.LockServer }

func (l lock) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	return l.LockServer.Lock(asCaller(ctx), r)
}

func (l lock) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	return l.LockServer.Unlock(asCaller(ctx), r)
}

type election struct{ v3electionpb.ElectionServer }

func (e election) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	return e.ElectionServer.Campaign(asCaller(ctx), r)
}

func (e election) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	return e.ElectionServer.Proclaim(asCaller(ctx), r)
}

func (e election) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	return e.ElectionServer.Leader(asCaller(ctx), r)
}

func (e election) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	return e.ElectionServer.Resign(asCaller(ctx), r)
}

func (e election) Observe(r *v3electionpb.LeaderRequest, s v3electionpb.Election_ObserveServer) error {
	return e.ElectionServer.Observe(r, observer{Election_ObserveServer: s, ctx: asCaller(s.Context())})
}

// observer is a stream with the caller's context.
type observer struct {
	v3electionpb.Election_ObserveServer
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (o observer) Context() context.Context { return o.ctx }
