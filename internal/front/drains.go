package front

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// drains marks members that are to be emptied, for whoever asks by HTTP.
type drains struct{ client *metaclient.Client }

var _ httpapi.Drainer = (*drains)(nil)

// Placement implements httpapi.Drainer.
func (d *drains) Placement(ctx context.Context, node string) (httpapi.Placement, error) {
	ms, err := d.client.Membership(ctx)
	if err != nil {
		return httpapi.Placement{}, httpError(err)
	}
	p, err := placementOf(ms, node)
	if err != nil {
		return p, httpError(err)
	}
	return d.held(ctx, p), nil
}

// heldAskedMax bounds the question what is on a node: without an answer all else is told.
const heldAskedMax = 2 * time.Second

// held adds what the planner knows of what is on a node.
func (d *drains) held(ctx context.Context, p httpapi.Placement) httpapi.Placement {
	ctx, cancel := context.WithTimeout(ctx, heldAskedMax)
	defer cancel()
	nodes, err := d.client.Holdings(ctx)
	if err != nil {
		return p
	}
	for _, n := range nodes {
		if n.NodeId == p.Node {
			p.Leads, p.Bytes = &n.Leads, &n.Bytes
		}
	}
	return p
}

// Drain implements httpapi.Drainer.
func (d *drains) Drain(ctx context.Context, node string, drain bool) (httpapi.Placement, error) {
	p, err := d.Placement(ctx, node)
	if err != nil {
		return p, err
	}
	change := shard.MemberUndrain
	if drain {
		change = shard.MemberDrain
	}
	ms, err := d.client.ChangeMember(ctx, &pb.ChangeMemberRequest{Change: uint32(change), Id: p.Node})
	if err != nil {
		return httpapi.Placement{}, httpError(err)
	}
	marked, err := placementOf(ms, shard.NodeID(p.Node).String())
	marked.Leads, marked.Bytes = p.Leads, p.Bytes
	return marked, httpError(err)
}

// placementOf finds a member by its name, or by its id in hexadecimal digits.
func placementOf(ms metaclient.Membership, node string) (httpapi.Placement, error) {
	id, err := strconv.ParseUint(node, 16, 64)
	for i, m := range ms.Members {
		if m.Name == node || err == nil && uint64(m.ID) == id {
			return httpapi.Placement{Node: uint64(m.ID), Name: m.Name, State: m.State.String(), Replicas: ms.Replicas[i]}, nil
		}
	}
	return httpapi.Placement{}, fmt.Errorf("%w: no member has the name or the id %q: see `client members`", shard.ErrInvalid, node)
}
