package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// clusterServer is etcd's Cluster service. Membership changes are not there yet.
type clusterServer struct {
	etcdserverpb.UnsafeClusterServer
	api *API
}

// MemberList lists the members.
func (s *clusterServer) MemberList(ctx context.Context, r *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	members, err := s.api.cfg.Cluster.Members(ctx, r.Linearizable)
	if err != nil {
		return nil, toRPC(err)
	}
	h := s.api.header(0)
	h.Revision = 0 // as in etcd: members have none
	resp := &etcdserverpb.MemberListResponse{Header: h}
	for _, m := range members {
		resp.Members = append(resp.Members, &etcdserverpb.Member{
			ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner,
		})
	}
	return resp, nil
}

// MemberAdd is not there yet.
func (s *clusterServer) MemberAdd(context.Context, *etcdserverpb.MemberAddRequest) (*etcdserverpb.MemberAddResponse, error) {
	return nil, errUnimplemented("adding a member")
}

// MemberRemove is not there yet.
func (s *clusterServer) MemberRemove(context.Context, *etcdserverpb.MemberRemoveRequest) (*etcdserverpb.MemberRemoveResponse, error) {
	return nil, errUnimplemented("removing a member")
}

// MemberUpdate is not there yet.
func (s *clusterServer) MemberUpdate(context.Context, *etcdserverpb.MemberUpdateRequest) (*etcdserverpb.MemberUpdateResponse, error) {
	return nil, errUnimplemented("updating a member")
}

// MemberPromote is not there yet.
func (s *clusterServer) MemberPromote(context.Context, *etcdserverpb.MemberPromoteRequest) (*etcdserverpb.MemberPromoteResponse, error) {
	return nil, errUnimplemented("promoting a member")
}
