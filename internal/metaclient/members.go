package metaclient

import (
	"context"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// members changes who belongs to the cluster.
type members struct {
	calls *caller
	views *views
}

// Membership is the members as the meta group's leader has them.
type Membership struct {
	Members []shard.Member // by id, those too that are leaving
	// Replicas are beside each member: how many are placed on it, that of the meta group too.
	Replicas []int
	// Changed is the member that was added or changed; 0: none was.
	Changed shard.NodeID
}

// ChangeMember decides a change of the members, and returns what they are then. Errors are those that package shard lists with Member; and
// shard.ErrUnimplemented where the cluster's version is too old, shard.ErrAmbiguous where it may have been decided.
func (m *members) ChangeMember(ctx context.Context, req *pb.ChangeMemberRequest) (Membership, error) {
	ms, err := toMembership(m.calls.one(ctx, &pb.PeerRequest{ChangeMember: req}, true, false))
	if err == nil {
		m.views.RefreshFunc(func(error) {}) // this node shall know whom it may now hear from
	}
	return ms, err
}

// Membership returns the members as they are now, and what is placed on them.
func (m *members) Membership(ctx context.Context) (Membership, error) {
	return toMembership(m.calls.one(ctx, &pb.PeerRequest{Members: &pb.MembersRequest{}}, false, false))
}

func toMembership(resp *pb.PeerResponse, err error) (Membership, error) {
	if err != nil {
		return Membership{}, err
	}
	in := resp.GetMembers()
	out := Membership{Members: pb.ToMembers(in.GetMembers()), Changed: shard.NodeID(in.GetId()), Replicas: make([]int, len(in.GetMembers()))}
	for i := range min(len(in.GetReplicas()), len(out.Replicas)) {
		out.Replicas[i] = int(in.Replicas[i])
	}
	return out, nil
}

// AnyMember is where the meta group may be as far as somebody knows who knows the members alone: each of them may know who leads it.
func AnyMember(members []shard.Member) shard.Descriptor {
	d := shard.Descriptor{ID: shard.MetaID}
	for i, m := range members {
		d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(i + 1), Node: m.ID})
	}
	return d
}
