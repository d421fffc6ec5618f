package metaclient

import (
	"context"
	"errors"
	"fmt"

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

// ChangeMember decides a change of the members, and returns what they are then; a removal once no group would lose its majority with the member's node,
// which is often at once. Errors are those that package shard lists with Member; and
// shard.ErrUnimplemented where the cluster's version is too old, shard.ErrAmbiguous where it may have been decided. A removal is decided also where ctx
// ends the waiting, and goes on: whoever asks for it again waits again.
func (m *members) ChangeMember(ctx context.Context, req *pb.ChangeMemberRequest) (Membership, error) {
	ms, err := toMembership(m.calls.one(ctx, &pb.PeerRequest{ChangeMember: req}, true, false))
	if err == nil {
		m.views.RefreshFunc(func(error) {}) // this node shall know whom it may now hear from
	}
	if err == nil && shard.MemberChange(req.Change) == shard.MemberRemove {
		err = m.dispensable(ctx, shard.NodeID(req.Id))
	}
	return ms, err
}

// dispensable waits until no group needs a member that was removed, for as long as ctx lasts.
func (m *members) dispensable(ctx context.Context, member shard.NodeID) error {
	for {
		_, err := m.calls.one(ctx, &pb.PeerRequest{Members: &pb.MembersRequest{Dispensable: uint64(member)}}, false, true)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w: the removal of %v goes on, and groups still need the member", shard.GivenUp(ctx.Err()), member)
		case m.calls.ctx.Err() != nil || !errors.Is(err, shard.ErrTimeout) && !errors.Is(err, shard.ErrAmbiguous) && !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("%w: %v is removed: %w", shard.ErrAmbiguous, member, err)
		}
	}
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
