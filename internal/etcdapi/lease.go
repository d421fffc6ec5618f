package etcdapi

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"pontoon/shard"
)

// leaseServer is etcd's Lease service.
type leaseServer struct {
	etcdserverpb.UnsafeLeaseServer
	api *API
}

func (s *leaseServer) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.api.cfg.LeaseTimeout)
}

// LeaseGrant creates a lease.
func (s *leaseServer) LeaseGrant(ctx context.Context, r *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	if err := s.api.door.LeaseGrant(r); err != nil {
		return nil, err
	}
	inner, cancel := s.within(ctx)
	defer cancel()
	l, err := s.api.cfg.Leases.Grant(inner, r.ID, r.TTL)
	if err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	return &etcdserverpb.LeaseGrantResponse{Header: s.api.header(l.Revision), ID: l.ID, TTL: l.TTL}, nil
}

// LeaseRevoke ends a lease and deletes its keys.
func (s *leaseServer) LeaseRevoke(ctx context.Context, r *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, error) {
	inner, cancel := s.within(ctx)
	defer cancel()
	if err := s.api.guard.lease(inner, r.ID, s.api.keysOf); err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	rev, err := s.api.cfg.Leases.Revoke(inner, r.ID)
	if err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	return &etcdserverpb.LeaseRevokeResponse{Header: s.api.header(rev)}, nil
}

// LeaseTimeToLive describes a lease; one that does not exist has TTL -1.
func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *etcdserverpb.LeaseTimeToLiveRequest) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	inner, cancel := s.within(ctx)
	defer cancel()
	var ids []int64 // whose keys must be seen
	if r.Keys {
		ids = []int64{r.ID}
	}
	if err := s.api.guard.seesLeases(inner, ids, s.api.keysOf); err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	l, err := s.api.cfg.Leases.TimeToLive(inner, r.ID, r.Keys)
	if errors.Is(err, shard.ErrLeaseNotFound) {
		return &etcdserverpb.LeaseTimeToLiveResponse{Header: s.api.header(l.Revision), ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	return &etcdserverpb.LeaseTimeToLiveResponse{
		Header: s.api.header(l.Revision), ID: r.ID, TTL: l.TTL, GrantedTTL: l.GrantedTTL, Keys: l.Keys,
	}, nil
}

// LeaseLeases lists all leases.
func (s *leaseServer) LeaseLeases(ctx context.Context, _ *etcdserverpb.LeaseLeasesRequest) (*etcdserverpb.LeaseLeasesResponse, error) {
	inner, cancel := s.within(ctx)
	defer cancel()
	ids, rev, err := s.api.cfg.Leases.List(inner)
	if err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	if err := s.api.guard.seesLeases(inner, ids, s.api.keysOf); err != nil {
		return nil, toRPCWithin(ctx, err)
	}
	resp := &etcdserverpb.LeaseLeasesResponse{Header: s.api.header(rev)}
	for _, id := range ids {
		resp.Leases = append(resp.Leases, &etcdserverpb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// LeaseKeepAlive renews leases, one answer per request in the order of the requests. The
// receiver is a goroutine of its own because Recv cannot be interrupted from here; it ends
// with the stream's context, that is when this function has returned.
func (s *leaseServer) LeaseKeepAlive(stream grpc.BidiStreamingServer[etcdserverpb.LeaseKeepAliveRequest, etcdserverpb.LeaseKeepAliveResponse]) error {
	ctx := stream.Context()
	stop := make(overSignal)
	if !s.api.endless.begin(stop) {
		return rpctypes.ErrGRPCStopped
	}
	defer s.api.endless.left(stop)
	reqs := make(chan *etcdserverpb.LeaseKeepAliveRequest)
	ended := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case reqs <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	guard := s.api.guardLeader(ctx)
	tick, stopTicks := guard.ticks()
	defer stopTicks()
	for {
		select {
		case r := <-reqs:
			if err := s.renew(ctx, r, stream); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return toRPC(err)
		case <-tick:
			if guard.lost(nil) {
				return guard.end
			}
		case <-stop:
			return rpctypes.ErrGRPCStopped
		case <-ctx.Done():
			return toRPC(ctx.Err())
		}
	}
}

// renew answers one keep-alive. Its header is that of the renewal, or older: were it taken after that,
// a client could see a lease alive at a revision at which it was revoked already.
func (s *leaseServer) renew(ctx context.Context, r *etcdserverpb.LeaseKeepAliveRequest, stream grpc.BidiStreamingServer[etcdserverpb.LeaseKeepAliveRequest, etcdserverpb.LeaseKeepAliveResponse]) error {
	inner, cancel := s.within(ctx)
	defer cancel()
	if err := s.api.guard.lease(inner, r.ID, s.api.keysOf); err != nil {
		return toRPCWithin(ctx, err)
	}
	resp := &etcdserverpb.LeaseKeepAliveResponse{Header: s.api.header(0), ID: r.ID}
	l, err := s.api.cfg.Leases.KeepAlive(inner, r.ID)
	switch {
	case errors.Is(err, shard.ErrLeaseNotFound):
		l.TTL = 0
	case err != nil:
		return toRPCWithin(ctx, err)
	default:
		s.api.figures.renewal()
	}
	if l.Revision > 0 {
		resp.Header.Revision = l.Revision
	}
	resp.TTL = l.TTL
	return stream.Send(resp)
}
