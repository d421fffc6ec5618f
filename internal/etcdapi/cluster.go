package etcdapi

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// clusterServer is etcd's Cluster service.
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
	return &etcdserverpb.MemberListResponse{Header: s.header(), Members: toMembers(members)}, nil
}

// header has no revision, as in etcd: members have none.
func (s *clusterServer) header() *etcdserverpb.ResponseHeader {
	h := s.api.header(0)
	h.Revision = 0
	return h
}

func toMembers(members []shard.Member) []*etcdserverpb.Member {
	out := make([]*etcdserverpb.Member, len(members))
	for i, m := range members {
		out[i] = &etcdserverpb.Member{ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner}
	}
	return out
}

// change has a change of the members decided, and returns all of them.
func (s *clusterServer) change(ctx context.Context, kind shard.MemberChange, req *pb.ChangeMemberRequest) ([]*etcdserverpb.Member, *etcdserverpb.Member, error) {
	req.Change = uint32(kind)
	members, changed, err := s.api.cfg.Cluster.ChangeMember(ctx, req)
	if err != nil {
		return nil, nil, toRPC(err)
	}
	out := toMembers(members)
	i := slices.IndexFunc(out, func(m *etcdserverpb.Member) bool { return m.ID == uint64(changed) })
	if i < 0 { // it was removed
		return out, nil, nil
	}
	return out, out[i], nil
}

// MemberAdd lets a node belong to the cluster, which may start then.
func (s *clusterServer) MemberAdd(ctx context.Context, r *etcdserverpb.MemberAddRequest) (*etcdserverpb.MemberAddResponse, error) {
	members, added, err := s.change(ctx, shard.MemberAdd, &pb.ChangeMemberRequest{PeerUrls: r.PeerURLs, Learner: r.IsLearner})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.MemberAddResponse{Header: s.header(), Member: added, Members: members}, nil
}

// MemberRemove takes a member out of the cluster.
func (s *clusterServer) MemberRemove(ctx context.Context, r *etcdserverpb.MemberRemoveRequest) (*etcdserverpb.MemberRemoveResponse, error) {
	members, _, err := s.change(ctx, shard.MemberRemove, &pb.ChangeMemberRequest{Id: r.ID})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.MemberRemoveResponse{Header: s.header(), Members: members}, nil
}

// MemberUpdate gives a member other peer URLs.
func (s *clusterServer) MemberUpdate(ctx context.Context, r *etcdserverpb.MemberUpdateRequest) (*etcdserverpb.MemberUpdateResponse, error) {
	members, _, err := s.change(ctx, shard.MemberUpdate, &pb.ChangeMemberRequest{Id: r.ID, PeerUrls: r.PeerURLs})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.MemberUpdateResponse{Header: s.header(), Members: members}, nil
}

// MemberPromote makes a voting member of a learner.
func (s *clusterServer) MemberPromote(ctx context.Context, r *etcdserverpb.MemberPromoteRequest) (*etcdserverpb.MemberPromoteResponse, error) {
	members, _, err := s.change(ctx, shard.MemberPromote, &pb.ChangeMemberRequest{Id: r.ID})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.MemberPromoteResponse{Header: s.header(), Members: members}, nil
}
